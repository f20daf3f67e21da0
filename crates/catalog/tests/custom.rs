//! Actions that the agent describes, against the documented example.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use alloy_primitives::U256;
use common::{example, request};
use writ_canonical::json::{JsonLimits, parse_strict};
use writ_canonical::sha256;
use writ_catalog::{Intent, Kind, Refusal};

fn classify(capability: &str, params: &str) -> Result<Intent, Refusal> {
    let catalog = example();
    let target = request("POST", "http://payments.acme.example:8080/payouts", &[]);
    let destination = catalog.destination(&target.host, target.port).unwrap();
    let value = parse_strict(params.as_bytes(), &JsonLimits::default()).unwrap();
    catalog.classify_custom(destination, &target, capability, &value, params)
}

#[test]
fn a_custom_action_is_found_by_destination_and_capability() {
    let params = r#"{"account":"DE-17","amount":"12.34","currency":"EUR"}"#;
    let intent = classify("payouts.sign", params).unwrap();
    assert_eq!(
        (intent.kind, intent.kind.as_str()),
        (Kind::Custom, "custom")
    );
    assert_eq!(intent.entry, "sign-payout");
    assert_eq!(intent.resource.as_deref(), Some("DE-17"));
    assert_eq!(intent.amount.unwrap().value, U256::from(1234));
    assert_eq!(intent.selected["/account"], "DE-17");
    let digested = format!(r#"{{"capability":"payouts.sign","params":{params}}}"#);
    assert_eq!(intent.params_digest, sha256(digested.as_bytes()));
}

#[test]
fn an_http_entrys_capability_is_no_custom_action() {
    let refusal = classify("payments.transfer", "{}").unwrap_err();
    assert_eq!(refusal.code(), "unlisted");
    assert_eq!(classify("unlisted", "{}").unwrap_err().code(), "unlisted");
}

#[test]
fn a_custom_action_without_what_its_entry_reads_is_refused() {
    for (params, code) in [
        (r#"{"account":"a","amount":"1"}"#, "require-mismatch"),
        (r#"{"amount":"1","currency":"EUR"}"#, "resource-missing"),
        (r#"{"account":"a","currency":"EUR"}"#, "amount-missing"),
        (
            r#"{"account":"a","amount":"-1","currency":"EUR"}"#,
            "amount-sign",
        ),
    ] {
        assert_eq!(classify("payouts.sign", params).unwrap_err().code(), code);
    }
}

#[test]
fn findings_in_the_params_raise_the_class() {
    let plain = r#"{"account":"a","amount":"1","currency":"EUR"}"#;
    let card = r#"{"account":"a","amount":"1","currency":"EUR","card":"5500005555555559"}"#;
    assert_eq!(classify("payouts.sign", plain).unwrap().class, 2);
    assert_eq!(classify("payouts.sign", card).unwrap().class, 3);
}
