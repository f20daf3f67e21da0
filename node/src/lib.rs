//! The node agent: installs the redirection in pods that may not do it themselves.
//!
//! ```text
//! watch of this node's pods ─▶ spec     is it one that the webhook made, and what is to be installed?
//!                              agent    once for each start of its init container, again while it fails
//!                              process  which network namespace is that container's?
//!                              enter    there: rules, read back, flows forgotten, the container told
//! ```
//!
//! It is the most privileged program of the product, so it does as little as it can: it acts for pods
//! with the webhook's annotation alone, reads of them a closed list of values, takes every deviation
//! for a refusal, and enters no namespace that is the node's or another pod's.
#![forbid(unsafe_code)]

pub mod agent;
pub mod args;
pub mod cgroup;
pub mod enter;
mod error;
pub mod events;
mod metrics;
pub mod process;
pub mod run;
pub mod spec;

pub use error::NodeError;
pub use metrics::Metrics;
