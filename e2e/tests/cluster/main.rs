//! What Writ does on a real cluster. `e2e/run` brings the cluster up and runs these.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod acting;
mod admission;
mod capture;
mod chart;
mod coverage;
mod disturbance;
mod guide;
mod lifecycle;
mod observing;
mod policies;
mod relayed;
