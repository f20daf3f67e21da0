//! `AgentRevocation`: the guardian's transaction, followed until its block is final.

mod controller;
pub mod core;

pub use controller::{run, seen_on_chain};
