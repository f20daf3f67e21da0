//! Writ's admission webhook: puts the sidecar into agents' pods, and refuses pods in which it
//! could be got around.
//!
//! [`inject`] and [`validate`] are pure; everything that touches a socket, a file, a clock or the
//! Kubernetes API stands in the modules around them.
#![forbid(unsafe_code)]

pub mod args;
pub mod certs;
mod check;
pub mod choice;
mod inject;
pub mod known;
pub mod lookup;
pub mod metrics;
pub mod names;
pub mod overrides;
pub mod policies;
pub mod probes;
pub mod refusal;
pub mod review;
pub mod run;
pub mod scrapes;
pub mod server;
pub mod settings;
pub mod uid;
mod validate;

pub use inject::{inject, sidecar_uid};
pub use refusal::{Code, Refusal, Refusals};
pub use settings::Settings;
pub use validate::{validate, validate_update};
