//! A PEP in a world of test doubles: one tool, one agent, one chain.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};
use writ_pep::Refusal;
use writ_pep::*;
use writ_policy::{Address, AgentStatus, Registration, names::agent_key};
use writ_sae::*;
use zeroize::Zeroizing;

pub const NOW: u64 = 1_800_000_000;
pub const BOOT: u64 = NOW - 1000;
pub const AGENT: &str = "spiffe://example.org/ns/demo/sa/agent";
pub const TOOL: &str = "spiffe://example.org/ns/demo/sa/tool";
pub const SALT: [u8; 16] = [7; 16];
pub const BODY: &[u8] = br#"{"amount":"12.50","to":"alice"}"#;

pub fn hash(label: &str) -> [u8; 32] {
    encoding::sha256(label.as_bytes())
}

/// The identities of the published vectors.
pub struct Identity {
    pub signer: Es256Signer,
    pub svid: VerifiedSvid,
    pub der: Vec<u8>,
}

pub fn keys_file() -> Value {
    serde_json::from_str(include_str!("../../../sae/tests/vectors/keys.json")).unwrap()
}

pub fn identity(name: &str) -> Identity {
    use base64::Engine as _;
    let file = keys_file();
    let json = &file["identities"][name];
    let standard = base64::engine::general_purpose::STANDARD;
    let der = standard
        .decode(json["certificate"].as_str().unwrap())
        .unwrap();
    let secret = encoding::from_base64url(json["jwk"]["d"].as_str().unwrap()).unwrap();
    let secret = Zeroizing::new(secret.try_into().unwrap());
    let signer = Es256Signer::new(&secret, vec![der.clone()]).unwrap();
    let svid = VerifiedSvid {
        spiffe_id: json["spiffe_id"].as_str().unwrap().into(),
        public_key: signer.public_key(),
        leaf_sha256: encoding::sha256(&der),
        subject_dn: json["subject_dn"].as_str().unwrap().into(),
        not_after: json["not_after"].as_u64().unwrap(),
    };
    Identity { signer, svid, der }
}

/// Trusts exactly the leaves it was given.
pub struct Leaves(pub HashMap<Vec<u8>, VerifiedSvid>);

impl ChainVerifier for Leaves {
    fn verify_chain(&self, chain: &[Vec<u8>], now: u64) -> Result<VerifiedSvid, ChainError> {
        let leaf = chain.first().and_then(|leaf| self.0.get(leaf));
        leaf.filter(|svid| now < svid.not_after)
            .cloned()
            .ok_or_else(|| ChainError("not in the bundle".into()))
    }
}

/// The chain as this PEP knows it.
pub struct TestChain(pub Mutex<ChainNow>);

#[derive(Clone)]
pub struct ChainNow {
    pub chain_id: u64,
    pub head: Option<u64>,
    /// The head that appears when somebody waits for it.
    pub next_head: Option<u64>,
    pub registration: Result<Registration, StateError>,
    pub known: [u8; 32],
    pub approval: Result<ApprovalWindow, StateError>,
}

impl CallerState for TestChain {
    fn chain_id(&self) -> u64 {
        self.0.lock().unwrap().chain_id
    }
    fn head(&self) -> Option<u64> {
        self.0.lock().unwrap().head
    }
    fn wait_for_block(&self, _: u64, within: Duration) -> BoxFuture<'_, Option<u64>> {
        assert_eq!(within, Duration::from_millis(250));
        Box::pin(async {
            let mut now = self.0.lock().unwrap();
            now.head = now.next_head.or(now.head);
            now.head
        })
    }
    fn registration(&self, key: [u8; 32]) -> BoxFuture<'_, Result<CallerView, StateError>> {
        let now = self.0.lock().unwrap().clone();
        Box::pin(async move {
            let mut registration = now.registration?;
            if key != now.known {
                registration.status = AgentStatus::Unknown;
            }
            Ok(CallerView {
                registration,
                block: now.head.unwrap(),
            })
        })
    }
    fn approval<'a>(
        &'a self,
        _: ApprovalUse<'a>,
    ) -> BoxFuture<'a, Result<ApprovalWindow, StateError>> {
        let answer = self.0.lock().unwrap().approval.clone();
        Box::pin(async move { answer })
    }
}

