//! What can go wrong, and when to try again.

use std::time::Duration;

use writ_chain::tx::TxError;

/// Why an object was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The API server refused, or did not answer.
    #[error("the Kubernetes API: {0}")]
    Kubernetes(#[from] Box<kube::Error>),
    /// A finalizer could not be put or taken.
    #[error("finalizer: {0}")]
    Finalizer(String),
    /// An endpoint failed, or a contract refused.
    #[error(transparent)]
    Chain(#[from] TxError),
    /// A key is named and cannot be used.
    #[error("{0}")]
    Key(String),
    /// The Chain object is not there, or not ready.
    #[error("{0}")]
    ChainNotReady(String),
    /// Salts could not be kept.
    #[error("salts: {0}")]
    Salts(String),
    /// An object lacks what the API server always gives it.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// A policy goes, and it cannot be paused.
    #[error("{0}")]
    CannotPause(String),
}

impl From<kube::Error> for OperatorError {
    fn from(error: kube::Error) -> Self {
        Self::Kubernetes(Box::new(error))
    }
}

impl OperatorError {
    /// One word, for metrics and events.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Kubernetes(error) if is_conflict(error) => "Conflict",
            Self::Kubernetes(_) => "KubernetesFailed",
            Self::Finalizer(_) => "FinalizerFailed",
            Self::Chain(error) => chain_cause(error),
            Self::Key(_) => "KeyUnusable",
            Self::ChainNotReady(_) => "ChainNotReady",
            Self::Salts(_) => "SaltsFailed",
            Self::Incomplete(_) => "Incomplete",
            Self::CannotPause(_) => "CannotPause",
        }
    }

    /// When to try again after `failures` failures in a row: soon where waiting helps, later where a
    /// person must change something.
    #[must_use]
    pub fn retry_after(&self, failures: u32) -> Duration {
        let (first, most) = match self.cause() {
            "Conflict" => (Duration::from_millis(200), Duration::from_secs(5)),
            "EndpointFailed" | "NotSeen" => (Duration::from_secs(1), Duration::from_secs(30)),
            "ChainNotReady" => (Duration::from_secs(2), Duration::from_secs(30)),
            "ContractRefused" | "KeyUnusable" | "CannotPause" | "Incomplete" => {
                (Duration::from_secs(10), Duration::from_secs(300))
            }
            _ => (Duration::from_secs(1), Duration::from_secs(60)),
        };
        first
            .saturating_mul(2_u32.saturating_pow(failures.min(16)))
            .min(most)
    }
}

/// One word for a failed transaction.
#[must_use]
pub fn chain_cause(error: &TxError) -> &'static str {
    match error {
        TxError::Endpoint { .. } | TxError::Client(_) => "EndpointFailed",
        TxError::NotSeen { .. } => "NotSeen",
        TxError::WrongChain { .. } => "WrongChain",
        TxError::Reverted { .. } | TxError::Failed { .. } => "ContractRefused",
        TxError::NoKey | TxError::NotOwner(_) => "KeyMissing",
        TxError::KeyReference | TxError::KeyUnreadable { .. } | TxError::KeyInvalid { .. } => {
            "KeyUnusable"
        }
        _ => "TransactionFailed",
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_must_change_is_tried_less_often_than_what_passes() {
        let endpoint = OperatorError::Chain(TxError::Endpoint {
            what: "reading",
            reason: "refused".to_owned(),
        });
        let refused = OperatorError::Chain(TxError::Reverted {
            what: "publishing",
            reason: "Unauthorized".to_owned(),
        });
        assert_eq!(endpoint.retry_after(0), Duration::from_secs(1));
        assert_eq!(endpoint.retry_after(40), Duration::from_secs(30));
        assert!(refused.retry_after(0) > endpoint.retry_after(0));
        assert_eq!(refused.retry_after(40), Duration::from_secs(300));
    }
}
