//! Each stage of an action against its budget: p99, warm, one action at a time.
//!
//! | stage | required | ours |
//! |---|---|---|
//! | policy evaluation | 5 ms | 0.02 ms |
//! | sign | 2 ms | 0.05 ms |
//! | verify, with replay | 1 ms | 0.15 ms |
//! | anchoring, inline | 0 | 0 (it is on no request's path) |
//! | durable record | - | 1 ms |
//!
//! Criterion measures means; a budget is a p99. So every stage is also timed action by action, and
//! the distribution is written beside criterion's data, as `latency.json`. Run alone, on an idle
//! machine: `make bench`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

// The world of one tool and one agent that the PEP's own tests live in.
#[path = "../../crates/pep/tests/common/mod.rs"]
mod world;

mod append;
mod evaluate;
mod latency;
mod sign;
mod verify;

criterion::criterion_group!(
    stages,
    evaluate::stage,
    sign::stage,
    verify::stage,
    append::stage
);
criterion::criterion_main!(stages);
