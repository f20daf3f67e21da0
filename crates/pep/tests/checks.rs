//! Each check refuses what it is there for, with its own code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::*;
use http::Method;
use writ_pep::Refusal;
use writ_pep::*;
use writ_policy::AgentStatus;
use writ_sae::*;
use zeroize::Zeroizing;

fn same<T>(_: &mut T) {}

async fn by_world(change: impl FnOnce(&mut World)) -> &'static str {
    refusal(change, same, same).await.code()
}
async fn by_claims(change: impl FnOnce(&mut Claims)) -> &'static str {
    refusal(same, change, same).await.code()
}
async fn afterwards(change: impl FnOnce(&mut World)) -> &'static str {
    refusal(same, same, change).await.code()
}

#[tokio::test]
async fn a_request_that_fits_its_envelope_is_admitted() {
    let mut w = World::new();
    let claims = w.claims();
    w.stamp(&claims);
    let admitted = w.ask(&w.pep()).await.unwrap();
    assert_eq!(admitted.claims(), &claims);
    assert_eq!(admitted.action.capability, "payments.transfer");
    assert_eq!(admitted.view.block, 1000);
}

#[tokio::test]
async fn a_request_without_a_good_envelope_is_refused() {
    let without = |w: &mut World| drop(w.fields.remove("sae"));
    assert_eq!(afterwards(without).await, "envelope-missing");
    assert_eq!(afterwards(|w| w.set("sae", "a.b")).await, "malformed");
    let twice = |w: &mut World| {
        let envelope = w.fields["sae"].clone();
        w.fields.append("sae", envelope);
    };
    assert_eq!(afterwards(twice).await, "sae-field-repeated");
    let large = |w: &mut World| w.set("sae", &"a".repeat(5000));
    assert_eq!(afterwards(large).await, "too-large");
}

#[tokio::test]
async fn a_denial_or_a_receipt_is_no_envelope() {
    let w = World::new();
    let c = w.claims();
    let denial = Denial {
        act: Some(c.act),
        aud: Some(c.aud),
        ctx: c.ctx,
        decision: Decision {
            approval: None,
            effect: Effect::Deny,
            reason: "denied-by-rule".into(),
        },
        iat: c.iat,
        iss: c.iss,
        iss_dn: c.iss_dn,
        jti: c.jti,
        pol: Some(c.pol),
        sub: c.sub,
    };
    let compact = issue_denial(&denial, &w.agent.signer).unwrap();
    let code = afterwards(|w| w.set("sae", compact.as_str())).await;
    assert_eq!(code, "typ-not-allowed");
}

#[tokio::test]
async fn an_altered_or_foreign_signature_is_refused() {
    let altered = |w: &mut World| {
        let mut envelope = w.fields["sae"].to_str().unwrap().to_owned();
        let last = envelope.len() - 10;
        let other = if &envelope[last..=last] == "A" {
            "B"
        } else {
            "A"
        };
        envelope.replace_range(last..=last, other);
        w.set("sae", &envelope);
    };
    assert_eq!(afterwards(altered).await, "signature-invalid");
    let by_tool = |w: &mut World| {
        let claims = w.claims();
        let compact = issue_envelope(&claims, &w.tool.signer).unwrap();
        w.set("sae", compact.as_str());
        let certificate = SaeCertificate::of(&w.tool.signer).encode().unwrap();
        w.set("sae-certificate", &certificate);
    };
    assert_eq!(afterwards(by_tool).await, "peer-mismatch");
}

#[tokio::test]
async fn a_sender_that_is_not_proved_is_refused() {
    assert_eq!(by_world(|w| w.peer = None).await, "peer-unknown");
    assert_eq!(by_world(|w| w.trusted = false).await, "chain-not-trusted");
    let other_connection = |w: &mut World| {
        let der = w.tool.der.clone();
        w.peer.as_mut().unwrap().chain = vec![der];
    };
    assert_eq!(by_world(other_connection).await, "certificate-missing");
    let other_peer = |w: &mut World| w.peer.as_mut().unwrap().spiffe_id = TOOL.into();
    assert_eq!(by_world(other_peer).await, "peer-mismatch");
    assert_eq!(by_claims(|c| c.iss = TOOL.into()).await, "issuer-mismatch");
    assert_eq!(
        by_claims(|c| c.iss_dn = "CN=x".into()).await,
        "subject-dn-mismatch"
    );
    let expired_svid = |w: &mut World| w.agent.svid.not_after = NOW;
    assert_eq!(by_world(expired_svid).await, "chain-not-trusted");
}

