//! The mounts themselves, in a mount namespace that stands for a node's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use writ_node::NodeError;
use writ_node::csi::{InNode, Mount, Published, Target};

const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";

/// A node: the kubelet's folder and SPIRE's, and a process in the node's mount namespace.
struct Node {
    folder: tempfile::TempDir,
    process: Child,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kubelet/pods", "sockets", "csi"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        // Shared, as a node's mounts are; with no peer outside.
        let script = "mount --make-rshared / && echo ready && exec cat";
        let mut process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "root is needed");
        let node = Self { folder, process };
        fs::create_dir_all(node.volume()).unwrap();
        node
    }

    fn kubelet(&self) -> PathBuf {
        self.folder.path().join("kubelet")
    }

    /// SPIRE's folder.
    fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    /// The same in the node agent's container.
    fn sockets_of_the_agent(&self) -> PathBuf {
        self.folder.path().join("csi")
    }

    /// The volume's folder, as the kubelet makes it.
    fn volume(&self) -> PathBuf {
        self.kubelet()
            .join("pods")
            .join(UID)
            .join("volumes/kubernetes.io~csi/spire")
    }

    fn target(&self) -> Target {
        let path = self.volume().join("mount");
        Target::parse(&self.kubelet(), path.to_str().unwrap()).unwrap()
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/mnt", self.process.id()).into()
    }

    /// Does something in the node's mount namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.namespace()).unwrap();
        on_a_thread(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
            work()
        })
    }

    /// The options of what is mounted at the volume's place, or anywhere below the node's folders.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.process.id())).unwrap();
        let below = self.folder.path().to_str().unwrap().to_owned();
        let rows = table.lines().map(|row| row.split(' ').collect::<Vec<_>>());
        let ours = rows.filter(|row| row[4].starts_with(&below));
        ours.map(|row| format!("{} {}", row[4].strip_prefix(&below).unwrap(), row[5]))
            .collect()
    }

    fn mounted(&self) -> Vec<String> {
        let place = format!("/kubelet/pods/{UID}/volumes/kubernetes.io~csi/spire/mount");
        let mounts = self.mounts();
        for mount in &mounts {
            let (at, options) = mount.split_once(' ').unwrap();
            assert_eq!(at, place);
            let options: Vec<&str> = options.split(',').collect();
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(options.contains(&option), "{options:?}");
            }
        }
        mounts
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The node agent's container: a mount namespace of its own, with SPIRE's folder as a volume.
fn in_the_agents_container(node: &Node, work: impl FnOnce() + Send) {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        mount_bind(node.sockets(), node.sockets_of_the_agent()).unwrap();
        work();
    });
}

fn agent(node: &Node) -> InNode {
    InNode::new(
        node.namespace(),
        node.sockets_of_the_agent(),
        node.kubelet(),
    )
    .unwrap()
}

fn publish(agent: &InNode, target: &Target) -> Result<Published, NodeError> {
    on_a_thread(|| agent.publish(target))
}

fn unpublish(agent: &InNode, target: &Target) -> Result<(), NodeError> {
    on_a_thread(|| agent.unpublish(target))
}

/// Connects as a pod would.
fn connects(node: &Node) -> bool {
    let folder = node.volume().join("mount");
    node.inside(|| {
        // A socket's path may not be long. The thread has a working folder of its own.
        std::env::set_current_dir(folder).unwrap();
        UnixStream::connect("agent.sock").is_ok()
    })
}

#[test]
fn a_volume_has_spires_socket_and_is_mounted_once_and_goes_without_a_trace() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        let listener = UnixListener::bind(node.sockets().join("agent.sock")).unwrap();
        let agent = agent(&node);
        assert_eq!(publish(&agent, &node.target()).unwrap(), Published::Now);
        assert!(connects(&node));
        let file = node.volume().join("mount/other");
        let written = node.inside(|| File::create(file)).unwrap_err();
        assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(publish(&agent, &node.target()).unwrap(), Published::Before);
        assert_eq!(node.mounted().len(), 1);
        drop(listener);

        unpublish(&agent, &node.target()).unwrap();
        assert_eq!(node.mounts(), Vec::<String>::new());
        assert!(!node.volume().join("mount").exists());
        unpublish(&agent, &node.target()).unwrap();
    });
}

#[test]
fn spires_agent_and_the_node_agent_may_start_anew_beneath_a_volume() {
    let node = Node::new();
    let socket = node.sockets().join("agent.sock");
    in_the_agents_container(&node, || {
        let listener = UnixListener::bind(&socket).unwrap();
        publish(&agent(&node), &node.target()).unwrap();
        drop(listener);
        fs::remove_file(&socket).unwrap();
        assert!(!connects(&node));
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(connects(&node));
    });
    // Another container, with another mount of the same folder.
    in_the_agents_container(&node, || {
        let agent = agent(&node);
        assert_eq!(publish(&agent, &node.target()).unwrap(), Published::Before);
        assert_eq!(node.mounted().len(), 1);
        unpublish(&agent, &node.target()).unwrap();
        assert_eq!(node.mounts(), Vec::<String>::new());
    });
}

