//! What the chart's hooks run (`writ-hook`): custom resource definitions kept up to date, a test of the
//! installation, and a look around before it is removed.

mod crds;
mod test;
mod uninstall;

pub use crds::apply;
pub use test::{Probe, try_out};
pub use uninstall::{Release, check, stop};

/// Why a hook fails, in words for whoever runs helm.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// No client for the Kubernetes API.
    #[error("no Kubernetes API: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Client(String),
    /// The API server refused, or did not answer.
    #[error("{what}: {reason}")]
    Kubernetes {
        /// What was asked.
        what: String,
        /// What it said.
        reason: String,
    },
    /// A definition is not served, although it was applied.
    #[error("{0} is not served after {1} s; see kubectl describe crd {0}")]
    NotEstablished(String, u64),
    /// Something of the installation does not work.
    #[error("{0}")]
    NotWorking(String),
    /// Relays or witnesses are still there.
    #[error("relays and witnesses in {0} do not end: see kubectl get pods -n {0}, and try again")]
    NotEnded(String),
    /// Agents would be left.
    #[error("{0}")]
    AgentsLeft(String),
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> HookError {
    let what = what.into();
    move |error| HookError::Kubernetes {
        what,
        reason: error.to_string(),
    }
}
