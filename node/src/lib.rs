//! The node agent: does for pods what they may not do themselves. It installs the redirection, and it
//! brings SPIRE's socket. Each can be had without the other.
//!
//! ```text
//! watch of this node's pods ─▶ spec     is it one that the webhook made, and what is to be installed?
//!                              agent    once for each start of its init container, again while it fails
//!                              process  which network namespace is that container's?
//!                              enter    there: rules, read back, flows forgotten, the container told
//! kubelet, for a pod's volume ─▶ csi    the folder with SPIRE's socket, mounted in that pod's own folder
//! ```
//!
//! It is the most privileged program of the product, so it does as little as it can. It redirects pods
//! with the webhook's annotation alone, reads of them a closed list of values, takes every deviation
//! for a refusal, and enters no network namespace that is the node's or another pod's. It mounts one
//! folder, read-only, and nowhere but where the kubelet keeps pods' volumes.
#![forbid(unsafe_code)]

pub mod agent;
pub mod args;
pub mod cgroup;
pub mod csi;
pub mod enter;
mod error;
pub mod events;
mod metrics;
pub mod process;
pub mod run;
pub mod spec;
mod thread;

pub use error::NodeError;
pub use metrics::Metrics;