#[tokio::test]
async fn a_certificate_field_that_proves_nothing_is_refused() {
    let other_connection = |w: &mut World| w.peer.as_mut().unwrap().chain.clear();
    let with = |value: &'static str| move |w: &mut World| w.set("sae-certificate", value);
    let code = refusal(other_connection, same, with("chain=()")).await;
    assert_eq!(code.code(), "certificate-header-invalid");
    let code = refusal(other_connection, same, with("chain=(:AQI=:)")).await;
    assert_eq!(code.code(), "chain-not-trusted");
    let long = |w: &mut World| w.set("sae-certificate", &"a".repeat(20_000));
    let code = refusal(other_connection, same, long).await;
    assert_eq!(code.code(), "certificate-header-too-large");
}

#[tokio::test]
async fn a_delegated_key_is_accepted_through_its_statement_only() {
    let mut w = World::new();
    let claims = w.claims();
    let seed = Zeroizing::new([3; 32]);
    let delegate =
        EdDsaSigner::delegate(&seed, &w.agent.signer, AGENT, NOW - 60, NOW + 600).unwrap();
    w.set("sae", issue_envelope(&claims, &delegate).unwrap().as_str());
    assert_eq!(
        w.ask(&w.pep()).await.unwrap_err().code(),
        "certificate-missing"
    );

    let certificate = SaeCertificate::of(&delegate);
    w.set("sae-certificate", &certificate.encode().unwrap());
    w.now = NOW + 601;
    let code = w.ask(&w.pep()).await.unwrap_err().code();
    assert_eq!(code, "key-statement-invalid", "the statement has ended");
    w.now = NOW + 1;

    let bare = SaeCertificate {
        statement: None,
        ..certificate.clone()
    };
    w.set("sae-certificate", &bare.encode().unwrap());
    assert_eq!(w.ask(&w.pep()).await.unwrap_err().code(), "unknown-key");

    w.set("sae-certificate", &certificate.encode().unwrap());
    assert_eq!(
        w.ask(&w.pep()).await.unwrap().envelope.algorithm(),
        Algorithm::EdDsa
    );
}

#[tokio::test]
async fn an_envelope_for_another_target_is_refused() {
    let other = "spiffe://example.org/ns/demo/sa/other";
    assert_eq!(
        by_claims(|c| c.aud = other.into()).await,
        "audience-mismatch"
    );
    // The same PEP software in another cluster (M-17): same host, other identity.
    let elsewhere = |w: &mut World| w.audience = vec!["spiffe://example.com/tool".into()];
    assert_eq!(by_world(elsewhere).await, "audience-mismatch");
}

#[tokio::test]
async fn a_clock_that_is_off_lets_nothing_in() {
    assert_eq!(afterwards(|w| w.now = NOW + 65).await, "expired");
    assert_eq!(afterwards(|w| w.now = NOW + 1_000_000).await, "expired");
    assert_eq!(afterwards(|w| w.now = NOW - 6).await, "issued-in-future");
    let later = |c: &mut Claims| c.nbf = NOW + 10;
    assert_eq!(by_claims(later).await, "not-yet-valid");
}

#[tokio::test]
async fn after_a_lost_store_only_what_is_bound_to_a_connection_since_then_is_accepted() {
    let fresh_store = |binding| {
        let mut w = World::new();
        w.binding = binding;
        w.opened = NOW + 1;
        w
    };
    let mut w = fresh_store(Binding::Required);
    let claims = w.claims();
    w.stamp(&claims);
    let pep = w.pep();
    assert!(w.ask(&pep).await.is_ok());
    assert_eq!(w.ask(&pep).await.unwrap_err().code(), "replayed");

    // Bound to another connection, it is no use here.
    let mut w = fresh_store(Binding::Required);
    let mut claims = w.claims();
    claims.ctx.cb = Some([9; 32]);
    w.stamp(&claims);
    assert_eq!(
        w.ask(&w.pep()).await.unwrap_err().code(),
        "channel-binding-mismatch"
    );
}

#[tokio::test]
async fn after_a_lost_store_nothing_from_before_is_accepted() {
    assert_eq!(by_world(|w| w.opened = NOW + 1).await, "issued-before-boot");
    // Within the skew it could be from before by the sender's clock.
    assert_eq!(by_world(|w| w.opened = NOW - 4).await, "issued-before-boot");
    let mut w = World::new();
    w.opened = NOW - 5;
    let claims = w.claims();
    w.stamp(&claims);
    assert!(w.ask(&w.pep()).await.is_ok());
}

