//! Keys, key statements, and what issuers refuse to sign.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use serde_json::json;
use writ_sae::*;
use zeroize::Zeroizing;

fn statement(keys: &Keys) -> Unverified<KeyStatement> {
    Unverified::parse(keys.delegate.key_statement().unwrap()).unwrap()
}

fn statement_refusal(result: Result<Verified<KeyStatement>, Refusal>) -> &'static str {
    match result.unwrap_err() {
        Refusal::KeyStatementInvalid(why) => why.code(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_statement_holds_only_within_its_time_and_for_its_svid() {
    let keys = Keys::load();
    let key = keys.agent_key();
    let at = |now| statement(&keys).verify(&key, now, 5);
    assert!(at(NOW).is_ok());
    assert_eq!(statement_refusal(at(NOW - 66)), "not-yet-valid");
    assert_eq!(statement_refusal(at(NOW + 3600)), "expired");
    let tool = VerifyKey::from_svid(&keys.tool_svid).unwrap();
    assert_eq!(
        statement_refusal(statement(&keys).verify(&tool, NOW, 5)),
        "unknown-key"
    );
}

#[test]
fn a_key_statement_that_outlives_its_svid_is_refused() {
    let keys = Keys::load();
    let verified = statement(&keys).verify(&keys.agent_key(), NOW, 0).unwrap();
    let mut svid = keys.agent_svid.clone();
    svid.not_after = NOW + 3599;
    let refusal = VerifyKey::from_statement(&verified, &svid).unwrap_err();
    assert_eq!(refusal.code(), "key-statement-outlives-svid");
    let refusal = VerifyKey::from_statement(&verified, &keys.tool_svid).unwrap_err();
    assert_eq!(refusal.code(), "issuer-mismatch");
}

#[test]
fn a_weak_or_foreign_delegated_key_is_refused() {
    let keys = Keys::load();
    // The neutral element: every message has a signature by it.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let weak = KeyStatement::new(AGENT, neutral, NOW, NOW + 60);
    let error = issue_key_statement(&weak, &keys.agent).unwrap_err();
    assert_eq!(error, IssueError::Claims(Refusal::KeyWeak));

    let (header, claims) = open(keys.delegate.key_statement().unwrap());
    for (member, value) in [("kty", "EC"), ("crv", "X25519")] {
        let mut claims = claims.clone();
        claims["cnf"]["jwk"][member] = json!(value);
        let compact = sign_raw(&keys.agent, &jcs(&header), &jcs(&claims));
        let refusal = Unverified::<KeyStatement>::parse(&compact).unwrap_err();
        assert_eq!(refusal.code(), "claim-out-of-bounds");
    }
    let mut claims = claims;
    claims["cnf"]["jwk"]["d"] = json!("AAAA");
    let compact = sign_raw(&keys.agent, &jcs(&header), &jcs(&claims));
    let refusal = Unverified::<KeyStatement>::parse(&compact).unwrap_err();
    assert_eq!(refusal.code(), "claims-invalid");
}

#[test]
fn a_delegate_does_not_delegate() {
    let keys = Keys::load();
    let seed = Zeroizing::new([3; 32]);
    let error = EdDsaSigner::delegate(&seed, &keys.delegate, AGENT, NOW, NOW + 60).err();
    assert_eq!(
        error,
        Some(IssueError::Algorithm("application/sae-key+jwt"))
    );

    let (mut header, claims) = open(keys.delegate.key_statement().unwrap());
    header["alg"] = json!("EdDSA");
    let compact = sign_raw(&keys.delegate, &jcs(&header), &jcs(&claims));
    let refusal = Unverified::<KeyStatement>::parse(&compact).unwrap_err();
    assert_eq!(refusal.code(), "alg-not-allowed");
}

#[test]
fn a_certified_key_of_another_curve_verifies_nothing() {
    let keys = Keys::load();
    let mut svid = keys.agent_svid.clone();
    svid.public_key = vec![4; 97];
    assert_eq!(VerifyKey::from_svid(&svid), Err(Refusal::AlgKeyMismatch));
}

#[test]
fn what_would_be_refused_is_never_issued() {
    let keys = Keys::load();
    let mut long = claims();
    long.exp = long.iat + 301;
    let error = issue_envelope(&long, &keys.agent).unwrap_err();
    assert_eq!(error, IssueError::Claims(Refusal::LifetimeOutOfBounds));

    let mut short = claims();
    short.exp = short.iat + 29;
    assert!(issue_envelope(&short, &keys.agent).is_err());

    let mut large = claims();
    large.act.http.as_mut().unwrap().path = format!("/{}", "a".repeat(1900));
    large.sub = format!("https://payments.example.org/{}", "a".repeat(1900));
    let error = issue_envelope(&large, &keys.agent).unwrap_err();
    assert!(matches!(error, IssueError::TooLarge(size) if size > 4096));
}

#[test]
fn a_receipt_is_for_one_envelope() {
    let keys = Keys::load();
    let envelope = issue_envelope(&claims(), &keys.agent).unwrap();
    let claims = receipt(envelope.hash(), Outcome::Completed);
    let compact = issue_receipt(&claims, &keys.tool).unwrap();
    let key = VerifyKey::from_svid(&keys.tool_svid).unwrap();
    let parsed = Unverified::<ReceiptClaims>::parse(compact.as_str()).unwrap();
    assert!(parsed.clone().verify(&key, &envelope.hash()).is_ok());
    assert!(parsed.clone().verify(&key, &[0; 32]).is_err());
    assert_eq!(
        parsed
            .verify(&keys.agent_key(), &envelope.hash())
            .unwrap_err()
            .code(),
        "unknown-key"
    );
}

#[test]
fn a_receipt_says_neither_more_nor_less_than_its_outcome() {
    let keys = Keys::load();
    let mut accepted = receipt([1; 32], Outcome::Accepted);
    accepted.status = Some(200);
    assert!(issue_receipt(&accepted, &keys.tool).is_err());
    let mut completed = receipt([1; 32], Outcome::Completed);
    completed.response = None;
    assert!(issue_receipt(&completed, &keys.tool).is_err());
    let mut backwards = receipt([1; 32], Outcome::Completed);
    backwards.completed = Some(backwards.received - 1);
    assert!(issue_receipt(&backwards, &keys.tool).is_err());
}

#[test]
fn a_denial_names_an_approval_exactly_when_one_would_help() {
    let keys = Keys::load();
    let mut without = denial();
    without.decision.effect = Effect::RequireApproval;
    assert!(issue_denial(&without, &keys.agent).is_err());
    let mut with = denial();
    with.decision.approval = Some([1; 32]);
    assert!(issue_denial(&with, &keys.agent).is_err());
}

#[test]
fn two_hundred_es256_signatures_all_come_out_low() {
    let keys = Keys::load();
    for n in 0..200u8 {
        let mut claims = claims();
        claims.jti = Jti([n; 16]);
        let compact = issue_envelope(&claims, &keys.agent).unwrap();
        assert!(Unverified::<Envelope>::parse(compact.as_str()).is_ok());
    }
}
