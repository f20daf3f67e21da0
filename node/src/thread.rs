//! Work that leaves its thread in another namespace.

use tokio::sync::oneshot;

use crate::NodeError;

/// Does `work` on a thread of its own that ends with it: it may be in another namespace then. It keeps
/// `permit` also when nobody waits for it any more.
///
/// # Errors
/// The work's own; or there was no thread, or it ended without a result.
pub(crate) async fn of_its_own<T: Send + 'static>(
    name: &str,
    permit: impl Send + 'static,
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let (sender, outcome) = oneshot::channel();
    let work = move || {
        let _permit = permit;
        let _ = sender.send(work());
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(|source| NodeError::System {
        what: "starting a thread".to_owned(),
        source,
    })?;
    outcome.await.unwrap_or(Err(NodeError::Thread))
}
