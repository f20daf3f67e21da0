//! Envelopes that must be refused, each for one reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};
use writ_sae::*;

use crate::common::*;

/// Builds one vector: an envelope by header and payload, signed with the right key.
struct Maker<'a> {
    keys: &'a Keys,
    header: Value,
    payload: Value,
    vectors: Vec<Value>,
}

impl Maker<'_> {
    fn push(&mut self, name: &str, refusal: &str, compact: String) {
        self.push_at(name, refusal, compact, json!({}));
    }

    /// `expect` overrides what the verifier expects.
    fn push_at(&mut self, name: &str, refusal: &str, compact: String, expect: Value) {
        self.vectors.push(json!({
            "name": name, "refusal": refusal, "compact": compact, "expect": expect,
        }));
    }

    fn signed(&self, header: &Value, payload: &Value) -> String {
        sign_raw(&self.keys.agent, &jcs(header), &jcs(payload))
    }

    fn with_header(&mut self, name: &str, refusal: &str, change: impl FnOnce(&mut Value)) {
        let mut header = self.header.clone();
        change(&mut header);
        let compact = self.signed(&header, &self.payload);
        self.push(name, refusal, compact);
    }

    fn with_claims(&mut self, name: &str, refusal: &str, change: impl FnOnce(&mut Value)) {
        let mut payload = self.payload.clone();
        change(&mut payload);
        let compact = self.signed(&self.header, &payload);
        self.push(name, refusal, compact);
    }

    fn with_payload_text(
        &mut self,
        name: &str,
        refusal: &str,
        change: impl FnOnce(String) -> String,
    ) {
        let text = change(String::from_utf8(jcs(&self.payload)).unwrap());
        let compact = sign_raw(&self.keys.agent, &jcs(&self.header), text.as_bytes());
        self.push(name, refusal, compact);
    }
}

pub fn vectors(keys: &Keys) -> Value {
    let good = issue_envelope(&claims(), &keys.agent)
        .unwrap()
        .into_string();
    let (header, payload) = open(&good);
    let mut m = Maker {
        keys,
        header,
        payload,
        vectors: Vec::new(),
    };
    form(&mut m, &good);
    headers(&mut m);
    json_and_claims(&mut m);
    signatures(&mut m, &good);
    expectations(&mut m, &good);
    json!({
        "notice": "Each is refused with the code named, at now 1800000001, skew 5 s, audience and peer of valid.json unless expect says otherwise.",
        "vectors": m.vectors,
    })
}

