//! Installs the rules in a pod's network namespace.

use nix::sched::{CloneFlags, setns};
use writ_redirect::{announce, apply};

use crate::NodeError;
use crate::process::{Namespace, Processes};
use crate::spec::Task;

/// Carries a task out. It may block, and it may leave its thread in another namespace.
pub trait Install: Send + Sync + 'static {
    /// Installs, and tells the waiting container.
    ///
    /// # Errors
    /// [`NodeError`]; it may be tried again.
    fn install(&self, task: &Task) -> Result<(), NodeError>;
}

/// Finds the container's network namespace, and installs there.
#[derive(Debug)]
pub struct InNamespace {
    /// What runs on this node.
    pub processes: Processes,
}

impl Install for InNamespace {
    fn install(&self, task: &Task) -> Result<(), NodeError> {
        let namespace = self.processes.namespace(&task.pod, &task.container)?;
        enter(&namespace)?;
        let applied = apply(&task.redirect)?;
        announce(&task.redirect)?;
        tracing::info!(
            pod = %task.pod, container = %task.container, v4 = ?applied.v4, v6 = ?applied.v6,
            "redirection installed"
        );
        Ok(())
    }
}

/// The calling thread, and what it starts, is in `namespace` from here on.
fn enter(namespace: &Namespace) -> Result<(), NodeError> {
    let failed = |source| NodeError::System {
        what: "entering the pod's network namespace".to_owned(),
        source,
    };
    setns(namespace.file(), CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    // Rules in another namespace would be the node's.
    if namespace.is_entered()? {
        Ok(())
    } else {
        Err(failed(std::io::Error::other(
            "the thread is in another one",
        )))
    }
}
