//! The Writ sidecar: captures a pod's traffic, decides every action, records it, signs it, and
//! verifies what arrives.
#![forbid(unsafe_code)]

pub mod config;
pub mod dns;
pub mod init;
pub mod problem;
pub mod validate;
