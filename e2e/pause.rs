//! Holds a pod's namespaces: waits, and does nothing else.
fn main() {
    loop {
        std::thread::park();
    }
}
