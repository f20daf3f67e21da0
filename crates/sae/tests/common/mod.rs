//! Keys and claims of the published vectors.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use writ_sae::*;
use zeroize::Zeroizing;

pub const NOW: u64 = 1_800_000_000;
pub const AGENT: &str = "spiffe://example.org/ns/demo/sa/agent";
pub const TOOL: &str = "spiffe://example.org/ns/demo/sa/tool";

/// Keys of `tests/vectors/keys.json`.
pub struct Keys {
    pub agent: Es256Signer,
    pub tool: Es256Signer,
    pub delegate: EdDsaSigner,
    pub agent_svid: VerifiedSvid,
    pub tool_svid: VerifiedSvid,
}

impl Keys {
    pub fn load() -> Self {
        let json: Value = serde_json::from_str(include_str!("../vectors/keys.json")).unwrap();
        let (agent, agent_svid) = identity(&json["identities"]["agent"]);
        let (tool, tool_svid) = identity(&json["identities"]["tool"]);
        let seed = secret(&json["delegate"]);
        let delegate = EdDsaSigner::delegate(&seed, &agent, AGENT, NOW - 60, NOW + 3600).unwrap();
        Self {
            agent,
            tool,
            delegate,
            agent_svid,
            tool_svid,
        }
    }

    /// The agent's own key.
    pub fn agent_key(&self) -> VerifyKey {
        VerifyKey::from_svid(&self.agent_svid).unwrap()
    }

    /// The key that the agent's SVID delegates to.
    pub fn delegate_key(&self) -> VerifyKey {
        let statement = Unverified::<KeyStatement>::parse(self.delegate.key_statement().unwrap())
            .unwrap()
            .verify(&self.agent_key(), NOW, 0)
            .unwrap();
        VerifyKey::from_statement(&statement, &self.agent_svid).unwrap()
    }
}

fn secret(jwk: &Value) -> Zeroizing<[u8; 32]> {
    let bytes = encoding::from_base64url(jwk["d"].as_str().unwrap()).unwrap();
    Zeroizing::new(bytes.try_into().unwrap())
}

fn identity(json: &Value) -> (Es256Signer, VerifiedSvid) {
    let der = STANDARD
        .decode(json["certificate"].as_str().unwrap())
        .unwrap();
    let signer = Es256Signer::new(&secret(&json["jwk"]), vec![der.clone()]).unwrap();
    assert_eq!(signer.kid(), json["kid"]);
    let svid = VerifiedSvid {
        spiffe_id: json["spiffe_id"].as_str().unwrap().into(),
        public_key: signer.public_key(),
        leaf_sha256: encoding::sha256(&der),
        subject_dn: json["subject_dn"].as_str().unwrap().into(),
        not_after: json["not_after"].as_u64().unwrap(),
    };
    (signer, svid)
}

pub fn hash(label: &str) -> [u8; 32] {
    encoding::sha256(label.as_bytes())
}

