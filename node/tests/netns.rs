//! The whole way in real network namespaces: a container without capabilities waits, its namespace is
//! found by its cgroup, the rules are installed there, and it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../crates/redirect/tests/support/mod.rs"]
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use support::{Namespace, PATIENCE, PEER_V4, Pod, SIDECAR};
use writ_node::NodeError;
use writ_node::cgroup::{ContainerId, PodUid};
use writ_node::enter::{InNamespace, Install};
use writ_node::process::Processes;
use writ_node::spec::Task;
use writ_redirect::{Redirect, RedirectError, await_announcement, observe};

const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";
const OTHER: &str = "ffffffff-0000-4000-8000-0123456789ab";
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn redirect() -> Redirect {
    Redirect::new(SIDECAR).unwrap()
}

fn task() -> Task {
    Task {
        pod: PodUid::parse(UID).unwrap(),
        container: ContainerId::parse(ID).unwrap(),
        redirect: redirect(),
    }
}

/// A /proc in which processes belong to pods. Their namespaces are the real ones.
struct Proc(tempfile::TempDir);

impl Proc {
    fn new() -> Self {
        let proc = Self(tempfile::tempdir().unwrap());
        // The node's first process is in the namespace of this test.
        proc.add(1, "/init.scope", Path::new("/proc/self/ns"));
        proc
    }

    fn add(&self, number: u32, cgroup: &str, namespaces: &Path) {
        let folder = self.0.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        symlink(namespaces, folder.join("ns")).unwrap();
    }

    fn contains(&self, child: &Child, pod: &str, container: &str) {
        let cgroup = format!("/../../pod{pod}/{container}");
        let namespaces = format!("/proc/{}/ns", child.id());
        self.add(child.id(), &cgroup, Path::new(&namespaces));
    }

    /// As the agent does it, on a thread that ends with it.
    fn install(&self) -> Result<(), NodeError> {
        let installer = InNamespace {
            processes: Processes::of(self.0.path()),
        };
        std::thread::spawn(move || installer.install(&task()))
            .join()
            .unwrap()
    }
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn inside_the_waiting_container() {
    let redirect = redirect();
    await_announcement(&redirect, PATIENCE).unwrap();
    observe(&redirect, *b"0123456789abcdef").unwrap();
}

/// This file's program, as a container without capabilities.
fn waiting(namespace: &Namespace) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=2147483647", "--regid=2147483647", "--clear-groups"])
        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inside_the_waiting_container"])
        .stdout(Stdio::null());
    namespace.enter(|| command.spawn().unwrap())
}

/// A process that only is there.
fn idle(namespace: &Namespace) -> Idle {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    Idle(namespace.enter(|| command.spawn().unwrap()))
}

struct Idle(Child);

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rules(namespace: &Namespace) -> String {
    namespace.run("iptables-save", "")
}

#[test]
fn a_waiting_container_without_capabilities_ends_when_its_namespace_was_found_and_captured() {
    let pod = Pod::new();
    let mut child = waiting(&pod.pod);
    let proc = Proc::new();
    proc.contains(&child, UID, ID);
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let give_up = Instant::now() + PATIENCE;
    loop {
        match proc.install() {
            Ok(()) => break,
            // It has only just started.
            Err(NodeError::Redirect(RedirectError::NobodyWaits(_))) if Instant::now() < give_up => {
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(child.wait().unwrap().success());
    assert!(
        !rules(&pod.peer).contains("WRIT_"),
        "no other namespace has rules"
    );
    pod.start_sidecar(&redirect());
    let printed = pod.agent(&format!("tcp('{PEER_V4}', 443)"));
    assert_eq!(printed, format!("15801 captured {PEER_V4}:443"));
}

#[test]
fn a_container_in_the_nodes_namespace_is_refused() {
    // As with hostNetwork: the child shares the namespace of the first process.
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let child = Idle(command.spawn().unwrap());
    let proc = Proc::new();
    proc.contains(&child.0, UID, ID);
    let refused = proc.install();
    assert!(matches!(refused, Err(NodeError::OfTheNode)), "{refused:?}");
}

#[test]
fn a_namespace_that_another_pod_is_in_too_is_refused() {
    let namespace = Namespace::new();
    let (one, two) = (idle(&namespace), idle(&namespace));
    let proc = Proc::new();
    proc.contains(&one.0, UID, ID);
    proc.contains(&two.0, OTHER, ID);
    let refused = proc.install();
    assert!(
        matches!(&refused, Err(NodeError::Shared(pod)) if pod.as_str() == OTHER),
        "{refused:?}"
    );
    assert!(!rules(&namespace).contains("WRIT_"));
}

#[test]
fn a_container_in_several_namespaces_is_refused() {
    let namespaces = [Namespace::new(), Namespace::new()];
    let processes = [idle(&namespaces[0]), idle(&namespaces[1])];
    let proc = Proc::new();
    for process in &processes {
        proc.contains(&process.0, UID, ID);
    }
    let refused = proc.install();
    assert!(matches!(refused, Err(NodeError::Several)), "{refused:?}");
    for namespace in &namespaces {
        assert!(!rules(namespace).contains("WRIT_"));
    }
}

#[test]
fn other_containers_and_other_pods_are_not_taken_for_the_one_that_waits() {
    let namespace = Namespace::new();
    let (same_pod, other_pod) = (idle(&namespace), idle(&namespace));
    let proc = Proc::new();
    proc.contains(&same_pod.0, UID, &ID.replace('0', "1"));
    proc.contains(&other_pod.0, OTHER, ID);
    let refused = proc.install();
    assert!(matches!(refused, Err(NodeError::NotFound)), "{refused:?}");
}

#[test]
fn the_processes_of_a_real_node_can_be_looked_through() {
    let task = task();
    let found = Processes::of("/proc").namespace(&task.pod, &task.container);
    assert!(matches!(found, Err(NodeError::NotFound)), "{found:?}");
}

#[test]
fn a_node_whose_first_process_cannot_be_seen_is_no_node_to_work_on() {
    let namespace = Namespace::new();
    let process = idle(&namespace);
    let proc = Proc(tempfile::tempdir().unwrap());
    proc.contains(&process.0, UID, ID);
    let refused = proc.install();
    assert!(
        matches!(refused, Err(NodeError::System { .. })),
        "{refused:?}"
    );
    assert!(!rules(&namespace).contains("WRIT_"));
}

#[test]
fn a_pod_that_waits_for_nothing_gets_its_rules_and_the_failure_is_told() {
    let pod = Pod::new();
    let process = idle(&pod.pod);
    let proc = Proc::new();
    proc.contains(&process.0, UID, ID);
    let told = proc.install().unwrap_err();
    assert_eq!(told.cause(), "NobodyWaits");
    assert!(rules(&pod.pod).contains("WRIT_"));
}
