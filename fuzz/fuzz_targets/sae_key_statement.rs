#![no_main]
//! A key statement that parses is no other token.

use libfuzzer_sys::fuzz_target;
use writ_sae::{Envelope, KeyStatement, Unverified};

fuzz_target!(|text: &str| {
    if Unverified::<KeyStatement>::parse(text).is_ok() {
        assert!(Unverified::<Envelope>::parse(text).is_err());
    }
});
