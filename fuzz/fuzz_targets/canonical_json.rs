//! Whatever is accepted has one canonical form, which is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_canonical::json::{JsonLimits, parse_strict, to_jcs};

fuzz_target!(|text: &[u8]| {
    let Ok(value) = parse_strict(text, &JsonLimits::default()) else { return };
    let canonical = to_jcs(&value);
    let limits = JsonLimits { max_bytes: usize::MAX, ..JsonLimits::default() };
    let again = parse_strict(&canonical, &limits).expect("the canonical form is strict JSON");
    assert_eq!(to_jcs(&again), canonical);
});
