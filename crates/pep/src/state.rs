//! What the PEP knows of the chain: its own proved state, never the sender's word.

use std::time::Duration;

use writ_policy::Registration;
use writ_sae::Claims;

use crate::BoxFuture;
use crate::catalogs::Classified;

/// Chain state for the callers of one trust domain: the chain and the registries that the PEP's
/// own configuration names, proved by the PEP's own reads.
pub trait CallerState: Send + Sync {
    /// EIP-155 id of the chain.
    fn chain_id(&self) -> u64;

    /// Number of the newest block known; `None` before the first.
    fn head(&self) -> Option<u64>;

    /// Waits until `block` is known, at most `within`, and says the newest block then.
    fn wait_for_block(&self, block: u64, within: Duration) -> BoxFuture<'_, Option<u64>>;

    /// What the registries say of the agent with this key. Pushed revocations count as revoked
    /// here until the chain confirms them; state beyond its greatest age is an error.
    fn registration(&self, agent_key: [u8; 32]) -> BoxFuture<'_, Result<CallerView, StateError>>;

    /// Whether an approval is open, and until when. The default can check none.
    fn approval<'a>(
        &'a self,
        approval: ApprovalUse<'a>,
    ) -> BoxFuture<'a, Result<ApprovalWindow, StateError>> {
        let _ = approval;
        Box::pin(async { Err(StateError::ApprovalsUnknown) })
    }
}

/// A caller's registration, and the block at which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerView {
    /// What the registries say.
    pub registration: Registration,
    /// Block number of the state.
    pub block: u64,
}

/// An approval as one envelope uses it.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalUse<'a> {
    /// Id of the approval.
    pub approval: [u8; 32],
    /// Key of the agent in the registry.
    pub agent_key: [u8; 32],
    /// Claims of the envelope, verified.
    pub claims: &'a Claims,
    /// The action as this PEP classified it.
    pub action: &'a Classified,
}

/// Whether an approval may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalWindow {
    /// Open until this time, unix seconds.
    Open {
        /// Its expiry.
        until: u64,
    },
    /// Unknown, used, withdrawn, expired, or for another action.
    Closed,
}

/// Why the state gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The newest state is older than allowed.
    #[error("the chain state is older than allowed; check the RPC endpoints")]
    Stale,
    /// The state cannot be read or proved.
    #[error("{0}")]
    Unavailable(String),
    /// This PEP has no approval registry.
    #[error("no approval registry is configured")]
    ApprovalsUnknown,
}
