//! What this module makes is what `writ_sae` issues, parses and verifies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use alloy_primitives::Address;
use base64::Engine as _;
use serde_json::json;
use writ_canonical::{BodyBinding, Limits, RawHead, Scheme, canonicalize};
use writ_catalog::{Catalog, Class};
use writ_sae::{
    Envelope, Es256Signer, Expectations, Unverified, VerifiedSvid, VerifyKey, encoding,
    issue_denial, issue_envelope,
};
use zeroize::Zeroizing;

use super::*;

const NOW: u64 = 1_800_000_000;
const PEER: &str = "spiffe://example.org/ns/demo/sa/tool";

/// The agent of the published vectors.
fn agent() -> (Es256Signer, VerifyKey, Actor) {
    let file = include_str!("../../../../crates/sae/tests/vectors/keys.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let json = &file["identities"]["agent"];
    let text = |pointer: &str| json.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let der = base64::engine::general_purpose::STANDARD
        .decode(text("/certificate"))
        .unwrap();
    let secret = encoding::from_base64url(&text("/jwk/d")).unwrap();
    let secret = Zeroizing::new(secret.try_into().unwrap());
    let signer = Es256Signer::new(&secret, vec![der.clone()]).unwrap();
    let svid = VerifiedSvid {
        spiffe_id: text("/spiffe_id"),
        public_key: signer.public_key(),
        leaf_sha256: encoding::sha256(&der),
        subject_dn: text("/subject_dn"),
        not_after: json["not_after"].as_u64().unwrap(),
    };
    let actor = Actor {
        spiffe_id: svid.spiffe_id.clone(),
        subject_dn: svid.subject_dn.clone(),
        salt: [7; 16],
        model: [8; 32],
        sbom: Some([9; 32]),
        settlement: Settlement {
            contract: Address::repeat_byte(3).into(),
            id: 84_532,
        },
    };
    let key = VerifyKey::from_svid(&svid).unwrap();
    (signer, key, actor)
}

const CATALOG: &str = "
version: 1
name: claims
destinations:
  - {name: api, host: api.example, port: 8443, peer: {spiffe: 'spiffe://example.org/ns/demo/sa/tool'}, upstream: {mode: mtls}, agent_tls: originate, envelope: stamp, pep: sidecar}
entries:
  - {name: pay, destination: api, protocol: custom, capability: payments.transfer, class: internal, params: [/to, /fast, /count, /share, /note], risk: 12}
";

/// A custom action with every kind of selected field.
fn custom() -> Asked {
    let catalog = Catalog::from_yaml(CATALOG).unwrap();
    let target = canonical();
    let destination = catalog.destination(&target.host, target.port).unwrap();
    let params =
        json!({"to": "alice", "fast": true, "count": 3, "share": -0.5, "note": "n".repeat(300)});
    let intent = catalog
        .classify_custom(
            destination,
            &target,
            "payments.transfer",
            &params,
            &params.to_string(),
        )
        .unwrap();
    Asked {
        intent,
        target: target.target_uri(),
        audience: destination.audience.clone(),
        stamping: Stamping::Stamp,
        http: None,
        idempotency: Some("key-1".into()),
        approval: Some([5; 32]),
    }
}

fn canonical() -> writ_canonical::CanonicalRequest {
    let raw = RawHead {
        scheme: Scheme::Https,
        method: &http::Method::POST,
        authority: "api.example:8443",
        path_and_query: "/transfers",
        headers: &http::HeaderMap::new(),
    };
    canonicalize(raw, &Limits::default()).unwrap()
}

/// The same action as an HTTP request.
fn over_http(body: BodyBinding) -> Asked {
    let mut asked = custom();
    asked.intent.kind = writ_catalog::Kind::Http;
    asked.http = Some(http_binding(&canonical(), body));
    asked
}

fn decision(effect: Effect) -> Decision {
    Decision {
        effect,
        rule: [1; 32],
        reason: "no-rule".into(),
        ttl: 60,
        max_state_age: 300,
        tier: 2,
        obligations: 4,
        policy_id: [2; 32],
        contract: Address::repeat_byte(4),
        registered_code_hash: [11; 32],
        code_hash: [12; 32],
        catalog_hash: [13; 32],
        evm: "writ-evm/1".into(),
        chain_id: 84_532,
        block: 1_234,
        block_hash: [14; 32],
        input: [15; 32],
        touched: Vec::new(),
    }
}

fn circumstances() -> Circumstances {
    Circumstances {
        session: "session-1".into(),
        parents: vec![[21; 32], [22; 32]],
        principal: Some("alice@example.org".into()),
        log: LogRef {
            id: "log-1".into(),
            seq: 42,
        },
        channel_binding: Some([23; 32]),
    }
}

fn stamp() -> Stamp {
    Stamp {
        jti: Jti([31; 16]),
        now: NOW,
        lifetime: 60,
    }
}

/// Issued, parsed and verified as a receiver does.
fn received(asked: &Asked) -> Claims {
    let (signer, key, actor) = agent();
    let decision = decision(Effect::Allow);
    let at = circumstances();
    let claims = envelope(&actor, asked, &decision, StateAge::Fresh, &at, stamp());
    let compact = issue_envelope(&claims, &signer).unwrap();
    let expect = Expectations {
        now: NOW + 1,
        skew: 0,
        audience: &[PEER.to_owned()],
        peer: Some(&actor.spiffe_id),
        replay_since: None,
    };
    let verified = Unverified::<Envelope>::parse(compact.as_str())
        .and_then(|envelope| envelope.verify(&key, &expect))
        .unwrap();
    assert_eq!(verified.claims(), &claims);
    claims
}

#[test]
fn the_envelope_of_a_custom_action_binds_no_http_request_and_verifies() {
    let claims = received(&custom());
    assert_eq!((claims.act.kind, &claims.act.http), (Kind::Custom, &None));
    assert_eq!(claims.act.method, "payments.transfer");
    assert_eq!(claims.sub, "https://api.example:8443/transfers");
    assert_eq!(claims.aud, PEER);
    assert_eq!((claims.iat, claims.exp), (NOW, NOW + 60));
    assert_eq!((claims.ctx.log.seq, claims.ctx.obligations), (42, 4));
    assert_eq!(claims.ctx.approval, Some([5; 32]));
    assert_eq!(claims.ctx.parent_chain, [[21; 32], [22; 32]]);
    // What a receiver compares with its own reading is the registered hash.
    assert_eq!(claims.pol.code_hash, [11; 32]);
}

#[test]
fn the_envelope_of_an_http_request_binds_it_and_verifies() {
    let claims = received(&over_http(BodyBinding::of(b"{}")));
    let http = claims.act.http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str()),
        ("POST", "/transfers")
    );
    assert_eq!(
        http.content_digest,
        BodyDigest::Sha256(encoding::sha256(b"{}"))
    );
    let claims = received(&over_http(BodyBinding::Unbound));
    assert_eq!(claims.act.http.unwrap().content_digest, BodyDigest::Unbound);
}

