//! What can go wrong between here and the chain.

use writ_policy::{EvalError, PolicyError};

use crate::head::HeadRefusal;
use crate::rpc::EndpointError;

/// Why the chain could not be read, or what was read was not accepted. None of these allows anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The configuration cannot work.
    #[error("chain configuration is wrong: {0}")]
    Config(String),
    /// TLS or the HTTP client could not be set up.
    #[error("HTTP client for the chain's endpoints could not be made: {0}")]
    Client(String),
    /// Too few endpoints agree on a block.
    #[error(
        "no {quorum} of {endpoints} endpoints agree on a block hash ({answered} answered); check that the endpoints are up, on the configured chain, and in sync"
    )]
    NoQuorum {
        /// How many must agree.
        quorum: usize,
        /// How many are configured.
        endpoints: usize,
        /// How many answered with a well-formed header.
        answered: usize,
    },
    /// The agreed head was refused.
    #[error(transparent)]
    Head(#[from] HeadRefusal),
    /// No endpoint gave an answer that its proof supports.
    #[error("no endpoint served provable {what}; the last one, {endpoint}, failed: {error}")]
    Unproved {
        /// What was asked for.
        what: String,
        /// The endpoint that was asked last.
        endpoint: String,
        /// What it answered.
        error: EndpointError,
    },
    /// A proof that was checked does not fit the snapshot.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The evaluation cannot go on, whatever state is fetched.
    #[error(transparent)]
    Evaluation(#[from] EvalError),
    /// No head was agreed on yet.
    #[error("no block of the chain is known yet; check the endpoints and the quorum")]
    NoHead,
    /// The newest block known is too old to decide on.
    #[error(
        "newest known block is {0} s old, more than configured; check the endpoints, the quorum and the clock"
    )]
    TooOld(u64),
    /// State outside the warm set did not arrive in time.
    #[error("chain state outside the warm set did not arrive within {0} ms")]
    ColdTimeout(u64),
    /// More state than one evaluation may read.
    #[error("{0} pieces of chain state are missing, more than one request may fetch ({1})")]
    TooManyKeys(usize, usize),
    /// A policy reads state that depends on what it read, without end.
    #[error(
        "evaluation still lacks state after {0} rounds of fetching; the policy contract reads without end"
    )]
    Endless(usize),
    /// The snapshot holds as much as it may.
    #[error(
        "snapshot holds {0} slots, as many as configured; it is rebuilt from the warm set at the next block"
    )]
    SnapshotFull(usize),
}

impl ChainError {
    /// A stable kebab-case code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "chain-config",
            Self::Client(_) => "chain-client",
            Self::NoQuorum { .. } => "chain-no-quorum",
            Self::Head(_) => "chain-head-refused",
            Self::Unproved { .. } => "chain-unproved",
            Self::Policy(_) => "chain-proof",
            Self::Evaluation(_) => "chain-evaluation",
            Self::NoHead => "chain-no-head",
            Self::TooOld(_) => "chain-state-too-old",
            Self::ColdTimeout(_) => "chain-cold-timeout",
            Self::TooManyKeys(..) => "chain-too-many-keys",
            Self::Endless(_) => "chain-endless",
            Self::SnapshotFull(_) => "chain-snapshot-full",
        }
    }
}
