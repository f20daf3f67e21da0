//! Admission reviews from anybody who reaches the port: no panic, no overflow, and whatever is
//! admitted is stable and valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_webhook::choice::Static;
use writ_webhook::review::{self, Covered};
use writ_webhook::settings::{FIRST_UID, Trust};
use writ_webhook::{Settings, inject, validate};

fuzz_target!(|data: &[u8]| {
    let Ok(request) = review::parse(data) else {
        return;
    };
    let settings = Settings::default();
    let choice = Static::new("writ-sidecar".to_owned(), Vec::new(), Vec::new(), Trust::Bundle);
    let mutated = review::mutate(&request, &settings, FIRST_UID + 1, &choice);
    assert!(mutated.response.allowed || !mutated.refusals.is_empty());
    review::encode(mutated).expect("an answer is JSON");
    for answer in [
        review::check(&request, &settings, &choice),
        review::warn(&request, &settings, &choice),
        review::connect(&request, Covered::Pod),
    ] {
        review::encode(answer).expect("an answer is JSON");
    }
    let object = request.object.and_then(|object| {
        let object = serde_json::to_value(object).ok()?;
        serde_json::from_value(object).ok()
    });
    let Some(Ok(injected)) = object.map(|pod| inject(pod, &settings)) else {
        return;
    };
    let again = inject(injected.clone(), &settings).expect("what was injected may be again");
    assert_eq!(again, injected);
    assert!(validate(&injected, &settings).is_empty());
});
