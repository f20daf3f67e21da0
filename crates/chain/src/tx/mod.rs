//! Transactions of the owners, the guardian and the approvers, and what the registries say.
//!
//! Owners change things through [`Governance`]; the guardian sends its calls directly, at once.

mod approval;
mod error;
mod governance;
mod key;
mod registry;
mod session;

pub use approval::{approval_id, sign_approval, submit_approval};
pub use error::TxError;
pub use governance::{Call, Governance, Progress, Proposal, Standing};
pub use key::KeyRef;
pub use registry::{
    AgentRecord, AgentState, PolicyState, PolicyVersion, agent, calls, pause_agent, pause_all,
    pause_policy, pin_catalog, policy, publish_policy, register_agents, reinstate, revoke,
    set_guardian, unpause_all, unpause_policy,
};
pub use session::Session;
