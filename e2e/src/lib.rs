//! Tests on a real cluster: real SPIRE, a real EVM node, the images that are shipped.
//!
//! [`play`] gives a test its [`Stage`]: two namespaces of its own, an agent registered on chain under
//! a policy of its own, and the configuration of both sidecars. What fails is told with the state
//! of every pod of the stage. `e2e/run` brings everything up and runs the tests in `tests/cluster`.
#![forbid(unsafe_code)]
// A test fails by panicking, and so does what sets its stage.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod chain;
mod diagnosis;
mod heads;
mod helm;
mod metrics;
mod part;
mod peers;
mod pods;
mod stage;
mod wait;
mod world;

pub use chain::Chain;
pub use heads::{Heads, now};
pub use helm::helm;
pub use metrics::{metric, sidecar_metric};
pub use part::Part;
pub use peers::{agent_pod, peer_pod};
pub use pods::{Pod, envelope, protected_header};
pub use stage::{By, Options, Stage};
pub use wait::{measured, until, until_within};
pub use world::{SYSTEM, TRUST_DOMAIN, World, play, play_alone, play_alone_with, play_with};
