//! What can go wrong, each with what to check.

use std::io;

use writ_redirect::RedirectError;

use crate::cgroup::PodUid;

/// Why the redirection of a pod was not installed, or its volume not mounted.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The container's processes are not to be seen.
    #[error(
        "no process of the container is to be seen: check that writ-node has hostPID and that the pod's runtime runs containers as processes of this node"
    )]
    NotFound,
    /// The container's processes do not share one network namespace.
    #[error("the container's processes are in different network namespaces; none was touched")]
    Several,
    /// The container is in the node's network namespace, or in this program's.
    #[error("the container is in the network namespace of the node; it was not touched")]
    OfTheNode,
    /// A process of another pod is in the same network namespace.
    #[error("the network namespace is the pod {0}'s too; it was not touched")]
    Shared(PodUid),
    /// The folder with SPIRE's socket, as this program has it.
    #[error("the folder with SPIRE's socket {0}")]
    SocketFolder(&'static str),
    /// The kernel did not do what it should, or /proc does not say what it should.
    #[error(
        "{what}: {source}; check that writ-node has hostPID, its capabilities and no AppArmor profile"
    )]
    System {
        /// What was done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The rules could not be installed, or nobody waits for them.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The thread that does the work ended without a result.
    #[error("the working thread ended without a result")]
    Thread,
}

impl NodeError {
    /// One word, for metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Several => "SeveralNamespaces",
            Self::OfTheNode => "NamespaceOfTheNode",
            Self::Shared(_) => "NamespaceShared",
            Self::SocketFolder(_) => "SocketFolder",
            Self::System { .. } => "System",
            Self::Redirect(RedirectError::NobodyWaits(_)) => "NobodyWaits",
            Self::Redirect(_) => "Redirect",
            Self::Thread => "Thread",
        }
    }
}
