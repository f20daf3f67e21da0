//! What can go wrong.

use writ_chain::ChainError;
use writ_identity::IdentityError;

/// Why a relay, a witness or a connection to one does not work.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The settings cannot work.
    #[error("relay settings: {0}")]
    Settings(String),
    /// No TLS settings, or no SVID that signs.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The chain's endpoints cannot be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The other side cannot be reached, or has another identity than configured.
    #[error(
        "{to} cannot be reached: {reason}; check its address, and that its SPIFFE ID is the configured one"
    )]
    Unreachable {
        /// Where it should be.
        to: String,
        /// What the transport said.
        reason: String,
    },
    /// The other side ended the stream, or refused it.
    #[error("{from} ended the stream: {reason}")]
    Ended {
        /// Where it is.
        from: String,
        /// What it said.
        reason: String,
    },
    /// The other side sent what the protocol does not allow.
    #[error("message breaks the protocol: {0}")]
    Protocol(&'static str),
    /// A head is not vouched for.
    #[error(transparent)]
    Unwitnessed(#[from] crate::Unwitnessed),
    /// A signature could not be made.
    #[error(transparent)]
    Signing(#[from] writ_sae::SignError),
    /// A port cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
}

impl From<RelayError> for tonic::Status {
    fn from(error: RelayError) -> Self {
        let text = error.to_string();
        match error {
            RelayError::Protocol(_) | RelayError::Settings(_) => Self::invalid_argument(text),
            RelayError::Chain(_) => Self::unavailable(text),
            _ => Self::internal("internal error"),
        }
    }
}