/// A catalog that always says the same.
pub struct Fixed(pub Result<Vec<Classified>, String>);

impl CallerCatalog for Fixed {
    fn classify(&self, _: &CanonicalRequest, _: Option<&[u8]>) -> Result<Vec<Classified>, String> {
        self.0.clone()
    }
}

pub fn classified() -> Classified {
    Classified {
        kind: Kind::Http,
        capability: "payments.transfer".into(),
        class: 1,
        params_digest: hash("params"),
        audience: TOOL.into(),
    }
}

/// Everything around one request; a test changes what it is about.
pub struct World {
    pub dir: tempfile::TempDir,
    pub agent: Identity,
    pub tool: Identity,
    pub chain: ChainNow,
    pub catalog: Option<Arc<dyn CallerCatalog>>,
    pub catalog_hash: [u8; 32],
    pub trusted: bool,
    /// Replaces the leaves that are trusted by name.
    pub chains: Option<Arc<dyn ChainVerifier>>,
    pub audience: Vec<String>,
    pub kinds: Vec<Kind>,
    pub binding: Binding,
    pub trust_domain: String,
    pub opened: u64,
    pub limits: ReplayLimits,
    /// The request.
    pub method: Method,
    pub target: String,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub streamed: bool,
    pub peer: Option<Peer>,
    pub exporter: Option<[u8; 32]>,
    pub now: u64,
}

impl World {
    pub fn new() -> Self {
        let agent = identity("agent");
        let registration = Registration {
            status: AgentStatus::Active,
            policy_id: hash("policy"),
            model: [0; 32],
            organisation: [0; 32],
            contract: Address::from([0xab; 20]),
            code_hash: hash("code"),
            catalog_hash: hash("catalog"),
            version: 1,
            paused: false,
        };
        let mut fields = HeaderMap::new();
        fields.insert("content-type", HeaderValue::from_static("application/json"));
        let peer = Peer {
            spiffe_id: AGENT.into(),
            chain: vec![agent.der.clone()],
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            agent,
            tool: identity("tool"),
            chain: ChainNow {
                chain_id: 84532,
                head: Some(1000),
                next_head: None,
                registration: Ok(registration),
                known: agent_key(&SALT, AGENT),
                approval: Err(StateError::ApprovalsUnknown),
            },
            catalog: Some(Arc::new(Fixed(Ok(vec![classified()])))),
            catalog_hash: hash("catalog"),
            trusted: true,
            chains: None,
            audience: vec![TOOL.into()],
            kinds: vec![Kind::Http],
            binding: Binding::Optional,
            trust_domain: "example.org".into(),
            opened: BOOT,
            limits: ReplayLimits::default(),
            method: Method::POST,
            target: "/v1/transfers?dry=1".into(),
            fields,
            body: BODY.to_vec(),
            streamed: false,
            peer: Some(peer),
            exporter: Some(hash("exporter")),
            now: NOW + 1,
        }
    }

    /// The registration, to be changed.
    pub fn registered(&mut self) -> &mut Registration {
        self.chain.registration.as_mut().unwrap()
    }

    pub fn pep(&self) -> Pep {
        let path = self.dir.path().join("replay.redb");
        let replay = RedbReplayStore::open(&path, self.limits, self.opened).unwrap();
        self.pep_with(Arc::new(replay))
    }

    pub fn pep_with(&self, replay: Arc<dyn ReplayStore>) -> Pep {
        let mut leaves = HashMap::new();
        if self.trusted {
            leaves.insert(self.agent.der.clone(), self.agent.svid.clone());
            leaves.insert(self.tool.der.clone(), self.tool.svid.clone());
        }
        let mut catalogs: HashMap<[u8; 32], Arc<dyn CallerCatalog>> = HashMap::new();
        if let Some(catalog) = &self.catalog {
            catalogs.insert(self.catalog_hash, catalog.clone());
        }
        let state: Arc<dyn CallerState> = Arc::new(TestChain(Mutex::new(self.chain.clone())));
        Pep::new(PepConfig {
            audience: self.audience.clone(),
            kinds: self.kinds.clone(),
            skew: Duration::from_secs(5),
            binding: self.binding,
            obligations: 0b1,
            block_wait: Duration::from_millis(250),
            max_block_lag: 300,
            chains: self.chains.clone().unwrap_or(Arc::new(Leaves(leaves))),
            trust_domains: BTreeMap::from([(self.trust_domain.clone(), state)]),
            catalogs: Arc::new(catalogs),
            replay,
        })
        .unwrap()
    }

