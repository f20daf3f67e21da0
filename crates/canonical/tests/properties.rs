//! Properties of the canonical form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{canonicalize_http1, canonicalize_http2};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use writ_canonical::{Limits, RawHead, Scheme, canonicalize, decoded_segments, remove_excluded};

fn scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]
}

fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        Just("accept".to_owned()),
        Just("Cookie".to_owned()),
        Just("X-Forwarded-For".to_owned()),
        Just("content-type".to_owned()),
        "[A-Za-z][A-Za-z0-9-]{0,8}",
    ];
    (name, "[!-~]([ -~]{0,12}[!-~])?")
}

prop_compose! {
    fn http1_head()(
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE")],
        host in "[a-zA-Z]{1,8}(\\.[a-zA-Z]{2,5}){0,2}(:[1-9][0-9]{0,3})?",
        path in "(/([a-zA-Z0-9._~!$&'()*+,=:@-]|%[2-7][0-9a-fA-F]){0,6}){1,4}",
        query in proptest::option::of("([a-z=&/?+.]|%[2-7][0-9a-f]){0,12}"),
        fields in proptest::collection::vec(field(), 0..6),
    ) -> String {
        let query = query.map(|q| format!("?{q}")).unwrap_or_default();
        let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("{method} {path}{query} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
    }
}

proptest! {
    #[test]
    fn the_same_request_is_the_same_over_http1_and_http2(scheme in scheme(), head in http1_head()) {
        if let Ok(first) = canonicalize_http1(scheme, head.as_bytes()) {
            prop_assert_eq!(canonicalize_http2(&first), Ok(first));
        }
    }

    #[test]
    fn canonicalizing_twice_changes_nothing(scheme in scheme(), head in http1_head()) {
        if let Ok(first) = canonicalize_http1(scheme, head.as_bytes()) {
            let method: Method = first.method.parse().unwrap();
            let headers = first.header_map();
            let second = canonicalize(RawHead {
                scheme,
                method: &method,
                authority: &first.authority(),
                path_and_query: &first.path_and_query(),
                headers: &headers,
            }, &Limits::default());
            prop_assert_eq!(second.as_ref(), Ok(&first));
            prop_assert_eq!(second.unwrap().fields_digest(), first.fields_digest());
        }
    }

    #[test]
    fn an_accepted_path_has_one_spelling(path in "/[ -~]{0,24}") {
        let headers = HeaderMap::new();
        let raw = RawHead { scheme: Scheme::Https, method: &Method::GET, authority: "a.example", path_and_query: &path, headers: &headers };
        if let Ok(request) = canonicalize(raw, &Limits::default()) {
            let plain = |b: u8| b.is_ascii_graphic() && !b"\\;\"<>^`{|}".contains(&b);
            let spelled = request.path.bytes().all(plain);
            prop_assert!(spelled);
            prop_assert!(!request.path.contains("//"));
            for segment in decoded_segments(&request.path) {
                prop_assert!(segment != "." && segment != ".." && !segment.contains(['/', '\\', '%', '\0']));
            }
        }
    }

    #[test]
    fn arbitrary_input_never_panics(
        authority in ".{0,40}",
        path in ".{0,60}",
        names in proptest::collection::vec("[a-zA-Z_-]{1,20}", 0..6),
        value in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut headers = HeaderMap::new();
        for name in &names {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) {
                headers.append(name, value);
            }
        }
        let raw = RawHead { scheme: Scheme::Https, method: &Method::POST, authority: &authority, path_and_query: &path, headers: &headers };
        let _ = canonicalize(raw, &Limits::default());
    }

    #[test]
    fn removing_excluded_fields_does_not_change_the_digest(head in http1_head()) {
        if let Ok(first) = canonicalize_http1(Scheme::Https, head.as_bytes()) {
            let mut headers = first.header_map();
            headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
            headers.insert("sae", HeaderValue::from_static("a.b.c"));
            remove_excluded(&mut headers);
            prop_assert_eq!(headers, first.header_map());
        }
    }
}

