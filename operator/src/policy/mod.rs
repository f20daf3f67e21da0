//! `AgentPolicy`: from selector, rules and catalog to a contract in force and configured sidecars.
//!
//! ```text
//! pods, policies ─▶ select ─▶ salts ─▶ want ─▶ steps (chain) ─▶ standing ─▶ status
//!                                        └──▶ sidecar ─▶ ConfigMaps
//! ```

mod callers;
mod controller;
pub mod inventory;
pub mod network;
mod objects;
pub mod peers;
pub mod select;
pub mod sidecar;
pub mod standing;
pub mod steps;
mod stores;
pub mod want;

pub use callers::{Admitted, admitted};
pub use controller::run;
pub use stores::{Stores, watch};