    pub fn head(&self) -> CanonicalRequest {
        let mut fields = self.fields.clone();
        for name in ["sae", "sae-certificate", "sae-status"] {
            fields.remove(name);
        }
        let raw = RawHead {
            scheme: Scheme::Https,
            method: &self.method,
            authority: "payments.example.org",
            path_and_query: &self.target,
            headers: &fields,
        };
        canonicalize(raw, &Limits::default()).unwrap()
    }

    /// The claims that a sidecar would make for the request as it stands.
    pub fn claims(&self) -> Claims {
        let head = self.head();
        Claims {
            act: Act {
                classification: 1,
                envelope_hash: None,
                http: Some(HttpBinding {
                    content_digest: BodyDigest::Sha256(encoding::sha256(&self.body)),
                    fields_digest: head.fields_digest(),
                    method: head.method.clone(),
                    path: head.path.clone(),
                    query_digest: head.query_digest(),
                }),
                idem: None,
                kind: Kind::Http,
                method: "payments.transfer".into(),
                params: Params {
                    digest: hash("params"),
                    fields: BTreeMap::new(),
                },
            },
            aud: TOOL.into(),
            chain: Settlement {
                contract: [0xcd; 20],
                id: 84532,
            },
            ctx: Context {
                approval: None,
                cb: self.exporter,
                data_classification: 1,
                log: LogRef {
                    id: "log-1".into(),
                    seq: 42,
                },
                obligations: 0,
                parent_chain: vec![],
                principal: None,
                risk_score: 0,
                session_id: "session-1".into(),
            },
            exp: NOW + 60,
            iat: NOW,
            iss: AGENT.into(),
            iss_dn: "CN=agent,O=SPIRE".into(),
            jti: Jti([9; 16]),
            model: Model {
                sbom: None,
                sha256: hash("model"),
            },
            nbf: NOW,
            pol: PolicyBinding {
                block: 1000,
                block_hash: hash("block"),
                catalog_hash: self.catalog_hash,
                chain_id: 84532,
                code_hash: hash("code"),
                contract: [0xab; 20],
                evm: "writ-evm/1".into(),
                input: hash("input"),
                policy: hash("policy"),
                rule: hash("rule"),
                salt: SALT,
                state: StateAge::Fresh,
            },
            sub: head.target_uri(),
        }
    }

    pub fn stamp(&mut self, claims: &Claims) {
        let compact = issue_envelope(claims, &self.agent.signer).unwrap();
        self.set("sae", compact.as_str());
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        self.fields
            .insert(name, HeaderValue::from_str(value).unwrap());
    }

    pub async fn ask(&self, pep: &Pep) -> Result<Admitted, Refusal> {
        let head = self.head();
        let body = if self.streamed {
            Body::Stream
        } else {
            Body::Whole(&self.body)
        };
        pep.check(Inbound {
            head: &head,
            body,
            headers: &self.fields,
            peer: self.peer.as_ref(),
            channel_binding: self.exporter,
            now: self.now,
        })
        .await
    }
}

/// Changes the world and the claims, sends the request, and says how it was refused. The world is
/// changed before the claims are made from it, `after` when the envelope is already on it.
pub async fn refusal(
    world: impl FnOnce(&mut World),
    claims: impl FnOnce(&mut Claims),
    after: impl FnOnce(&mut World),
) -> Refusal {
    let mut w = World::new();
    world(&mut w);
    let mut c = w.claims();
    claims(&mut c);
    w.stamp(&c);
    after(&mut w);
    w.ask(&w.pep())
        .await
        .map(|_| ())
        .expect_err("it was admitted")
}
