//! HTTP requests and opaque connections against the documented example.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use alloy_primitives::U256;
use common::{catalog, example, request};
use serde_json::json;
use writ_canonical::{content_digest, sha256};
use writ_catalog::{BodyView, Catalog, Intent, Kind, Refusal};

fn transfer(catalog: &Catalog, body: &str) -> Result<Intent, Refusal> {
    let request = request(
        "POST",
        "http://payments.acme.example:8080/v1/accounts/DE-17/transfers",
        &[("content-type", "application/json")],
    );
    let destination = catalog.destination(&request.host, request.port).unwrap();
    catalog.classify(destination, &request, BodyView::Bytes(body.as_bytes()))
}

fn amount(token: &str) -> Result<U256, String> {
    let body = format!(r#"{{"amount":{token},"currency":"EUR","to":"acct-2"}}"#);
    transfer(&example(), &body)
        .map(|intent| intent.amount.unwrap().value)
        .map_err(|r| r.code().to_owned())
}

fn code(result: Result<Intent, Refusal>) -> (String, String) {
    let refusal = result.unwrap_err();
    (refusal.capability.clone(), refusal.code().to_owned())
}

#[test]
fn a_transfer_is_named_with_resource_amount_class_and_selected_parameters() {
    let body = r#"{"currency":"EUR", "amount":"12.34", "to":"acct-2"}"#;
    let intent = transfer(&example(), body).unwrap();
    assert_eq!(
        (
            intent.kind,
            intent.entry.as_str(),
            intent.capability.as_str()
        ),
        (Kind::Http, "create-transfer", "payments.transfer")
    );
    assert_eq!((intent.class, intent.window, intent.risk), (2, 86_400, 20));
    assert_eq!(intent.resource.as_deref(), Some("DE-17"));
    let amount = intent.amount.unwrap();
    assert_eq!(
        (amount.value, amount.unit.as_str()),
        (U256::from(1234), "EUR")
    );
    assert_eq!(
        serde_json::Value::Object(intent.selected),
        json!({"/amount": "12.34", "/to": "acct-2"})
    );
    assert_eq!(
        intent.params_digest,
        sha256(br#"{"amount":"12.34","currency":"EUR","to":"acct-2"}"#)
    );
    assert!(intent.findings.is_empty());
}

#[test]
fn any_change_of_the_body_changes_the_params_digest() {
    let catalog = example();
    let digest = |body: &str| transfer(&catalog, body).unwrap().params_digest;
    let first = digest(r#"{"amount":"12.34","currency":"EUR","to":"acct-2"}"#);
    assert_eq!(
        first,
        digest(r#"{ "to":"acct-2", "currency":"EUR","amount":"12.34"}"#)
    );
    assert_ne!(
        first,
        digest(r#"{"amount":"12.35","currency":"EUR","to":"acct-2"}"#)
    );
    assert_ne!(
        first,
        digest(r#"{"amount":"12.34","currency":"EUR","to":"acct-3"}"#)
    );
    assert_ne!(
        first,
        digest(r#"{"amount":"12.34","currency":"EUR","to":"acct-2","x":1}"#)
    );
}

#[test]
fn amounts_are_exact_from_strings_and_from_number_tokens() {
    for (token, value) in [
        ("\"12.34\"", 1234),
        ("12.34", 1234),
        ("12.3", 1230),
        ("12", 1200),
        ("0", 0),
        ("0.01", 1),
        ("\"0.10\"", 10),
        ("1.10", 110),
        ("\"\\u0031\"", 100),
    ] {
        assert_eq!(amount(token), Ok(U256::from(value)), "{token}");
    }
    // 0.07 and 1.15 are the classics that binary arithmetic gets wrong.
    assert_eq!(amount("0.07"), Ok(U256::from(7)));
    assert_eq!(amount("1.15"), Ok(U256::from(115)));
    let large = "\"9007199254740993123456.78\"";
    assert_eq!(
        amount(large),
        Ok(U256::from_str_radix("900719925474099312345678", 10).unwrap())
    );
}

#[test]
fn every_other_amount_is_denied_with_its_own_reason() {
    let cases = [
        ("null", "amount-missing"),
        ("true", "amount-type"),
        ("{}", "amount-type"),
        ("[1]", "amount-type"),
        ("-1", "amount-sign"),
        ("\"-1\"", "amount-sign"),
        ("\"+1\"", "amount-sign"),
        ("-0", "amount-sign"),
        ("1e2", "amount-exponent"),
        ("\"1E2\"", "amount-exponent"),
        ("1.5e1", "amount-exponent"),
        ("\"\"", "amount-form"),
        ("\" 1\"", "amount-form"),
        ("\"1,00\"", "amount-form"),
        ("\"1.\"", "amount-form"),
        ("\".5\"", "amount-form"),
        ("\"01\"", "amount-form"),
        ("\"1_000\"", "amount-form"),
        ("\"0x10\"", "amount-form"),
        ("\"\u{0661}\"", "amount-form"),
        ("\"1.2.3\"", "amount-form"),
        ("\"e\"", "amount-exponent"),
        ("\"Infinity\"", "amount-form"),
        ("\"1.005\"", "amount-decimals"),
        ("0.001", "amount-decimals"),
        ("\"1234567890123456789012345678901\"", "amount-digits"),
        ("9007199254740993", "json-number-range"),
        ("0.1000000000000000055", "json-number-precision"),
    ];
    for (token, expected) in cases {
        assert_eq!(amount(token), Err(expected.to_owned()), "{token}");
    }
    let catalog = example();
    assert_eq!(
        code(transfer(&catalog, r#"{"currency":"EUR"}"#)).1,
        "amount-missing"
    );
    assert_eq!(
        code(transfer(
            &catalog,
            r#"{"amount":1,"amount":2,"currency":"EUR"}"#
        )),
        (
            "payments.transfer".to_owned(),
            "json-duplicate-key".to_owned()
        )
    );
}

#[test]
fn a_required_value_that_differs_is_denied() {
    let catalog = example();
    for body in [
        r#"{"amount":"1","currency":"BTC","to":"a"}"#,
        r#"{"amount":"1","to":"a"}"#,
        r#"{"amount":"1","currency":["EUR"]}"#,
    ] {
        assert_eq!(
            code(transfer(&catalog, body)).1,
            "require-mismatch",
            "{body}"
        );
    }
}

#[test]
fn a_body_that_cannot_be_read_is_denied() {
    let catalog = example();
    let url = "http://payments.acme.example:8080/v1/accounts/1/transfers";
    let classify = |fields: &[(&'static str, &str)], body| {
        let request = request("POST", url, fields);
        code(catalog.classify(
            catalog.destination(&request.host, request.port).unwrap(),
            &request,
            body,
        ))
        .1
    };
    let json = ("content-type", "application/json");
    assert_eq!(classify(&[json], BodyView::Bytes(b"")), "body-missing");
    assert_eq!(classify(&[json], BodyView::Unbound), "body-unbound");
    assert_eq!(
        classify(&[("content-type", "text/plain")], BodyView::Bytes(b"{}")),
        "body-not-json"
    );
    assert_eq!(classify(&[], BodyView::Bytes(b"{}")), "body-not-json");
    assert_eq!(
        classify(
            &[json, ("content-encoding", "gzip")],
            BodyView::Bytes(b"\x1f\x8b")
        ),
        "body-encoded"
    );
    assert_eq!(classify(&[json], BodyView::Bytes(b"{")), "json-syntax");
    assert_eq!(
        classify(&[json], BodyView::Bytes(&vec![b' '; 1024 * 1024 + 1])),
        "body-too-large"
    );
}

#[test]
fn what_no_entry_names_is_unlisted_and_denied() {
    let catalog = example();
    for (method, url) in [
        (
            "GET",
            "http://payments.acme.example:8080/v1/accounts/1/transfers",
        ),
        (
            "POST",
            "http://payments.acme.example:8080/v1/accounts/1/transfers/",
        ),
        (
            "POST",
            "http://payments.acme.example:8080/v1/accounts//transfers",
        ),
        (
            "POST",
            "http://payments.acme.example:8080/V1/accounts/1/transfers",
        ),
        (
            "GET",
            "http://payments.acme.example:8080/v1/reports?kind=other",
        ),
        (
            "GET",
            "http://payments.acme.example:8080/v1/reports?kind=daily&debug=1",
        ),
        ("GET", "http://payments.acme.example:8080/"),
    ] {
        let Some(request) = common::try_request(method, url, &[]) else {
            continue;
        };
        let destination = catalog.destination(&request.host, request.port).unwrap();
        let expected = ("unlisted".to_owned(), "unlisted".to_owned());
        assert_eq!(
            code(catalog.classify(destination, &request, BodyView::Bytes(b""))),
            expected,
            "{method} {url}"
        );
    }
    assert!(catalog.destination("other.example", 443).is_none());
    assert!(catalog.destination("payments.acme.example", 8081).is_none());
    assert!(catalog.destination("192.0.2.1", 8080).is_none());
}

#[test]
fn a_constrained_query_is_matched_once_decoded_and_never_in_two_ways() {
    let catalog = example();
    let classify = |query: &str| {
        let request = request(
            "GET",
            &format!("http://payments.acme.example:8080/v1/reports{query}"),
            &[],
        );
        catalog.classify(
            catalog.destination(&request.host, request.port).unwrap(),
            &request,
            BodyView::Bytes(b""),
        )
    };
    assert_eq!(classify("?kind=daily").unwrap().capability, "reports.read");
    assert_eq!(
        classify("?kind=%64aily&page=2").unwrap().capability,
        "reports.read"
    );
    assert_eq!(classify("?kind=audit").unwrap().capability, "reports.audit");
    for query in ["?kind=daily&kind=audit", "?kind=daily;kind=audit"] {
        assert_eq!(code(classify(query)).1, "query-ambiguous", "{query}");
    }
}

#[test]
fn a_request_without_json_is_bound_by_method_path_query_and_content() {
    let catalog = example();
    let request = request(
        "GET",
        "http://payments.acme.example:8080/v1/reports?kind=daily",
        &[],
    );
    let intent = catalog
        .classify(
            catalog.destination(&request.host, request.port).unwrap(),
            &request,
            BodyView::Bytes(b""),
        )
        .unwrap();
    use base64::Engine as _;
    let query = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha256(b"?kind=daily"));
    let expected = format!(
        r#"{{"content":"{}","method":"GET","path":"/v1/reports","query":"{query}"}}"#,
        content_digest(b"")
    );
    assert_eq!(intent.params_digest, sha256(expected.as_bytes()));
}

#[test]
fn an_encoded_character_cannot_slip_past_a_literal_segment() {
    let catalog = catalog(
        r#"
entries:
  - {name: any, destination: api, protocol: http, method: GET, path: "/u/{id}", capability: user.read, class: internal}
  - {name: admin, destination: api, protocol: http, method: GET, path: "/u/@admin", capability: admin.read, class: restricted}
"#,
    );
    for url in [
        "http://api.example:80/u/@admin",
        "http://api.example:80/u/%40admin",
        "http://api.example:80/u/%40%61dmin",
    ] {
        let request = request("GET", url, &[]);
        let intent = catalog
            .classify(
                catalog.destination(&request.host, request.port).unwrap(),
                &request,
                BodyView::Bytes(b""),
            )
            .unwrap();
        assert_eq!(intent.capability, "admin.read", "{url}");
    }
}

#[test]
fn an_opaque_connection_is_one_action_decided_on_its_name() {
    let catalog = example();
    let destination = catalog.destination("eu.mirror.example", 443).unwrap();
    let intent = catalog
        .classify_opaque(destination, "eu.mirror.example")
        .unwrap();
    assert_eq!(
        (intent.kind, intent.capability.as_str()),
        (Kind::Opaque, "mirror.download")
    );
    assert_eq!(
        intent.params_digest,
        sha256(br#"{"port":443,"sni":"eu.mirror.example"}"#)
    );
    assert_eq!(
        code(catalog.classify_opaque(destination, "mirror.example")).1,
        "protocol-mismatch"
    );
    assert_eq!(
        code(catalog.classify_opaque(destination, "evil.example")).1,
        "protocol-mismatch"
    );
    let payments = catalog.destination("payments.acme.example", 8080).unwrap();
    assert_eq!(
        code(catalog.classify_opaque(payments, "payments.acme.example")).1,
        "protocol-mismatch"
    );
    let request = request("GET", "https://eu.mirror.example/", &[]);
    assert_eq!(
        code(catalog.classify(destination, &request, BodyView::Bytes(b""))).1,
        "protocol-mismatch"
    );
}

#[test]
fn names_for_dns_cover_exact_hosts_and_wildcards_and_nothing_else() {
    let catalog = example();
    assert!(catalog.resolvable("payments.acme.example"));
    assert!(catalog.resolvable("a.b.mirror.example"));
    for name in [
        "mirror.example",
        "xmirror.example",
        "acme.example",
        "payments.acme.example.evil.example",
        "192.0.2.10",
    ] {
        assert!(!catalog.resolvable(name), "{name}");
    }
    assert!(
        catalog
            .names()
            .all(|name| name.parse::<std::net::IpAddr>().is_err())
    );
    assert!(catalog.destination("192.0.2.10", 9000).is_some());
}

#[test]
fn capabilities_are_listed_once_and_without_unlisted() {
    let catalog = example();
    let names: Vec<&str> = catalog.capabilities().collect();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        names.contains(&"payments.transfer")
            && names.contains(&"mcp.initialize")
            && !names.contains(&"unlisted")
    );
    assert!(
        catalog
            .windows()
            .any(|pair| pair == ("payments.transfer", 86_400))
    );
}
