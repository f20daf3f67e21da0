//! A certificate chain from a peer: never a panic, and nothing that no trusted CA signed passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_identity::TrustBundles;

fuzz_target!(|chain: Vec<Vec<u8>>| {
    let mut bundles = TrustBundles::new();
    if let Some(authority) = chain.last() {
        // Also as an authority, which is parsed the same way.
        let _ = bundles.insert("demo.writ", [authority.clone().into()]);
    }
    let _ = bundles.verify_chain(&chain, 1_800_000_000);
    assert!(TrustBundles::new().verify_chain(&chain, 1_800_000_000).is_err());
});
