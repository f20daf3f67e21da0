//! `writ`: deploys the contracts, compiles rules, reads and verifies the record.
#![forbid(unsafe_code)]

fn main() {}
