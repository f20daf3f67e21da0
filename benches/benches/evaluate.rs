//! Policy evaluation: registry, registration, code hash and rules, in the EVM, on proved state.

use std::hint::black_box;
use std::path::Path;

use alloy_primitives::hex;
use criterion::Criterion;
use writ_policy::{Action, Registries, Witness, decide};

use crate::latency;

/// Budget: 5 ms required, 0.02 ms ours.
pub fn stage(c: &mut Criterion) {
    let mut group = c.benchmark_group("evaluate");
    for case in ["allowed", "amount-over-limit"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/policy/tests/golden");
        let read = |file: &str| std::fs::read_to_string(folder.join(case).join(file)).unwrap();
        let bytes = |file: &str| hex::decode(read(file).trim()).unwrap();
        let registries: Registries = serde_json::from_str(&read("registries.json")).unwrap();
        let action = Action::from_abi(&bytes("action.hex")).unwrap();
        let snapshot = Witness::from_bytes(&bytes("witness.hex"))
            .unwrap()
            .snapshot()
            .unwrap();
        let run = || {
            decide(black_box(&snapshot), &registries, black_box(&action)).unwrap();
        };
        group.bench_function(case, |b| b.iter(run));
        latency::keep(
            "evaluate",
            case,
            latency::time(latency::ACTIONS, || (), |()| run()),
        );
    }
    group.finish();
}
