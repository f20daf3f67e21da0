//! Loading never panics, and what loads has one hash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_catalog::Catalog;

fuzz_target!(|text: &str| {
    if let Ok(catalog) = Catalog::from_yaml(text) {
        assert_eq!(Catalog::from_yaml(text).map(|c| c.hash()).ok(), Some(catalog.hash()));
        assert!(catalog.capabilities().all(|c| c != "unlisted"));
    }
});
