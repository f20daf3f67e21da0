//! The operator: carries out what the custom resources of `writ.dev` say.
//!
//! ```text
//! Chain            looked at; on a development chain: contracts deployed
//! AgentPolicy      rules ─▶ contract ─▶ multisig ─▶ timelock ─▶ in force; agents registered; sidecars configured
//! AgentRevocation  the guardian's transaction, followed until it is final
//! ```
//!
//! What is decided stands in pure functions (`chain::core`, `policy::{select, want, sidecar,
//! standing}`, `revocation::core`, `leader::step`); the rest carries it out. Every step looks at the
//! chain first, so a leader that dies in the middle is followed by one that goes on from there.

#![forbid(unsafe_code)]

pub mod args;
pub mod chain;
mod context;
mod error;
pub mod hooks;
pub mod keys;
pub mod leader;
mod metrics;
pub mod policy;
pub mod relay;
pub mod report;
pub mod revocation;
pub mod run;
pub mod salts;
pub mod witness;

pub use context::{Context, NetworkPolicies, RelayAt, Settings};
pub use error::OperatorError;
pub use metrics::Metrics;
