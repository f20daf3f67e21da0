//! The format's page says what the code does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/sae.md");

#[test]
fn the_page_names_every_code_that_a_vector_shows() {
    let file: Value = serde_json::from_str(include_str!("vectors/invalid.json")).unwrap();
    for vector in file["vectors"].as_array().unwrap() {
        let code = vector["refusal"].as_str().unwrap();
        assert!(PAGE.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn the_page_shows_the_published_vector() {
    let file: Value = serde_json::from_str(include_str!("vectors/valid.json")).unwrap();
    let vector = &file["vectors"][0];
    assert!(PAGE.contains(vector["compact"].as_str().unwrap()));
    assert!(PAGE.contains(vector["sae_hash"].as_str().unwrap()));
}