fn form(m: &mut Maker<'_>, good: &str) {
    m.push(
        "too-large",
        "too-large",
        format!("{good}{}", "A".repeat(4096)),
    );
    m.push(
        "two-parts",
        "malformed",
        good.rsplit_once('.').unwrap().0.into(),
    );
    m.push("four-parts", "malformed", format!("{good}.AA"));
    m.push(
        "empty-signature",
        "malformed",
        format!("{}.", good.rsplit_once('.').unwrap().0),
    );
    m.push("empty", "malformed", String::new());
    m.push("padding", "base64url-not-canonical", format!("{good}=="));
    m.push("whitespace", "base64url-not-canonical", format!("{good} "));
    m.push(
        "standard-alphabet",
        "base64url-not-canonical",
        good.replacen("ey", "e+", 1),
    );
    // The last character of a 64-byte signature has four bits that mean nothing.
    let (body, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet
        .chars()
        .nth(alphabet.find(last).unwrap() + 1)
        .unwrap();
    m.push(
        "trailing-bits",
        "base64url-not-canonical",
        format!("{body}{next}"),
    );
}

fn headers(m: &mut Maker<'_>) {
    m.with_header("typ-missing", "header-invalid", |h| {
        h.as_object_mut().unwrap().remove("typ");
    });
    m.with_header("typ-jwt", "typ-not-allowed", |h| h["typ"] = json!("JWT"));
    m.with_header("typ-short", "typ-not-allowed", |h| {
        h["typ"] = json!("sae+jwt")
    });
    m.with_header("typ-denial", "typ-not-allowed", |h| {
        h["typ"] = json!("application/sae-denial+jwt");
    });
    for alg in [
        "none", "HS256", "RS256", "ES256K", "ES384", "Ed25519", "es256",
    ] {
        m.with_header(&format!("alg-{alg}"), "alg-not-allowed", |h| {
            h["alg"] = json!(alg)
        });
    }
    m.with_header("alg-of-another-key", "alg-key-mismatch", |h| {
        h["alg"] = json!("EdDSA")
    });
    m.with_header("kid-upper-case", "kid-malformed", |h| {
        h["kid"] = json!(h["kid"].as_str().unwrap().to_uppercase());
    });
    m.with_header("kid-short", "kid-malformed", |h| h["kid"] = json!("abcd"));
    m.with_header("kid-unknown", "unknown-key", |h| {
        h["kid"] = json!("0".repeat(64))
    });
    for name in ["jku", "x5u", "jwk", "x5c", "crit", "b64", "cty"] {
        m.with_header(&format!("header-{name}"), "header-invalid", |h| {
            h[name] = json!("x")
        });
    }
    let header = String::from_utf8(jcs(&m.header)).unwrap();
    let twice = header.replacen("{", r#"{"alg":"none","#, 1);
    let compact = sign_raw(&m.keys.agent, twice.as_bytes(), &jcs(&m.payload));
    m.push("header-duplicate-alg", "json-duplicate-key", compact);
    let spaced = header.replacen(",", ", ", 1);
    let compact = sign_raw(&m.keys.agent, spaced.as_bytes(), &jcs(&m.payload));
    m.push("header-whitespace", "not-canonical", compact);
    let compact = sign_raw(&m.keys.agent, b"[]", &jcs(&m.payload));
    m.push("header-no-object", "header-invalid", compact);
}

fn json_and_claims(m: &mut Maker<'_>) {
    m.with_payload_text("duplicate-claim", "json-duplicate-key", |t| {
        t.replacen("{", r#"{"iss":"spiffe://example.org/other","#, 1)
    });
    m.with_payload_text("duplicate-nested", "json-duplicate-key", |t| {
        t.replacen(r#""fields":{"#, r#""fields":{"amount":"1","#, 1)
    });
    m.with_payload_text("fraction", "json-number-out-of-range", |t| {
        t.replacen(r#""risk_score":12"#, r#""risk_score":12.0"#, 1)
    });
    m.with_payload_text("beyond-2-53", "json-number-out-of-range", |t| {
        t.replacen(r#""seq":42"#, r#""seq":9007199254740993"#, 1)
    });
    m.with_payload_text("null-claim", "json-invalid", |t| {
        t.replacen(r#""idem":"order-4711""#, r#""idem":null"#, 1)
    });
    m.with_payload_text("trailing-bytes", "json-invalid", |t| t + "{}");
    m.with_payload_text("whitespace-in-payload", "not-canonical", |t| {
        t.replacen(",", " ,", 1)
    });
    m.with_payload_text("escaped-letter", "not-canonical", |t| {
        t.replacen("order-4711", "\\u006frder-4711", 1)
    });
    m.with_payload_text("unsorted", "not-canonical", |t| {
        let first = t.find(r#""classification":1,"#).unwrap();
        let member = r#""classification":1,"#;
        let rest = t.replacen(member, "", 1);
        let end = rest.find(r#","kind""#).unwrap();
        assert!(end > first);
        format!(
            "{},{}{}",
            &rest[..end],
            member.trim_end_matches(','),
            &rest[end..]
        )
    });

    m.with_claims("unknown-claim", "claims-invalid", |c| c["extra"] = json!(1));
    m.with_claims("unknown-nested", "claims-invalid", |c| {
        c["act"]["extra"] = json!(1)
    });
    for claim in [
        "act", "aud", "chain", "ctx", "exp", "iat", "iss", "iss_dn", "jti", "mod", "nbf", "pol",
        "sub",
    ] {
        m.with_claims(&format!("missing-{claim}"), "claims-invalid", |c| {
            c.as_object_mut().unwrap().remove(claim);
        });
    }
    for member in [
        "data_classification",
        "log",
        "obligations",
        "parent_chain",
        "risk_score",
        "session_id",
    ] {
        m.with_claims(&format!("missing-ctx-{member}"), "claims-invalid", |c| {
            c["ctx"].as_object_mut().unwrap().remove(member);
        });
    }
    m.with_claims("string-time", "claims-invalid", |c| {
        c["exp"] = json!("1800000060")
    });
    m.with_claims("aud-list", "claims-invalid", |c| c["aud"] = json!([TOOL]));
    m.with_claims("jti-short", "claims-invalid", |c| c["jti"] = json!("AAAA"));
    m.with_claims("contract-upper-case", "claims-invalid", |c| {
        c["pol"]["contract"] = json!(format!("0x{}", "AB".repeat(20)));
    });
    m.with_claims("kind-unknown", "claims-invalid", |c| {
        c["act"]["kind"] = json!("ftp")
    });
    m.with_claims("risk-over-255", "claims-invalid", |c| {
        c["ctx"]["risk_score"] = json!(256)
    });

    m.with_claims("iss-no-spiffe-id", "claim-out-of-bounds", |c| {
        c["iss"] = json!("agent")
    });
    m.with_claims("class-over-3", "claim-out-of-bounds", |c| {
        c["act"]["classification"] = json!(4)
    });
    m.with_claims("class-lowered", "claim-out-of-bounds", |c| {
        c["ctx"]["data_classification"] = json!(0);
    });
    m.with_claims("http-missing", "claim-out-of-bounds", |c| {
        c["act"].as_object_mut().unwrap().remove("http");
    });
    m.with_claims("nine-parents", "claim-out-of-bounds", |c| {
        let parents = (0..9).map(|n| encoding::to_base64url(&hash(&format!("p{n}"))));
        c["ctx"]["parent_chain"] = parents.collect();
    });
    m.with_claims("parent-twice", "claim-out-of-bounds", |c| {
        let parent = c["ctx"]["parent_chain"][0].clone();
        c["ctx"]["parent_chain"] = json!([parent, parent]);
    });
    m.with_claims("path-relative", "claim-out-of-bounds", |c| {
        c["act"]["http"]["path"] = json!("v1/transfers");
    });
    m.with_claims("fields-over-16", "claim-out-of-bounds", |c| {
        c["act"]["params"]["fields"] = (0..17).map(|n| (format!("f{n}"), json!(n))).collect();
    });
    m.with_claims("session-empty", "claim-out-of-bounds", |c| {
        c["ctx"]["session_id"] = json!("")
    });
    for (name, exp) in [
        ("lifetime-29", NOW + 29),
        ("lifetime-301", NOW + 301),
        ("exp-before-iat", NOW - 1),
    ] {
        m.with_claims(name, "lifetime-out-of-bounds", |c| c["exp"] = json!(exp));
    }
    m.with_claims("nbf-before-iat", "lifetime-out-of-bounds", |c| {
        c["nbf"] = json!(NOW - 1)
    });
    m.with_claims("nbf-at-exp", "lifetime-out-of-bounds", |c| {
        c["nbf"] = json!(NOW + 60)
    });
}

fn signatures(m: &mut Maker<'_>, good: &str) {
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bytes: [u8; 64] = encoding::from_base64url(signature)
        .unwrap()
        .try_into()
        .unwrap();
    let with = |bytes: &[u8]| format!("{signed}.{}", encoding::to_base64url(bytes));
    m.push("signature-short", "signature-malformed", with(&bytes[..63]));
    m.push("signature-zero", "signature-malformed", with(&[0; 64]));
    m.push(
        "signature-r-over-order",
        "signature-malformed",
        with(&[0xff; 64]),
    );
    m.push(
        "signature-high-s",
        "signature-high-s",
        with(&high_s(&bytes)),
    );
    let mut other = bytes;
    other[5] ^= 1;
    m.push("signature-changed", "signature-invalid", with(&other));
    let stranger = sign_raw(&m.keys.tool, &jcs(&m.header), &jcs(&m.payload));
    m.push("signed-by-another-key", "signature-invalid", stranger);
}

/// The other form of an ECDSA signature: n - s.
fn high_s(low: &[u8; 64]) -> [u8; 64] {
    let signature = p256::ecdsa::Signature::from_slice(low).unwrap();
    let (r, s) = signature.split_scalars();
    let flipped = p256::ecdsa::Signature::from_scalars(r, -*s).unwrap();
    flipped.to_bytes().into()
}

fn expectations(m: &mut Maker<'_>, good: &str) {
    m.with_claims("iss-of-another", "issuer-mismatch", |c| {
        c["iss"] = json!(TOOL)
    });
    m.with_claims("iss-dn-of-another", "subject-dn-mismatch", |c| {
        c["iss_dn"] = json!("CN=x")
    });
    let good = || good.to_owned();
    m.push_at(
        "peer-is-another",
        "peer-mismatch",
        good(),
        json!({"peer": TOOL}),
    );
    m.push_at(
        "audience-is-another",
        "audience-mismatch",
        good(),
        json!({"audience": AGENT}),
    );
    m.push_at(
        "before-iat",
        "issued-in-future",
        good(),
        json!({"now": NOW - 6}),
    );
    let mut later = m.payload.clone();
    later["nbf"] = json!(NOW + 20);
    let later = m.signed(&m.header, &later);
    m.push_at(
        "before-nbf",
        "not-yet-valid",
        later,
        json!({"now": NOW + 14}),
    );
    m.push_at("after-exp", "expired", good(), json!({"now": NOW + 65}));
    let since = json!({"replay_since": NOW - 4});
    m.push_at("before-the-store", "issued-before-boot", good(), since);
}

/// Code with which the vector is refused, `None` when it is accepted.
pub fn refusal_of(keys: &Keys, vector: &Value) -> Option<&'static str> {
    let over = &vector["expect"];
    let audience = [over["audience"].as_str().unwrap_or(TOOL).to_owned()];
    let mut expect = expect(&audience);
    expect.now = over["now"].as_u64().unwrap_or(expect.now);
    expect.peer = over["peer"].as_str().or(expect.peer);
    expect.replay_since = over["replay_since"].as_u64();
    Unverified::<Envelope>::parse(vector["compact"].as_str().unwrap())
        .and_then(|parsed| parsed.verify(&keys.agent_key(), &expect))
        .err()
        .map(|refusal| refusal.code())
}
