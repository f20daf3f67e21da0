//! `Chain`: looked at every few seconds; on a development chain, its contracts are deployed.

mod controller;
pub mod core;
mod link;

pub use controller::run;
pub use link::{Link, manifest};
