//! Catalogs in `tests/golden/`: `accepted/*.yaml` load, `refused/*.yaml` name the code in their first
//! line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeSet;

use common::{example, example_text};
use proptest::prelude::*;
use writ_canonical::{json, sha256};
use writ_catalog::Catalog;

fn golden(kind: &str) -> Vec<(String, String)> {
    let folder = format!("{}/tests/golden/{kind}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

#[test]
fn accepted_catalogs_load_and_follow_the_schema() {
    let schema = jsonschema::validator_for(&Catalog::json_schema()).unwrap();
    let mut all = golden("accepted");
    assert!(all.len() >= 7);
    all.push(("docs/catalog.md".to_owned(), example_text()));
    for (name, text) in all {
        Catalog::from_yaml(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        if let Err(error) = schema.validate(&value) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn refused_catalogs_are_refused_for_the_stated_reason() {
    let all = golden("refused");
    assert!(all.len() >= 60, "{}", all.len());
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, text) in all {
        let expected = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# refused: ")
            .unwrap()
            .to_owned();
        match Catalog::from_yaml(&text) {
            Ok(_) => wrong.push(format!("{name}: loaded")),
            Err(error) if error.code() != expected => wrong.push(format!(
                "{name}: expected {expected}, got {}: {error}",
                error.code()
            )),
            Err(_) => {
                seen.insert(expected);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for code in [
        "catalog-yaml",
        "catalog-json",
        "catalog-schema",
        "catalog-version",
        "catalog-too-many",
        "catalog-invalid",
        "catalog-duplicate",
        "catalog-ambiguous",
        "catalog-contradiction",
        "catalog-unsupported",
    ] {
        assert!(seen.contains(code), "no golden catalog for {code}");
    }
}

#[test]
fn an_ambiguity_names_both_entries() {
    let text = golden("refused")
        .into_iter()
        .find(|(name, _)| name == "crossing-templates")
        .unwrap()
        .1;
    let message = Catalog::from_yaml(&text).unwrap_err().to_string();
    assert!(message.contains("entries a and b"), "{message}");
}

#[test]
fn a_schema_error_names_the_place() {
    let message =
        Catalog::from_yaml(&example_text().replace("class: restricted", "class: top-secret"))
            .unwrap_err()
            .to_string();
    assert!(message.contains("entries[2].class"), "{message}");
}

#[test]
fn the_committed_schema_is_fresh() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/schemas/catalog.schema.json"
    );
    let mut fresh = serde_json::to_string_pretty(&Catalog::json_schema()).unwrap();
    fresh.push('\n');
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        committed, fresh,
        "run the tests with UPDATE_SCHEMA=1 and commit docs/schemas/catalog.schema.json"
    );
}

#[test]
fn the_hash_is_that_of_the_canonical_json_and_ignores_layout() {
    let yaml = example_text();
    let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    let hash = example().hash();
    assert_eq!(hash, sha256(&json::to_jcs(&value)));
    assert_eq!(
        hash,
        Catalog::from_json(&serde_json::to_vec_pretty(&value).unwrap())
            .unwrap()
            .hash()
    );
    assert_eq!(
        hash,
        Catalog::from_yaml(&format!("# comment\n{yaml}"))
            .unwrap()
            .hash()
    );
    assert_ne!(
        hash,
        Catalog::from_yaml(&yaml.replace("window: 86400", "window: 3600"))
            .unwrap()
            .hash()
    );
}

#[test]
fn json_with_a_repeated_key_is_refused() {
    let error = Catalog::from_json(br#"{"version":1,"version":1,"name":"a","destinations":[]}"#)
        .unwrap_err();
    assert_eq!(error.code(), "catalog-json");
}

#[test]
fn an_empty_catalog_reaches_nothing() {
    let catalog = Catalog::from_json(br#"{"version":1,"name":"empty","destinations":[]}"#).unwrap();
    assert!(catalog.destination("a.example", 443).is_none());
    assert_eq!(catalog.capabilities().count() + catalog.names().count(), 0);
}

#[test]
fn a_catalog_over_its_size_is_refused() {
    let text = "#".repeat(1024 * 1024 + 1);
    assert_eq!(
        Catalog::from_yaml(&text).unwrap_err().code(),
        "catalog-too-large"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        let _ = Catalog::from_yaml(&text);
        let _ = Catalog::from_json(text.as_bytes());
    }

    #[test]
    fn damaged_examples_never_panic(at in 0usize..3000, insert in "[ -~\n]{0,6}") {
        let mut text = example_text();
        let at = text.char_indices().map(|(i, _)| i).nth(at % text.len()).unwrap_or(0);
        text.insert_str(at, &insert);
        let _ = Catalog::from_yaml(&text);
    }
}