#[test]
fn a_kind_and_a_binding_that_do_not_fit_are_never_signed() {
    let (signer, _, actor) = agent();
    let mut custom_with_http = over_http(BodyBinding::Unbound);
    custom_with_http.intent.kind = writ_catalog::Kind::Custom;
    let mut http_without = custom();
    http_without.intent.kind = writ_catalog::Kind::Http;
    for asked in [custom_with_http, http_without] {
        let decision = decision(Effect::Allow);
        let at = circumstances();
        let claims = envelope(&actor, &asked, &decision, StateAge::Fresh, &at, stamp());
        assert!(issue_envelope(&claims, &signer).is_err());
    }
}

#[test]
fn selected_fields_travel_as_scalars_and_long_ones_not_at_all() {
    let fields = received(&custom()).act.params.fields;
    assert_eq!(fields["/to"], Scalar::String("alice".into()));
    assert_eq!(fields["/fast"], Scalar::Bool(true));
    assert_eq!(fields["/count"], Scalar::Integer(3));
    assert_eq!(fields["/share"], Scalar::String("-0.5".into()));
    assert!(!fields.contains_key("/note"));
}

#[test]
fn the_classes_of_the_catalog_are_those_of_the_claims() {
    let mut asked = custom();
    assert_eq!(asked.intent.class_name(), Class::Internal);
    asked.intent.class = 3;
    let claims = received(&asked);
    assert_eq!(
        (claims.act.classification, claims.ctx.data_classification),
        (3, 3)
    );
    assert_eq!(claims.ctx.risk_score, 12);
}

/// Issued, parsed and verified.
fn denied(asked: Option<&Asked>, decision: Option<&Decision>) -> Denial {
    let (signer, key, actor) = agent();
    let claims = denial(
        &actor,
        asked,
        "https://api.example:8443/transfers",
        "no-rule",
        decision.map(|decision| (decision, StateAge::Cached)),
        &circumstances(),
        stamp(),
    );
    let compact = issue_denial(&claims, &signer).unwrap();
    let verified = Unverified::<Denial>::parse(compact.as_str())
        .and_then(|denial| denial.verify(&key))
        .unwrap();
    assert_eq!(verified.claims(), &claims);
    // A denial is never taken for an envelope.
    assert!(Unverified::<Envelope>::parse(compact.as_str()).is_err());
    claims
}

#[test]
fn a_denial_by_the_policy_names_the_policy_and_verifies() {
    let asked = custom();
    let claims = denied(Some(&asked), Some(&decision(Effect::Deny)));
    assert_eq!(claims.decision.effect, writ_sae::Effect::Deny);
    assert_eq!(
        (claims.decision.approval, claims.decision.reason.as_str()),
        (None, "no-rule")
    );
    assert_eq!(claims.pol.unwrap().state, StateAge::Cached);
}

#[test]
fn a_denial_for_want_of_an_approval_names_the_one_that_would_turn_it() {
    let asked = custom();
    let claims = denied(Some(&asked), Some(&decision(Effect::RequireApproval)));
    assert_eq!(claims.decision.effect, writ_sae::Effect::RequireApproval);
    assert_eq!(claims.decision.approval, Some([15; 32]));
}

#[test]
fn a_denial_before_the_policy_claims_nothing_of_it() {
    let claims = denied(None, None);
    assert_eq!((claims.act, claims.aud, claims.pol), (None, None, None));
    let asked = over_http(BodyBinding::Unbound);
    let claims = denied(Some(&asked), None);
    assert!(claims.act.is_some() && claims.pol.is_none());
}
