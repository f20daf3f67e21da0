//! What a PEP is set up with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use writ_sae::{ChainVerifier, Kind, ReplayStore, lifetime};

use crate::catalogs::Catalogs;
use crate::state::CallerState;

/// Everything a [`crate::Pep`] relies on.
pub struct PepConfig {
    /// The PEP's own names: its SPIFFE ID, and its authority where envelopes are addressed to
    /// that. Never taken from a request.
    pub audience: Vec<String>,
    /// Kinds of action that it serves.
    pub kinds: Vec<Kind>,
    /// Tolerated clock skew, at most 60 s.
    pub skew: Duration,
    /// Whether envelopes must be bound to their connection.
    pub binding: Binding,
    /// Bits of obligations that this PEP, or what stands behind it, fulfils.
    pub obligations: u32,
    /// How long to wait for a block that the sender has seen already: 250 ms.
    pub block_wait: Duration,
    /// How many blocks an envelope's block may be behind the PEP's head.
    pub max_block_lag: u64,
    /// Trust bundles.
    pub chains: Arc<dyn ChainVerifier>,
    /// Chain state by the caller's trust domain (`example.org`).
    pub trust_domains: BTreeMap<String, Arc<dyn CallerState>>,
    /// Catalogs of admitted callers.
    pub catalogs: Arc<dyn Catalogs>,
    /// Used envelopes. Replicas that share an audience need one store together, or
    /// [`Binding::Required`].
    pub replay: Arc<dyn ReplayStore>,
}

/// Whether `ctx.cb` must be there. Where it is, it must match either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Every envelope must be bound to its connection; a local replay store is enough then.
    Required,
    /// An unbound envelope passes.
    Optional,
}

/// A configuration that would not be safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No envelope could be addressed to it.
    #[error("audience is empty: name the PEP's SPIFFE ID")]
    NoAudience,
    /// It would refuse everything.
    #[error("kinds is empty or names a kind that travels without HTTP")]
    Kinds,
    /// Replays are remembered for 60 s of skew at most.
    #[error("skew is {0} s; at most 60 s can be tolerated")]
    Skew(u64),
}

impl PepConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.audience.is_empty() {
            return Err(ConfigError::NoAudience);
        }
        if self.kinds.is_empty() || !self.kinds.iter().all(|kind| kind.over_http()) {
            return Err(ConfigError::Kinds);
        }
        if self.skew.as_secs() > lifetime::MAX_SKEW {
            return Err(ConfigError::Skew(self.skew.as_secs()));
        }
        Ok(())
    }
}
