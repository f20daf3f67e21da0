//! The Writ sidecar: captures a pod's traffic, decides every action, records it, signs it, and
//! verifies what arrives.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod body;
pub mod config;
pub mod dialer;
pub mod dns;
pub mod gate;
pub mod hello;
mod hops;
pub mod inbound;
pub mod init;
pub mod listen;
pub mod metrics;
pub mod names;
pub mod outbound;
pub mod parents;
pub mod probes;
pub mod problem;
pub mod relay;
pub mod run;
pub mod scrapes;
pub mod seen;
pub mod traces;
pub mod upstream;
pub mod validate;