#[test]
fn the_fields_digest_separates_names_values_and_lines() {
    let digest = |pairs: &[(&'static str, &'static str)]| {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect();
        let raw = RawHead {
            scheme: Scheme::Https,
            method: &Method::GET,
            authority: "a.example",
            path_and_query: "/",
            headers: &headers,
        };
        canonicalize(raw, &Limits::default())
            .unwrap()
            .fields_digest()
    };
    let distinct = [
        digest(&[]),
        digest(&[("a", "bc")]),
        digest(&[("ab", "c")]),
        digest(&[("a", "b"), ("c", "")]),
        digest(&[("a", "b")]),
    ];
    for (at, one) in distinct.iter().enumerate() {
        assert!(distinct[at + 1..].iter().all(|other| other != one));
    }
}

#[test]
fn the_fields_digest_is_as_documented() {
    let headers: HeaderMap = [(
        HeaderName::from_static("accept"),
        HeaderValue::from_static("*/*"),
    )]
    .into_iter()
    .collect();
    let raw = RawHead {
        scheme: Scheme::Https,
        method: &Method::GET,
        authority: "a.example",
        path_and_query: "/?x",
        headers: &headers,
    };
    let request = canonicalize(raw, &Limits::default()).unwrap();
    let input = b"writ-fields/1\0\0\0\0\x06accept\0\0\0\x03*/*";
    assert_eq!(request.fields_digest(), writ_canonical::sha256(input));
    assert_eq!(request.query_digest(), writ_canonical::sha256(b"?x"));
    assert_eq!(request.target_uri(), "https://a.example/");
}

#[test]
fn a_value_with_surrounding_space_is_refused_where_the_parser_lets_it_through() {
    // HTTP/2 has no optional white space around a value (RFC 9113 section 8.2.1).
    let headers: HeaderMap = [(
        HeaderName::from_static("x-a"),
        HeaderValue::from_static(" b"),
    )]
    .into_iter()
    .collect();
    let raw = RawHead {
        scheme: Scheme::Https,
        method: &Method::GET,
        authority: "a.example",
        path_and_query: "/",
        headers: &headers,
    };
    assert_eq!(
        canonicalize(raw, &Limits::default()).unwrap_err().code(),
        "field-value"
    );
}

#[test]
fn a_unicode_host_becomes_its_a_label() {
    let headers = HeaderMap::new();
    let raw = RawHead {
        scheme: Scheme::Https,
        method: &Method::GET,
        authority: "B\u{fc}cher.example",
        path_and_query: "/",
        headers: &headers,
    };
    assert_eq!(
        canonicalize(raw, &Limits::default()).unwrap().host,
        "xn--bcher-kva.example"
    );
    let raw = RawHead {
        authority: "\u{ff11}\u{ff12}\u{ff17}.1",
        ..raw
    };
    assert_eq!(
        canonicalize(raw, &Limits::default()).unwrap_err().code(),
        "authority-ip-form"
    );
}

#[test]
fn content_digests_are_checked_as_rfc_9530_has_them() {
    use writ_canonical::{BodyBinding, content_digest, verify_content_digest};
    // RFC 9530 appendix D.
    let body = b"{\"hello\": \"world\"}\n";
    assert_eq!(
        content_digest(body),
        "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    );
    assert_eq!(
        verify_content_digest(content_digest(body).as_bytes(), body),
        Ok(())
    );
    let two = b"md5=:AAAA:, sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    assert_eq!(verify_content_digest(two, body), Ok(()));
    assert_eq!(
        verify_content_digest(two, b"other").unwrap_err().code(),
        "content-digest-mismatch"
    );
    for form in [
        &b"md5=:AAAA:"[..],
        b"sha-256=abc",
        b"sha-256",
        b"",
        b"sha-256=(:AAAA:)",
        b"\xff",
    ] {
        assert_eq!(
            verify_content_digest(form, body).unwrap_err().code(),
            "content-digest-form",
            "{form:?}"
        );
    }
    assert_eq!(
        BodyBinding::of(b"").clone(),
        BodyBinding::Bound {
            sha256: writ_canonical::sha256(b""),
            len: 0
        }
    );
}

#[test]
fn the_published_exclusion_list_is_the_one_in_use() {
    let docs = include_str!("../../../docs/canonical.md");
    for name in writ_canonical::EXCLUDED_FIELDS {
        let by_prefix = writ_canonical::EXCLUDED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix));
        assert!(
            by_prefix || docs.contains(&format!("`{name}`")),
            "docs/canonical.md does not list {name}"
        );
    }
    for prefix in writ_canonical::EXCLUDED_PREFIXES {
        assert!(
            docs.contains(&format!("`{prefix}*`")),
            "docs/canonical.md does not list {prefix}*"
        );
    }
}