#[tokio::test]
async fn a_staple_that_cannot_be_checked_is_refused() {
    assert_eq!(
        afterwards(|w| w.set("sae-status", "AAAA")).await,
        "status-not-proved"
    );
    let stapled = |w: &mut World| {
        let claims = w.claims();
        let compact = issue_stapled_envelope(&claims, hash("status"), &w.agent.signer).unwrap();
        w.set("sae", compact.as_str());
    };
    assert_eq!(afterwards(stapled).await, "status-not-proved");
}

#[tokio::test]
async fn another_kind_of_action_is_not_served() {
    assert_eq!(
        by_claims(|c| c.act.kind = Kind::Mcp).await,
        "kind-not-served"
    );
    let custom = |c: &mut Claims| {
        c.act.kind = Kind::Custom;
        c.act.http = None;
    };
    assert_eq!(by_claims(custom).await, "kind-not-served");
}

#[tokio::test]
async fn a_request_that_was_changed_after_the_decision_is_refused() {
    assert_eq!(
        afterwards(|w| w.method = Method::PUT).await,
        "method-mismatch"
    );
    assert_eq!(
        afterwards(|w| w.target = "/v1/accounts?dry=1".into()).await,
        "path-mismatch"
    );
    assert_eq!(
        afterwards(|w| w.target = "/v1/transfers?dry=0".into()).await,
        "query-mismatch"
    );
    assert_eq!(
        afterwards(|w| w.target = "/v1/transfers".into()).await,
        "query-mismatch"
    );
    assert_eq!(
        afterwards(|w| w.set("x-account", "2")).await,
        "fields-mismatch"
    );
    assert_eq!(afterwards(|w| w.body.push(b' ')).await, "body-mismatch");
    assert_eq!(afterwards(|w| w.body.clear()).await, "body-mismatch");
    assert_eq!(afterwards(|w| w.streamed = true).await, "body-too-large");
    let other_host = |c: &mut Claims| c.sub = "https://other.example.org/v1/transfers".into();
    assert_eq!(by_claims(other_host).await, "target-mismatch");
}

#[tokio::test]
async fn a_caller_of_an_unknown_domain_chain_or_profile_is_refused() {
    let other = |w: &mut World| w.trust_domain = "example.com".into();
    assert_eq!(by_world(other).await, "trust-domain-unknown");
    assert_eq!(by_claims(|c| c.pol.chain_id = 1).await, "chain-mismatch");
    assert_eq!(
        by_claims(|c| c.pol.evm = "writ-evm/2".into()).await,
        "evm-profile-unknown"
    );
}

#[tokio::test]
async fn own_state_that_is_stale_or_missing_is_no_state() {
    assert_eq!(by_world(|w| w.chain.head = None).await, "state-stale");
    let stale = |w: &mut World| w.chain.registration = Err(StateError::Stale);
    assert_eq!(by_world(stale).await, "state-stale");
    let broken = |w: &mut World| {
        w.chain.registration = Err(StateError::Unavailable("no proof".into()));
    };
    let refused = refusal(broken, same, same).await;
    assert_eq!(
        (refused.code(), refused.status().as_u16()),
        ("state-unavailable", 503)
    );
}

#[tokio::test]
async fn a_block_ahead_is_waited_for_and_then_refused_for_now() {
    let refused = refusal(same, |c| c.pol.block = 1001, same).await;
    assert_eq!(
        refused,
        Refusal::StateBehind {
            block: 1001,
            head: 1000
        }
    );
    assert_eq!(refused.status().as_u16(), 503);

    let mut w = World::new();
    w.chain.next_head = Some(1001);
    let mut claims = w.claims();
    claims.pol.block = 1001;
    w.stamp(&claims);
    assert_eq!(w.ask(&w.pep()).await.unwrap().view.block, 1001);
}

#[tokio::test]
async fn a_decision_on_a_block_long_gone_is_refused() {
    assert_eq!(by_claims(|c| c.pol.block = 699).await, "state-too-old");
}

#[tokio::test]
async fn a_caller_that_is_not_active_is_refused() {
    for (status, code) in [
        (AgentStatus::Unknown, "agent-unknown"),
        (AgentStatus::Paused, "agent-paused"),
        (AgentStatus::Revoked, "agent-revoked"),
    ] {
        assert_eq!(by_world(|w| w.registered().status = status).await, code);
    }
    assert_eq!(
        by_world(|w| w.registered().paused = true).await,
        "policy-paused"
    );
    let other_salt = |c: &mut Claims| c.pol.salt = [8; 16];
    assert_eq!(by_claims(other_salt).await, "agent-unknown");
    let model = |w: &mut World| w.registered().model = hash("another model");
    assert_eq!(by_world(model).await, "model-mismatch");
}

