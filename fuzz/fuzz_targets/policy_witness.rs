//! Witness bytes: parsed within bounds, re-encoded to the same bytes, proved and replayed without a crash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_policy::{Action, Address, Registries, Witness};

fuzz_target!(|bytes: &[u8]| {
    let Ok(witness) = Witness::from_bytes(bytes) else {
        return;
    };
    assert_eq!(witness.to_bytes(), bytes);
    let registries = Registries {
        chain_id: 84532,
        agents: Address::repeat_byte(0xa1),
        policies: Address::repeat_byte(0xb2),
    };
    // Whoever makes the bytes makes the block, too, so a decision is possible; a crash is not.
    let _ = witness.replay(&registries, &Action::default());
});
