//! Every way past the sidecar that is known, tried by real programs in real network namespaces.
//! Each attempt works without the rules, which shows that the test would see it, and fails with
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod arrivals;
mod flows;
mod inside;
mod protocols;
mod users;

#[path = "../support/mod.rs"]
mod support;

use support::Pod;
use support::agent::{Confinement, PYTHON};
use support::wire::Wire;

/// A pod without rules, and a captured one.
struct Pods {
    open: Pod,
    captured: Pod,
}

impl Pods {
    fn new() -> Self {
        Self {
            open: Pod::new(),
            captured: Pod::captured(),
        }
    }

    /// Runs `script` in the pod without rules, where it must reach the wire, and in the captured
    /// one, where nothing may. Returns what it printed in the latter.
    fn only_without_rules(&self, confinement: Confinement, script: &str) -> String {
        let wire = Wire::watch(&self.open);
        let _ = self.open.agent_as(confinement, PYTHON, script);
        assert_ne!(
            wire.sent(),
            Vec::<String>::new(),
            "without rules this leaves the pod: {script}"
        );

        let wire = Wire::watch(&self.captured);
        let printed = self.captured.agent_as(confinement, PYTHON, script);
        assert_eq!(wire.sent(), Vec::<String>::new(), "{script}");
        printed
    }
}

/// One attempt in pods of its own.
fn only_without_rules(confinement: Confinement, script: &str) -> String {
    Pods::new().only_without_rules(confinement, script)
}