#[tokio::test]
async fn a_policy_that_changed_since_the_decision_is_refused_and_the_envelope_not_used_up() {
    for change in [
        |w: &mut World| w.registered().policy_id = [1; 32],
        |w: &mut World| w.registered().contract = [1; 20].into(),
        |w: &mut World| w.registered().code_hash = [1; 32],
        |w: &mut World| w.registered().catalog_hash = [1; 32],
    ] {
        let mut w = World::new();
        let claims = w.claims();
        w.stamp(&claims);
        let before = w.chain.clone();
        change(&mut w);
        let refused = w.ask(&w.pep()).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.status().as_u16()),
            ("policy-changed", 409)
        );
        // Had the pointer gone back, the same envelope would still be good.
        w.chain = before;
        assert!(w.ask(&w.pep()).await.is_ok());
    }
}

#[tokio::test]
async fn a_request_that_the_callers_catalog_reads_otherwise_is_refused() {
    assert_eq!(by_world(|w| w.catalog = None).await, "catalog-unknown");
    let says = |answer: Result<Vec<Classified>, String>| {
        move |w: &mut World| w.catalog = Some(Arc::new(Fixed(answer)))
    };
    assert_eq!(
        by_world(says(Err("unlisted".into()))).await,
        "not-classified"
    );
    let other = |change: fn(&mut Classified)| {
        let mut action = classified();
        change(&mut action);
        says(Ok(vec![action]))
    };
    assert_eq!(
        by_world(other(|a| a.audience = AGENT.into())).await,
        "destination-mismatch"
    );
    assert_eq!(
        by_world(other(|a| a.kind = Kind::Mcp)).await,
        "kind-mismatch"
    );
    assert_eq!(
        by_world(other(|a| a.capability = "x".into())).await,
        "capability-mismatch"
    );
    assert_eq!(by_world(other(|a| a.class = 2)).await, "class-mismatch");
    assert_eq!(
        by_world(other(|a| a.params_digest = [0; 32])).await,
        "params-mismatch"
    );
}

#[tokio::test]
async fn an_obligation_that_is_not_fulfilled_here_is_refused() {
    assert_eq!(
        by_claims(|c| c.ctx.obligations = 0b11).await,
        "obligation-unsupported"
    );
    let mut w = World::new();
    let mut claims = w.claims();
    claims.ctx.obligations = 0b1;
    w.stamp(&claims);
    assert!(w.ask(&w.pep()).await.is_ok());
}

#[tokio::test]
async fn an_envelope_of_another_connection_is_refused() {
    let other = |w: &mut World| w.exporter = Some([1; 32]);
    assert_eq!(afterwards(other).await, "channel-binding-mismatch");
    // A PEP that does not end TLS cannot compare it.
    assert_eq!(
        afterwards(|w| w.exporter = None).await,
        "channel-binding-mismatch"
    );
    let required = |w: &mut World| w.binding = Binding::Required;
    let unbound = refusal(required, |c| c.ctx.cb = None, same).await;
    assert_eq!(unbound.code(), "channel-binding-missing");
}

#[tokio::test]
async fn a_configuration_that_is_not_safe_makes_no_pep() {
    let w = World::new();
    let build = |change: fn(&mut PepConfig)| {
        let mut config = PepConfig {
            audience: vec![TOOL.into()],
            kinds: vec![Kind::Http],
            skew: std::time::Duration::from_secs(5),
            binding: Binding::Required,
            obligations: 0,
            block_wait: std::time::Duration::from_millis(250),
            max_block_lag: 300,
            chains: Arc::new(Leaves(Default::default())),
            trust_domains: Default::default(),
            catalogs: Arc::new(std::collections::HashMap::new()),
            replay: Arc::new(
                RedbReplayStore::open(&w.dir.path().join("r.redb"), w.limits, NOW).unwrap(),
            ),
        };
        change(&mut config);
        Pep::new(config).map(|_| ())
    };
    assert_eq!(build(|c| c.audience.clear()), Err(ConfigError::NoAudience));
    assert_eq!(build(|c| c.kinds.clear()), Err(ConfigError::Kinds));
    assert_eq!(
        build(|c| c.kinds = vec![Kind::Opaque]),
        Err(ConfigError::Kinds)
    );
    let skewed = build(|c| c.skew = std::time::Duration::from_secs(61));
    assert_eq!(skewed, Err(ConfigError::Skew(61)));
}
