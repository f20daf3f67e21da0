//! Every case in `tests/corpus/*.json`: bytes of an HTTP/1.1 head, and the canonical form or the code
//! of the refusal. The bytes go through `httparse`, the parser that hyper uses; what it already
//! refuses is expected as `http1-syntax`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeSet;

use common::{canonicalize_http1, canonicalize_http2};
use serde::Deserialize;
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    scheme: Scheme,
    http1: String,
    #[serde(default)]
    canonical: Option<Expected>,
    #[serde(default)]
    refused: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    method: String,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
    fields: Vec<(String, String)>,
}

fn cases() -> Vec<(String, Case)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut cases = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let parsed: Vec<Case> =
            serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        cases.extend(
            parsed
                .into_iter()
                .map(|case| (format!("{file}: {}", case.name), case)),
        );
    }
    assert!(
        cases.len() > 150,
        "the corpus is incomplete: {} cases",
        cases.len()
    );
    cases
}

#[test]
fn every_case_of_the_corpus_has_the_expected_form_or_refusal() {
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        let actual = canonicalize_http1(case.scheme, case.http1.as_bytes());
        match (&case.canonical, &case.refused) {
            (Some(expected), None) => {
                let expected = CanonicalRequest {
                    scheme: case.scheme,
                    method: expected.method.clone(),
                    host: expected.host.clone(),
                    port: expected.port,
                    path: expected.path.clone(),
                    query: expected.query.clone(),
                    fields: expected
                        .fields
                        .iter()
                        .map(|(n, v)| (n.clone(), v.clone().into_bytes()))
                        .collect(),
                };
                if actual.as_ref() != Ok(&expected) {
                    wrong.push(format!("{name}: {actual:?}"));
                }
            }
            (None, Some(code)) => {
                if actual.as_ref().map_err(String::as_str) != Err(code.as_str()) {
                    wrong.push(format!("{name}: expected {code}, got {actual:?}"));
                }
            }
            _ => wrong.push(format!("{name}: write either canonical or refused")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_accepted_is_forwarded_in_a_form_that_canonicalizes_to_itself() {
    for (name, case) in cases() {
        let Ok(first) = canonicalize_http1(case.scheme, case.http1.as_bytes()) else {
            continue;
        };
        let method = first.method.parse().unwrap();
        let again = canonicalize(
            RawHead {
                scheme: first.scheme,
                method: &method,
                authority: &first.authority(),
                path_and_query: &first.path_and_query(),
                headers: &first.header_map(),
            },
            &Limits::default(),
        );
        assert_eq!(again, Ok(first), "{name}");
    }
}

#[test]
fn accepted_requests_read_the_same_over_http2() {
    for (name, case) in cases() {
        if let Ok(first) = canonicalize_http1(case.scheme, case.http1.as_bytes()) {
            assert_eq!(canonicalize_http2(&first), Ok(first), "{name}");
        }
    }
}

#[test]
fn the_corpus_has_a_case_for_every_refusal_of_a_head() {
    let seen: BTreeSet<String> = cases()
        .into_iter()
        .filter_map(|(_, case)| case.refused)
        .collect();
    // `field-value` needs a library that hands over what httparse refuses; digests need a body.
    let elsewhere = [
        "field-value",
        "content-digest-form",
        "content-digest-mismatch",
    ];
    let source = include_str!("../src/refusal.rs");
    let codes = source
        .lines()
        .filter_map(|line| line.split("=> \"").nth(1))
        .filter_map(|rest| rest.split('"').next());
    let missing: Vec<&str> = codes
        .filter(|code| !seen.contains(*code) && !elsewhere.contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
