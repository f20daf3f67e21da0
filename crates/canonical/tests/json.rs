//! Strict JSON and RFC 8785.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use writ_canonical::json::{JsonLimits, parse_strict, to_jcs, token_at};
use writ_canonical::mcp::{self, Message};

fn code(text: &str) -> &'static str {
    parse_strict(text.as_bytes(), &JsonLimits::default())
        .unwrap_err()
        .code()
}

#[test]
fn the_published_vectors_of_rfc_8785_come_out_byte_for_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    // These carry numbers that the strict reader refuses; the serialiser still has to agree.
    let refused = [
        ("rfc_example", "json-number-range"),
        ("values", "json-number-range"),
    ];
    let mut count = 0;
    for file in std::fs::read_dir(format!("{folder}/input")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let input = std::fs::read(&path).unwrap();
        let expected = std::fs::read(format!("{folder}/output/{name}.json")).unwrap();
        let lenient: Value = serde_json::from_slice(&input).unwrap();
        assert_eq!(
            String::from_utf8(to_jcs(&lenient)).unwrap(),
            String::from_utf8(expected.clone()).unwrap(),
            "{name}"
        );
        match (
            parse_strict(&input, &JsonLimits::default()),
            refused.iter().find(|(n, _)| *n == name),
        ) {
            (Ok(value), None) => assert_eq!(to_jcs(&value), expected, "{name}"),
            (Err(error), Some((_, code))) => assert_eq!(error.code(), *code, "{name}"),
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
        count += 1;
    }
    assert!(count >= 8, "vectors are missing: {count}");
}

#[test]
fn the_number_vectors_of_rfc_8785_appendix_b_come_out_digit_for_digit() {
    let vectors: [(u64, &str); 12] = [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
    ];
    for (bits, expected) in vectors {
        assert_eq!(to_jcs(&json!(f64::from_bits(bits))), expected.as_bytes());
    }
}

#[test]
fn a_repeated_member_name_is_refused_at_any_depth() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"[{"x":{"a":1,"b":2,"a":3}}]"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(code(text), "json-duplicate-key", "{text}");
    }
}

#[test]
fn integers_beyond_two_to_the_53_are_refused() {
    assert!(
        parse_strict(
            b"[9007199254740991,-9007199254740991]",
            &JsonLimits::default()
        )
        .is_ok()
    );
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551615",
        "123456789012345678901234567890",
        "1e16",
        "-1e300",
        "9007199254740993.0",
    ] {
        assert_eq!(code(text), "json-number-range", "{text}");
    }
    assert_eq!(code("1e400"), "json-syntax");
}

#[test]
fn decimals_that_a_double_does_not_hold_are_refused() {
    for text in [
        "0.1",
        "1.50",
        "100.25",
        "-2.5e-3",
        "1E2",
        "0.000001",
        "5e-324",
        "0.30000000000000004",
        "-0",
        "0.0",
        "1e0",
    ] {
        assert!(
            parse_strict(text.as_bytes(), &JsonLimits::default()).is_ok(),
            "{text}"
        );
    }
    for text in [
        "0.1000000000000000055",
        "333333333.33333329",
        "0.30000000000000001",
        "[{\"a\":[1.00000000000000000001]}]",
        "1e-400",
    ] {
        assert_eq!(code(text), "json-number-precision", "{text}");
    }
}

#[test]
fn lone_surrogates_trailing_bytes_and_other_dialects_are_refused() {
    for text in [
        r#""\ud800""#,
        r#""\udc00x""#,
        "{} {}",
        "{}x",
        "[1,]",
        "{a:1}",
        "'a'",
        "// c\n1",
        "NaN",
        "Infinity",
        "01",
        "+1",
        ".5",
        "1.",
        "\u{feff}{}",
        "",
        "\"a\nb\"",
        "tru",
    ] {
        assert_eq!(code(text), "json-syntax", "{text:?}");
    }
    assert_eq!(
        parse_strict(b"\"\xff\"", &JsonLimits::default())
            .unwrap_err()
            .code(),
        "json-syntax"
    );
}

#[test]
fn size_depth_and_count_are_bounded() {
    let limits = JsonLimits {
        max_bytes: 64,
        max_depth: 3,
        max_values: 10,
    };
    let refused = |text: &str| parse_strict(text.as_bytes(), &limits).unwrap_err().code();
    assert!(parse_strict(b"[[[1]]]", &limits).is_ok());
    assert_eq!(refused("[[[[1]]]]"), "json-too-deep");
    assert_eq!(refused("[1,2,3,4,5,6,7,8,9,10,11]"), "json-too-many-values");
    assert_eq!(
        refused(&format!("\"{}\"", "a".repeat(80))),
        "json-too-large"
    );
    assert_eq!(code(&"[".repeat(100_000)), "json-too-deep");
}

