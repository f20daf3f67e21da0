//! Content detectors (T-025).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{catalog, request, with_api};
use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use writ_catalog::detect::{Category, Detectors, RULESET, RULESET_SHA256};
use writ_catalog::{BodyView, Catalog, Class};

const ENTRY: &str = "entries:\n  - {name: post, destination: api, protocol: http, method: POST, path: /x, capability: api.post, class: CLASS}\n";

/// Test secrets are put together at run time, so that scanners of this repository stay quiet.
fn github_token() -> String {
    format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8")
}

fn rules(value: &serde_json::Value) -> Vec<(String, String)> {
    Detectors::new(&[])
        .unwrap()
        .json(value)
        .into_iter()
        .map(|f| (f.rule, f.location))
        .collect()
}

fn class_of(class: &str, body: &str) -> u8 {
    let catalog = catalog(&ENTRY.replace("CLASS", class));
    let request = request(
        "POST",
        "http://api.example/x",
        &[("content-type", "application/json")],
    );
    let destination = catalog.destination("api.example", 80).unwrap();
    catalog
        .classify(destination, &request, BodyView::Bytes(body.as_bytes()))
        .unwrap()
        .class
}

#[test]
fn the_rule_set_is_the_pinned_one() {
    let hash: String = Sha256::digest(RULESET)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        hash, RULESET_SHA256,
        "review the change of rules/detectors.yaml, then update the constant"
    );
}

#[test]
fn findings_raise_the_class_and_never_lower_it() {
    assert_eq!(class_of("public", r#"{"q":"weather"}"#), 0);
    assert_eq!(
        class_of("public", r#"{"q":"write to jane@example.com"}"#),
        2
    );
    assert_eq!(class_of("restricted", r#"{"q":"jane@example.com"}"#), 3);
    assert_eq!(class_of("restricted", r#"{"q":"weather"}"#), 3);
    assert_eq!(class_of("public", r#"{"q":"4111 1111 1111 1111"}"#), 3);
    assert_eq!(
        class_of("internal", r#"{"q":"DE89 3704 0044 0532 0130 00"}"#),
        3
    );
    assert_eq!(
        class_of("public", &format!(r#"{{"q":"{}"}}"#, github_token())),
        3
    );
}

#[test]
fn secrets_in_strings_numbers_names_path_and_query_are_found() {
    let token = github_token();
    assert_eq!(
        rules(&json!({"a": [{"b/c": token}]})),
        [("github-pat".to_owned(), "/a/0/b~1c".to_owned())]
    );
    assert_eq!(
        rules(&json!({"n": 4_111_111_111_111_111_u64})),
        [("payment-card".to_owned(), "/n".to_owned())]
    );
    let named = rules(&json!({ (token.clone()): {"x": 1} }));
    assert_eq!(named, [("github-pat".to_owned(), "/*".to_owned())]);
    let detectors = Detectors::new(&[]).unwrap();
    let request = request(
        "GET",
        &format!("http://api.example/{token}?k=5500005555555559"),
        &[],
    );
    let found: Vec<_> = detectors
        .request_line(&request)
        .into_iter()
        .map(|f| (f.rule, f.location))
        .collect();
    assert!(
        found.contains(&("github-pat".to_owned(), "path".to_owned()))
            && found.contains(&("payment-card".to_owned(), "query".to_owned())),
        "{found:?}"
    );
    assert_eq!(
        detectors.bytes(format!("a=b&t={token}").as_bytes())[0].category,
        Category::Secret
    );
}

#[test]
fn a_finding_never_carries_the_text() {
    let token = github_token();
    let findings = Detectors::new(&[])
        .unwrap()
        .json(&json!({ (token.clone()): [token.clone(), {"card": "4111111111111111"}] }));
    assert!(findings.len() >= 2);
    let shown = format!("{findings:?}");
    assert!(
        !shown.contains(&token) && !shown.contains("41111111"),
        "{shown}"
    );
}

#[test]
fn numbers_that_only_look_like_accounts_are_not_findings() {
    for text in [
        "4111 1111 1111 1112",
        "1732181234567",
        "1234567890123456",
        "DE89 3704 0044 0532 0130 01",
        "GB00 WEST 1234 5698 7654 32",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "12:30-14:00",
        "v1.2.3",
        "a@b",
        "user at example.com",
    ] {
        assert_eq!(rules(&json!([text])), [], "{text}");
    }
}

#[test]
fn known_accounts_and_people_are_findings() {
    for (text, rule) in [
        ("378282246310005", "payment-card"),
        ("6011111111111117", "payment-card"),
        ("3530111333300000", "payment-card"),
        ("5555-5555-5555-4444", "payment-card"),
        ("GB29NWBK60161331926819", "iban"),
        ("FR14 2004 1010 0505 0001 3M02 606", "iban"),
        ("123-45-6789", "us-social-security-number"),
        ("first.last+tag@mail.example.org", "email-address"),
        ("call +49 30 1234567 now", "phone-number"),
    ] {
        assert_eq!(
            rules(&json!([text])),
            [(rule.to_owned(), "/0".to_owned())],
            "{text}"
        );
    }
}

#[test]
fn a_catalog_can_pin_the_rule_set_and_switch_off_single_rules() {
    let entries = ENTRY.replace("CLASS", "public");
    let load = |settings: &str| {
        Catalog::from_yaml(&with_api(&format!("detectors: {settings}\n{entries}")))
    };
    let off = load("{disabled: [email-address]}").unwrap();
    let request = request(
        "POST",
        "http://api.example/x",
        &[("content-type", "application/json")],
    );
    let intent = off
        .classify(
            off.destination("api.example", 80).unwrap(),
            &request,
            BodyView::Bytes(br#"["jane@example.com"]"#),
        )
        .unwrap();
    assert_eq!(intent.class_name(), Class::Public);
    assert!(load(&format!("{{ruleset: \"{RULESET_SHA256}\"}}")).is_ok());
    assert_eq!(
        load("{ruleset: \"00\"}").unwrap_err().code(),
        "catalog-ruleset"
    );
    assert_eq!(
        load("{disabled: [no-such-rule]}").unwrap_err().code(),
        "catalog-invalid"
    );
}

#[test]
fn escapes_do_not_hide_content_in_bodies_of_other_types() {
    let catalog = catalog(&ENTRY.replace("CLASS", "public"));
    let class = |content_type: &str, body: &str| {
        let request = request(
            "POST",
            "http://api.example/x",
            &[("content-type", content_type)],
        );
        let destination = catalog.destination("api.example", 80).unwrap();
        catalog
            .classify(destination, &request, BodyView::Bytes(body.as_bytes()))
            .unwrap()
            .class
    };
    assert_eq!(class("text/plain", r#"{"a":"jane\u0040example.com"}"#), 2);
    assert_eq!(
        class("application/x-www-form-urlencoded", "a=jane%40example.com"),
        2
    );
    assert_eq!(class("text/plain", "jane@example.com"), 2);
    assert_eq!(class("text/plain", "nobody"), 0);
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic_and_never_lower_the_class(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let detectors = Detectors::new(&[]).unwrap();
        for finding in detectors.bytes(&body) {
            prop_assert!(finding.class >= Class::Confidential);
        }
    }
}
