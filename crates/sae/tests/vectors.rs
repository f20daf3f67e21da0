//! The published vectors are what this crate issues, accepts and refuses.
//!
//! `WRIT_WRITE_VECTORS=1 cargo test -p writ-sae --test vectors` writes them anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;
mod invalid;

use common::*;
use serde_json::{Value, json};
use writ_sae::*;

const VALID: &str = include_str!("vectors/valid.json");
const INVALID: &str = include_str!("vectors/invalid.json");

fn valid_vectors(keys: &Keys) -> Value {
    let mut vectors = Vec::new();
    let mut push = |name: &str, kind: &str, key: &str, compact: &Compact| {
        let (header, claims) = open(compact.as_str());
        vectors.push(json!({
            "name": name, "kind": kind, "key": key,
            "compact": compact.as_str(),
            "sae_hash": encoding::to_base64url(&compact.hash()),
            "header": header, "claims": claims,
        }));
    };
    let es256 = issue_envelope(&claims(), &keys.agent).unwrap();
    push("envelope-es256", "envelope", "agent", &es256);
    let eddsa = issue_envelope(&claims(), &keys.delegate).unwrap();
    push("envelope-eddsa", "envelope", "delegate", &eddsa);

    let mut root = claims();
    root.ctx.parent_chain.clear();
    root.ctx.principal = None;
    root.ctx.cb = None;
    root.model.sbom = None;
    root.act.idem = None;
    root.act.params.fields.clear();
    root.act.http.as_mut().unwrap().content_digest = BodyDigest::Unbound;
    root.jti = Jti([10; 16]);
    let minimal = issue_envelope(&root, &keys.agent).unwrap();
    push("envelope-minimal", "envelope", "agent", &minimal);
    let stapled = issue_stapled_envelope(&root, hash("status"), &keys.agent).unwrap();
    push("envelope-stapled", "envelope", "agent", &stapled);

    let mut custom = claims();
    custom.act.kind = Kind::Custom;
    custom.act.http = None;
    custom.act.envelope_hash = Some(hash("inner"));
    custom.ctx.approval = Some(hash("approval"));
    custom.exp = NOW + 300;
    let custom = issue_envelope(&custom, &keys.delegate).unwrap();
    push("envelope-custom", "envelope", "delegate", &custom);

    let refused = issue_denial(&denial(), &keys.agent).unwrap();
    push("denial", "denial", "agent", &refused);
    let early = Denial {
        act: None,
        aud: None,
        pol: None,
        decision: Decision {
            approval: Some(hash("approval")),
            effect: Effect::RequireApproval,
            reason: "approval-required".into(),
        },
        ..denial()
    };
    let early = issue_denial(&early, &keys.delegate).unwrap();
    push("denial-approval-required", "denial", "delegate", &early);

    for (name, outcome) in [
        ("receipt-accepted", Outcome::Accepted),
        ("receipt-completed", Outcome::Completed),
        ("receipt-failed", Outcome::Failed),
    ] {
        let issued = issue_receipt(&receipt(es256.hash(), outcome), &keys.tool).unwrap();
        push(name, "receipt", "tool", &issued);
    }
    let x = {
        let (_, claims) = open(keys.delegate.key_statement().unwrap());
        encoding::from_base64url(claims["cnf"]["jwk"]["x"].as_str().unwrap()).unwrap()
    };
    let statement = KeyStatement::new(AGENT, x.try_into().unwrap(), NOW - 60, NOW + 3600);
    let statement = issue_key_statement(&statement, &keys.agent).unwrap();
    assert_eq!(Some(statement.as_str()), keys.delegate.key_statement());
    push("key-statement", "key-statement", "agent", &statement);

    json!({
        "notice": "Verify with the keys of keys.json at now, skew 0, audience and peer as named.",
        "now": NOW, "audience": TOOL, "peer": AGENT,
        "vectors": vectors,
    })
}

fn compare(name: &str, committed: &str, built: &Value) {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let built = serde_json::to_string_pretty(built).unwrap() + "\n";
    if std::env::var_os("WRIT_WRITE_VECTORS").is_some() {
        std::fs::write(path, built).unwrap();
        return;
    }
    assert!(
        committed == built,
        "{path} is stale: the format changed, or WRIT_WRITE_VECTORS=1 was not run"
    );
}

#[test]
fn the_published_valid_vectors_are_what_is_issued() {
    compare("valid.json", VALID, &valid_vectors(&Keys::load()));
}

#[test]
fn the_published_invalid_vectors_are_current() {
    compare("invalid.json", INVALID, &invalid::vectors(&Keys::load()));
}

#[test]
fn every_valid_vector_is_accepted_with_its_hash_and_claims() {
    let keys = Keys::load();
    let file: Value = serde_json::from_str(VALID).unwrap();
    for vector in file["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let compact = vector["compact"].as_str().unwrap();
        assert_eq!(
            encoding::to_base64url(&sae_hash(compact)),
            vector["sae_hash"].as_str().unwrap()
        );
        let key = match vector["key"].as_str().unwrap() {
            "agent" => keys.agent_key(),
            "delegate" => keys.delegate_key(),
            _ => VerifyKey::from_svid(&keys.tool_svid).unwrap(),
        };
        let claims = match vector["kind"].as_str().unwrap() {
            "envelope" => {
                let parsed = Unverified::<Envelope>::parse(compact).expect(name);
                for crypto in [
                    &PureVerifier as &dyn SignatureVerifier,
                    &DefaultVerifier::default(),
                ] {
                    parsed
                        .clone()
                        .verify_with(&key, &expect(&audience()), crypto)
                        .expect(name);
                }
                serde_json::to_value(parsed.unverified_claims()).unwrap()
            }
            "denial" => {
                let parsed = Unverified::<Denial>::parse(compact).expect(name);
                serde_json::to_value(parsed.verify(&key).expect(name).claims()).unwrap()
            }
            "receipt" => {
                let parsed = Unverified::<ReceiptClaims>::parse(compact).expect(name);
                let sae = parsed.unverified_claims().sae;
                serde_json::to_value(parsed.verify(&key, &sae).expect(name).claims()).unwrap()
            }
            _ => {
                let parsed = Unverified::<KeyStatement>::parse(compact).expect(name);
                serde_json::to_value(parsed.verify(&key, NOW, 0).expect(name).claims()).unwrap()
            }
        };
        assert_eq!(claims, vector["claims"], "{name}");
    }
}

#[test]
fn every_invalid_vector_is_refused_with_its_code() {
    let keys = Keys::load();
    let file: Value = serde_json::from_str(INVALID).unwrap();
    for vector in file["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        assert_eq!(
            invalid::refusal_of(&keys, vector),
            vector["refusal"].as_str(),
            "{name}"
        );
    }
}

#[test]
fn only_an_envelope_is_an_envelope() {
    let file: Value = serde_json::from_str(VALID).unwrap();
    for vector in file["vectors"].as_array().unwrap() {
        let parsed = Unverified::<Envelope>::parse(vector["compact"].as_str().unwrap());
        if vector["kind"] != "envelope" {
            assert_eq!(
                parsed.unwrap_err(),
                Refusal::TypNotAllowed,
                "{}",
                vector["name"]
            );
        }
    }
}