#[test]
fn a_token_keeps_the_digits_that_a_double_loses() {
    let text = r#"{"a":{"b/c":[10.10, "x", 1.0]}}"#;
    assert_eq!(token_at(text, "/a/b~1c/0"), Some("10.10"));
    assert_eq!(token_at(text, "/a/b~1c/1"), Some("\"x\""));
    assert_eq!(token_at(text, "/a/b~1c/2"), Some("1.0"));
    for missing in [
        "/a/b",
        "/a/b~1c/3",
        "/a/b~1c/00",
        "/a/b~1c/-",
        "a",
        "/a/b~1c/0/x",
    ] {
        assert_eq!(token_at(text, missing), None, "{missing}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991i64..=9_007_199_254_740_991).prop_map(Value::from),
        (-1_000_000_000i64..1_000_000_000).prop_map(|n| {
            #[allow(clippy::cast_precision_loss)]
            let value = n as f64 / 1024.0;
            json!(value)
        }),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_form_is_accepted_and_is_its_own_canonical_form(value in value()) {
        let canonical = to_jcs(&value);
        let parsed = parse_strict(&canonical, &JsonLimits::default()).unwrap();
        prop_assert_eq!(to_jcs(&parsed), canonical);
    }

    #[test]
    fn white_space_and_member_order_do_not_change_the_canonical_form(value in value()) {
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(to_jcs(&parse_strict(&pretty, &JsonLimits::default()).unwrap()), to_jcs(&value));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse_strict(&bytes, &JsonLimits::default());
        let _ = mcp::parse(&bytes, &JsonLimits::default());
    }
}

fn message(text: &str) -> Result<Message, &'static str> {
    mcp::parse(text.as_bytes(), &JsonLimits::default()).map_err(|refusal| refusal.code())
}

#[test]
fn mcp_messages_are_told_apart() {
    let call = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"amount":1.10},"_meta":{}}}"#).unwrap();
    let Message::Request {
        tool: Some(tool), ..
    } = &call
    else {
        panic!("{call:?}")
    };
    assert_eq!(
        (tool.name.as_str(), tool.arguments_text.as_str()),
        ("pay", r#"{"amount":1.10}"#)
    );
    assert_eq!(call.id(), Some(&json!(1)));
    let bare =
        message(r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"pay"}}"#)
            .unwrap();
    let Message::Request {
        tool: Some(tool), ..
    } = bare
    else {
        panic!()
    };
    assert_eq!(tool.arguments_text, "{}");
    assert!(matches!(
        message(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        Ok(Message::Request { tool: None, .. })
    ));
    assert!(matches!(
        message(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        Ok(Message::Notification { .. })
    ));
    assert!(matches!(
        message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        Ok(Message::Response { .. })
    ));
    assert!(matches!(
        message(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#),
        Ok(Message::Response { .. })
    ));
}

#[test]
fn what_is_no_single_mcp_message_is_refused_with_its_reason() {
    let cases = [
        ("[]", "mcp-batch"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "mcp-batch"),
        ("1", "mcp-not-json-rpc"),
        (r#"{"id":1,"method":"ping"}"#, "mcp-not-json-rpc"),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            "mcp-not-json-rpc",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#,
            "mcp-not-json-rpc",
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, "mcp-shape"),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":1}"#,
            "mcp-shape",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":1}"#,
            "mcp-shape",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":1,"params":{}}"#,
            "mcp-shape",
        ),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "mcp-id"),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "mcp-id"),
        (r#"{"jsonrpc":"2.0","result":1}"#, "mcp-id"),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, "mcp-method"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a b"}"#, "mcp-method"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "mcp-method"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            "mcp-params",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            "mcp-tool-call",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#,
            "mcp-tool-call",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}"#,
            "mcp-tool-call",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#,
            "mcp-notification-form",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#,
            "mcp-notification-form",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping"}"#,
            "json-duplicate-key",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            "json-duplicate-key",
        ),
    ];
    for (text, code) in cases {
        assert_eq!(message(text).err(), Some(code), "{text}");
    }
}

#[test]
fn of_two_shortest_decimals_of_one_double_only_the_canonical_one_is_accepted() {
    let accepted: Vec<Vec<u8>> = [
        "2242222222222222.2",
        "2242222222222222.3",
        "22422222222222223e-1",
    ]
    .iter()
    .filter_map(|text| parse_strict(text.as_bytes(), &JsonLimits::default()).ok())
    .map(|value| to_jcs(&value))
    .collect();
    assert_eq!(accepted.len(), 1, "exactly one spelling of the double");
    let again = parse_strict(&accepted[0], &JsonLimits::default()).unwrap();
    assert_eq!(to_jcs(&again), accepted[0]);
}
