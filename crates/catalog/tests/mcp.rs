//! MCP messages against the documented example.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use alloy_primitives::U256;
use common::{example, request};
use writ_canonical::json::JsonLimits;
use writ_canonical::{mcp, sha256};
use writ_catalog::{BodyView, Intent, Kind, Protocol, Refusal};

const URL: &str = "http://tools.acme.example/mcp";
const JSON: (&str, &str) = ("content-type", "application/json");

fn classify(message: &str) -> Result<Intent, Refusal> {
    let catalog = example();
    let request = request("POST", URL, &[JSON]);
    let message = mcp::parse(message.as_bytes(), &JsonLimits::default()).unwrap();
    catalog.classify_mcp(
        catalog.destination(&request.host, request.port).unwrap(),
        &request,
        &message,
    )
}

fn call(tool: &str, arguments: &str) -> Result<Intent, Refusal> {
    classify(&format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    ))
}

#[test]
fn a_tool_call_is_named_with_its_amount_from_the_digits() {
    let intent = call("pay_invoice", r#"{"invoice":"R-1","total":{"value":1.10}}"#).unwrap();
    assert_eq!(
        (intent.kind, intent.capability.as_str(), intent.class),
        (Kind::Mcp, "invoices.pay", 2)
    );
    assert_eq!(intent.amount.unwrap().value, U256::from(110));
    assert_eq!(intent.resource.as_deref(), Some("R-1"));
    let digest =
        sha256(br#"{"arguments":{"invoice":"R-1","total":{"value":1.1}},"tool":"pay_invoice"}"#);
    assert_eq!(intent.params_digest, digest);
}

#[test]
fn the_id_of_a_message_does_not_change_the_params_digest_and_an_argument_does() {
    let digest = |id: u8, invoice: &str| {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"pay_invoice","arguments":{{"invoice":"{invoice}","total":{{"value":1}}}}}}}}"#
        );
        classify(&text).unwrap().params_digest
    };
    assert_eq!(digest(1, "a"), digest(2, "a"));
    assert_ne!(digest(1, "a"), digest(1, "b"));
}

#[test]
fn the_preset_names_the_base_methods() {
    for (message, capability) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#,
            "mcp.initialize",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "mcp.ping"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            "mcp.tools.list",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "mcp.notifications",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
            "mcp.notifications",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "mcp.response"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"doc:1"}}"#,
            "documents.read",
        ),
    ] {
        assert_eq!(
            classify(message).unwrap().capability,
            capability,
            "{message}"
        );
    }
}

#[test]
fn other_tools_and_methods_are_unlisted() {
    assert_eq!(
        call("delete_everything", "{}").unwrap_err().code(),
        "unlisted"
    );
    for method in [
        "prompts/list",
        "stream",
        "close",
        "response",
        "notifications",
        "tools/call2",
    ] {
        let refusal = classify(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#
        ))
        .unwrap_err();
        assert_eq!(
            (refusal.capability.as_str(), refusal.code()),
            ("unlisted", "unlisted"),
            "{method}"
        );
    }
}

#[test]
fn a_tool_call_without_its_amount_or_resource_is_denied() {
    assert_eq!(
        call("pay_invoice", r#"{"invoice":"R-1"}"#)
            .unwrap_err()
            .code(),
        "amount-missing"
    );
    assert_eq!(
        call("pay_invoice", r#"{"total":{"value":1}}"#)
            .unwrap_err()
            .code(),
        "resource-missing"
    );
    assert_eq!(
        call("pay_invoice", r#"{"invoice":{"a":1},"total":{"value":1}}"#)
            .unwrap_err()
            .code(),
        "resource-missing"
    );
    let refusal = call(
        "pay_invoice",
        r#"{"invoice":"R-1","total":{"value":"1e3"}}"#,
    )
    .unwrap_err();
    assert_eq!(
        (refusal.capability.as_str(), refusal.code()),
        ("invoices.pay", "amount-exponent")
    );
}

#[test]
fn the_endpoint_takes_messages_only_as_unencoded_json_posts() {
    let catalog = example();
    let message = mcp::parse(
        br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        &JsonLimits::default(),
    )
    .unwrap();
    let code = |method: &str, url: &str, fields: &[(&'static str, &str)]| {
        let request = request(method, url, fields);
        let destination = catalog.destination(&request.host, request.port).unwrap();
        catalog
            .classify_mcp(destination, &request, &message)
            .unwrap_err()
            .code()
    };
    assert_eq!(code("PUT", URL, &[JSON]), "mcp-expected");
    assert_eq!(
        code("POST", URL, &[("content-type", "text/plain")]),
        "mcp-expected"
    );
    assert_eq!(
        code("POST", URL, &[JSON, ("content-encoding", "gzip")]),
        "body-encoded"
    );
    assert_eq!(
        code("POST", "http://tools.acme.example/mcp/", &[JSON]),
        "unlisted"
    );
}

#[test]
fn plain_http_on_the_endpoint_opens_the_stream_or_ends_the_session_and_nothing_else() {
    let catalog = example();
    let classify = |method: &str, body: BodyView<'_>| {
        let request = request(method, URL, &[JSON]);
        let destination = catalog.destination(&request.host, request.port).unwrap();
        assert_eq!(catalog.protocol(destination, &request), Protocol::Mcp);
        catalog
            .classify(destination, &request, body)
            .map(|intent| intent.capability)
            .map_err(|r| r.code())
    };
    assert_eq!(
        classify("GET", BodyView::Bytes(b"")),
        Ok("mcp.stream".to_owned())
    );
    assert_eq!(
        classify("DELETE", BodyView::Bytes(b"")),
        Ok("mcp.close".to_owned())
    );
    assert_eq!(
        classify("POST", BodyView::Bytes(b"{}")),
        Err("mcp-expected")
    );
    assert_eq!(classify("GET", BodyView::Bytes(b"x")), Err("mcp-expected"));
    assert_eq!(classify("DELETE", BodyView::Unbound), Err("mcp-expected"));
}

#[test]
fn detectors_see_the_whole_message() {
    for message in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay_invoice","arguments":{"invoice":"R","total":{"value":1}},"_meta":{"n":"4111111111111111"}}}"#,
        r#"{"jsonrpc":"2.0","id":"4111111111111111","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":"4111111111111111"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"m":"4111111111111111"}}"#,
    ] {
        let intent = classify(message).unwrap();
        assert_eq!(
            (intent.class, intent.findings[0].rule.as_str()),
            (3, "payment-card"),
            "{message}"
        );
    }
}
