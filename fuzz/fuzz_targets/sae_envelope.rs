#![no_main]
//! Whatever is accepted as an envelope, denial or receipt has one form, and that form is the input.

use libfuzzer_sys::fuzz_target;
use writ_sae::{Denial, Envelope, ReceiptClaims, Unverified};

fuzz_target!(|text: &str| {
    let envelope = Unverified::<Envelope>::parse(text).map(|token| token.hash());
    let denial = Unverified::<Denial>::parse(text).map(|token| token.hash());
    let receipt = Unverified::<ReceiptClaims>::parse(text).map(|token| token.hash());
    let accepted: Vec<_> = [envelope, denial, receipt].into_iter().flatten().collect();
    assert!(accepted.len() <= 1, "no token is of two kinds");
    for hash in accepted {
        assert_eq!(hash, writ_sae::sae_hash(text));
    }
});
