//! Decisions made on a real chain, kept with their witnesses: this build must decide the same from them.
//!
//! Each folder in `tests/golden` holds `registries.json`, `action.hex` (ABI), `witness.hex` and `decision.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use alloy_primitives::hex;
use writ_policy::{Action, Decision, Registries, Witness};

#[test]
fn golden_decisions_are_made_again_from_their_witnesses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for case in std::fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(case.join(file)).unwrap();
        let bytes = |file: &str| hex::decode(read(file).trim()).unwrap();
        let registries: Registries = serde_json::from_str(&read("registries.json")).unwrap();
        let expected: Decision = serde_json::from_str(&read("decision.json")).unwrap();
        let action = Action::from_abi(&bytes("action.hex")).unwrap();
        let encoded = bytes("witness.hex");
        let witness = Witness::from_bytes(&encoded).unwrap();
        assert_eq!(
            witness.to_bytes(),
            encoded,
            "{}: one witness has one encoding",
            case.display()
        );
        assert_eq!(
            witness.replay(&registries, &action).unwrap(),
            expected,
            "{}",
            case.display()
        );
        cases += 1;
    }
    assert_eq!(cases, 10);
}
