//! Checkpoints: no input panics, and none verifies under a key that did not sign it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_ledger::SignedHead;

// A well-formed verifier key name; its id is not that of its key, so it verifies nothing.
const KEY: &str = "writ.dev/log/aaaaaaaaaaaaaaaa+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = SignedHead::parse(data) {
        assert!(!signed.unverified().origin.is_empty());
        assert!(signed.verify(KEY).is_err());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(signed) = SignedHead::parse(
            b"writ.dev/log/aaaaaaaaaaaaaaaa\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nwrit-time 1\n\n\xe2\x80\x94 writ.dev/log/aaaaaaaaaaaaaaaa AAAAAAAA\n",
        )
    {
        assert!(signed.verify(text).is_err());
    }
});
