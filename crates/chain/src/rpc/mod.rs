//! Endpoints that answer JSON-RPC over HTTP. Nothing that they say is believed here; how much they say is bounded.

mod answer;
mod client;
mod endpoint;
mod proved;
mod record;

pub(crate) use client::http_client;
pub(crate) use endpoint::Endpoint;
pub use proved::AccountClaims;
pub(crate) use proved::{ProvedAccount, check, check_code};
pub(crate) use record::Record;

/// What went wrong with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.describe())]
pub struct EndpointError {
    /// The kind, as counted.
    pub kind: EndpointErrorKind,
    /// Short and printable.
    pub detail: String,
}

impl EndpointError {
    /// A failure of this kind.
    pub fn new(kind: EndpointErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

/// Kinds of failure, each counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum EndpointErrorKind {
    /// No connection, or it broke.
    Connect,
    /// No answer in time.
    Timeout,
    /// An HTTP status other than 200, redirects included.
    Status,
    /// HTTP 429 or 503.
    Throttled,
    /// A larger answer than accepted.
    TooLarge,
    /// Not JSON-RPC, not the expected type, or ambiguous.
    Malformed,
    /// An answer to another request.
    WrongId,
    /// A JSON-RPC error object.
    Rpc,
    /// The block is not there.
    NotFound,
    /// Another chain than configured.
    WrongChain,
    /// A header, proof or code that does not hash to what it must.
    Lied,
    /// Another block than the quorum has at that height.
    Disagreed,
}

impl EndpointErrorKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Connect,
        Self::Timeout,
        Self::Status,
        Self::Throttled,
        Self::TooLarge,
        Self::Malformed,
        Self::WrongId,
        Self::Rpc,
        Self::NotFound,
        Self::WrongChain,
        Self::Lied,
        Self::Disagreed,
    ];

    /// A stable kebab-case name, fit for a metric label.
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Throttled => "throttled",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::WrongId => "wrong-id",
            Self::Rpc => "rpc-error",
            Self::NotFound => "not-found",
            Self::WrongChain => "wrong-chain",
            Self::Lied => "lied",
            Self::Disagreed => "disagreed",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Connect => "could not be reached",
            Self::Timeout => "did not answer in time",
            Self::Status => "answered with an HTTP error",
            Self::Throttled => "throttles requests",
            Self::TooLarge => "answered with more than the configured limit",
            Self::Malformed => "answered with something other than JSON-RPC of the expected type",
            Self::WrongId => "answered to another request",
            Self::Rpc => "reported an error",
            Self::NotFound => "does not have it",
            Self::WrongChain => "is on another chain",
            Self::Lied => "served something that its proof does not support",
            Self::Disagreed => "serves another block than the quorum",
        }
    }
}