#[test]
fn a_folder_that_was_replaced_is_told_of_and_the_new_one_takes_its_place() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        let agent = agent(&node);
        publish(&agent, &node.target()).unwrap();
        // As the node sees it; in the agent's container the mount stays.
        let sockets = node.sockets();
        node.inside(|| {
            fs::remove_dir(&sockets).unwrap();
            fs::create_dir(&sockets).unwrap();
        });
        let told = publish(&agent, &node.target()).unwrap_err();
        assert!(matches!(told, NodeError::SocketFolder(_)), "{told}");
        assert!(told.to_string().contains("restart"), "{told}");
    });
    in_the_agents_container(&node, || {
        let _listener = UnixListener::bind(node.sockets().join("agent.sock")).unwrap();
        let agent = agent(&node);
        assert_eq!(publish(&agent, &node.target()).unwrap(), Published::Now);
        assert_eq!(node.mounted().len(), 1);
        assert!(connects(&node));
    });
}

#[test]
fn no_link_leads_to_another_place() {
    let node = Node::new();
    let elsewhere = node.folder.path().join("elsewhere");
    let replace = |path: &Path, with: &Path| {
        fs::remove_dir_all(path).unwrap();
        symlink(with, path).unwrap();
    };
    in_the_agents_container(&node, || {
        let agent = agent(&node);
        let pod = node.kubelet().join("pods").join(UID);
        for (path, below) in [
            (pod.clone(), "volumes/kubernetes.io~csi/spire"),
            (pod.join("volumes"), "kubernetes.io~csi/spire"),
            (pod.join("volumes/kubernetes.io~csi"), "spire"),
            (node.volume(), ""),
            (node.volume().join("mount"), ""),
        ] {
            fs::create_dir_all(node.volume().join("mount")).unwrap();
            fs::create_dir_all(elsewhere.join(below).join("mount")).unwrap();
            replace(&path, &elsewhere);
            let refused = publish(&agent, &node.target()).unwrap_err();
            assert!(matches!(refused, NodeError::System { .. }), "{refused}");
            assert_eq!(node.mounts(), Vec::<String>::new(), "{}", path.display());
            unpublish(&agent, &node.target()).unwrap_err();
            assert!(elsewhere.join(below).join("mount").exists());
            fs::remove_file(&path).unwrap();
            fs::remove_dir_all(&elsewhere).unwrap();
        }
    });
}

#[test]
fn a_mount_that_is_not_confined_is_not_given_to_pods() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        let agent = agent(&node);
        mount_remount(
            node.sockets_of_the_agent(),
            MountFlags::BIND | MountFlags::RDONLY,
            "",
        )
        .unwrap();
        let refused = publish(&agent, &node.target()).unwrap_err();
        assert!(matches!(refused, NodeError::SocketFolder(_)), "{refused}");
        assert_eq!(node.mounts(), Vec::<String>::new());
    });
}

#[test]
fn a_mount_at_the_volumes_place_that_may_be_written_through_is_replaced() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        let place = node.volume().join("mount");
        fs::create_dir(&place).unwrap();
        node.inside(|| mount_bind(node.sockets(), &place).unwrap());
        assert_eq!(
            publish(&agent(&node), &node.target()).unwrap(),
            Published::Now
        );
        assert_eq!(node.mounted().len(), 1);
    });
}

#[test]
fn a_folder_that_is_no_volume_of_the_agents_is_refused_at_the_start() {
    let node = Node::new();
    let refused = InNode::new(
        node.namespace(),
        node.sockets_of_the_agent(),
        node.kubelet(),
    )
    .unwrap_err();
    assert!(refused.to_string().contains("volume"), "{refused}");
}

#[test]
fn a_pod_that_went_has_nothing_to_mount_on_and_nothing_to_unmount() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        let agent = agent(&node);
        fs::remove_dir_all(node.kubelet().join("pods").join(UID)).unwrap();
        publish(&agent, &node.target()).unwrap_err();
        unpublish(&agent, &node.target()).unwrap();
    });
}

#[test]
fn what_the_kubelet_has_in_the_folder_is_not_removed() {
    let node = Node::new();
    in_the_agents_container(&node, || {
        fs::create_dir_all(node.volume().join("mount")).unwrap();
        fs::write(node.volume().join("mount/kept"), "kept").unwrap();
        unpublish(&agent(&node), &node.target()).unwrap_err();
        assert!(node.volume().join("mount/kept").exists());
    });
}