pub fn act() -> Act {
    Act {
        classification: 1,
        envelope_hash: None,
        http: Some(HttpBinding {
            content_digest: BodyDigest::Sha256(hash(r#"{"amount":"12.50","to":"alice"}"#)),
            fields_digest: hash("fields"),
            method: "POST".into(),
            path: "/v1/transfers".into(),
            query_digest: hash(""),
        }),
        idem: Some("order-4711".into()),
        kind: Kind::Http,
        method: "payments.transfer".into(),
        params: Params {
            digest: hash("params"),
            fields: BTreeMap::from([
                ("amount".into(), Scalar::String("12.50".into())),
                ("express".into(), Scalar::Bool(true)),
                ("items".into(), Scalar::Integer(3)),
            ]),
        },
    }
}

pub fn policy() -> PolicyBinding {
    PolicyBinding {
        block: 31_337_000,
        block_hash: hash("block"),
        catalog_hash: hash("catalog"),
        chain_id: 84532,
        code_hash: hash("code"),
        contract: [0xab; 20],
        evm: "writ-evm/1".into(),
        input: hash("input"),
        policy: hash("policy"),
        rule: hash("rule"),
        salt: [7; 16],
        state: StateAge::Fresh,
    }
}

pub fn context() -> Context {
    Context {
        approval: None,
        cb: Some(hash("tls exporter")),
        data_classification: 1,
        log: LogRef {
            id: "log-1".into(),
            seq: 42,
        },
        obligations: 0,
        parent_chain: vec![hash("parent one"), hash("parent two")],
        principal: Some("user:Jos\u{e9}".into()),
        risk_score: 12,
        session_id: "session-1".into(),
    }
}

pub fn claims() -> Claims {
    Claims {
        act: act(),
        aud: TOOL.into(),
        chain: Settlement {
            contract: [0xcd; 20],
            id: 84532,
        },
        ctx: context(),
        exp: NOW + 60,
        iat: NOW,
        iss: AGENT.into(),
        iss_dn: "CN=agent,O=SPIRE".into(),
        jti: Jti([9; 16]),
        model: Model {
            sbom: Some(hash("sbom")),
            sha256: hash("model"),
        },
        nbf: NOW,
        pol: policy(),
        sub: "https://payments.example.org/v1/transfers".into(),
    }
}

pub fn denial() -> Denial {
    Denial {
        act: Some(act()),
        aud: Some(TOOL.into()),
        ctx: context(),
        decision: Decision {
            approval: None,
            effect: Effect::Deny,
            reason: "amount-over-limit".into(),
        },
        iat: NOW,
        iss: AGENT.into(),
        iss_dn: "CN=agent,O=SPIRE".into(),
        jti: Jti([8; 16]),
        pol: Some(policy()),
        sub: "https://payments.example.org/v1/transfers".into(),
    }
}

pub fn receipt(sae: [u8; 32], outcome: Outcome) -> ReceiptClaims {
    let done = outcome == Outcome::Completed;
    ReceiptClaims {
        aud: AGENT.into(),
        completed: (outcome != Outcome::Accepted).then_some(NOW * 1000 + 20),
        iat: NOW,
        iss: TOOL.into(),
        iss_dn: "CN=tool,O=SPIRE".into(),
        jti: Jti([9; 16]),
        log: Some(LogRef {
            id: "log-2".into(),
            seq: 7,
        }),
        outcome,
        received: NOW * 1000,
        response: done.then(|| BodyDigest::Sha256(hash("response"))),
        sae,
        status: done.then_some(201),
    }
}

pub fn audience() -> Vec<String> {
    vec![TOOL.into()]
}

pub fn expect(audience: &[String]) -> Expectations<'_> {
    Expectations {
        now: NOW + 1,
        skew: 5,
        audience,
        peer: Some(AGENT),
        replay_since: None,
    }
}

/// Signs any header and payload bytes, to make tokens that the issuer would never make.
pub fn sign_raw(signer: &dyn Signer, header: &[u8], payload: &[u8]) -> String {
    let head = encoding::to_base64url(header);
    let input = format!("{head}.{}", encoding::to_base64url(payload));
    let mut signature = signer.sign(input.as_bytes()).unwrap();
    if signer.algorithm() == Algorithm::Es256 {
        signature = low_s(&signature).unwrap();
    }
    format!("{input}.{}", encoding::to_base64url(&signature))
}

/// RFC 8785 of the JSON that these tests use: sorted keys, no space.
pub fn jcs(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).unwrap()
}

/// Header and payload of a compact form, as JSON.
pub fn open(compact: &str) -> (Value, Value) {
    let mut parts = compact
        .split('.')
        .map(|part| encoding::from_base64url(part).unwrap());
    let header = serde_json::from_slice(&parts.next().unwrap()).unwrap();
    let payload = serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (header, payload)
}
