//! A real sidecar that follows a relay: real processes and SVIDs, a real chain, mutual TLS on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../crates/chain/tests/support/evaluation.rs"]
mod evaluation;
#[path = "../../crates/chain/tests/support/liar.rs"]
mod liar;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use evaluation::Chain;
use liar::Liar;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use writ_catalog::{CUSTOM_ACTION, Catalog};
use writ_chain::{ChainConfig, Clock, Relay as _, StateFeed, SystemClock, TestClock, WarmSet};
use writ_dev_issuer::Issuer;
use writ_identity::tls::Authorize;
use writ_identity::{SvidSource, WorkloadApiSource};
use writ_pep::CallerState as _;
use writ_policy::AgentStatus;
use writ_policy::names::agent_key;
use writ_policy::testing::{allowing, verdict_contract};
use writ_relay::{
    ChainSettings, Enforced, Holds, Notice, RelayServer, Report, ServerSettings, Unkept, Witness,
    WitnessAt, WitnessSettings,
};
use writ_sidecar::config::Config;
use writ_sidecar::inbound::ProvedCallers;
use writ_sidecar::relay::{Relays, Reported};
use writ_sidecar::seen::{Due, Seen, Sight};

const DOMAIN: &str = "relay.test";
const POLICY: Address = Address::repeat_byte(0xc3);
const WITNESSES: usize = 3;
const NEEDED: usize = 2;
const SALT: [u8; 16] = [0x0a; 16];
/// Longer than anything that is waited for takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(90);

const CATALOG: &str = "\
version: 1
name: relayed
destinations:
  - name: bank
    host: bank.example
    port: 80
    peer: unverified
    upstream: {mode: plain}
    agent_tls: originate
    envelope: withhold
    pep: none
entries:
  - name: sign-payout
    destination: bank
    protocol: custom
    capability: payouts.sign
    class: internal
";

fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/writ-system/sa/{account}")
}

/// A chain, an issuer of SVIDs, witnesses, each with an endpoint of its own, and a relay.
struct World {
    chain: Chain,
    folder: tempfile::TempDir,
    _issuer: Issuer,
    witnesses: Vec<Witness>,
    /// Those of the witnesses, the relay's, the sidecar's.
    endpoints: Vec<Liar>,
    relay: Option<RelayServer>,
    address: SocketAddr,
    reports: Option<mpsc::Sender<Report>>,
}

impl World {
    async fn start() -> Self {
        let chain = Chain::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut accounts = vec!["agent".to_owned(), "writ-relay".to_owned()];
        accounts.extend((0..WITNESSES).map(witness));
        let issuer = issue(folder.path(), &accounts).await;
        let mut endpoints = Vec::new();
        for _ in 0..WITNESSES + 2 {
            endpoints.push(Liar::start(chain.url(), Arc::clone(&chain.quiet)).await);
        }
        let mut world = Self {
            chain,
            folder,
            _issuer: issuer,
            witnesses: Vec::new(),
            endpoints,
            relay: None,
            address: "127.0.0.1:0".parse().unwrap(),
            reports: None,
        };
        for n in 0..WITNESSES {
            let settings = WitnessSettings {
                chain: world.reading(n),
                listen: "127.0.0.1:0".parse().unwrap(),
                relays: BTreeSet::from([id("writ-relay")]),
            };
            let source = world.source(&witness(n)).await;
            let witness = Witness::start(settings, source, clock()).await.unwrap();
            world.witnesses.push(witness);
        }
        world.start_relay().await;
        world
    }

    /// Starts the relay at the address of before, whose port is free a moment after it was dropped.
    async fn start_relay(&mut self) {
        let at = |(n, one): (usize, &Witness)| WitnessAt {
            spiffe_id: id(&witness(n)),
            address: one.address().to_string(),
        };
        let settings = ServerSettings {
            listen: self.address,
            chains: vec![ChainSettings {
                chain: self.reading(WITNESSES),
                witnesses: self.witnesses.iter().enumerate().map(at).collect(),
                needed: NEEDED,
                skew: 10,
            }],
            authorize: Authorize::TrustDomain(DOMAIN.to_owned()),
            max_connections: 8,
            max_streams_per_id: 8,
            reports: self.reports.clone(),
        };
        let source = self.source("writ-relay").await;
        let starting = async {
            loop {
                let started = RelayServer::start(settings.clone(), Arc::clone(&source), clock());
                if let Ok(relay) = started.await {
                    return relay;
                }
                tokio::task::yield_now().await;
            }
        };
        let relay = tokio::time::timeout(PATIENCE, starting).await.unwrap();
        self.address = relay.address();
        self.relay = Some(relay);
    }

    /// As whoever reads only this endpoint is configured.
    fn reading(&self, endpoint: usize) -> ChainConfig {
        let endpoints = vec![self.endpoints[endpoint].url()];
        ChainConfig {
            poll: Duration::from_millis(100),
            ..ChainConfig::new(endpoints, self.chain.registries)
        }
    }

    /// The sidecar's own endpoint.
    fn own(&self) -> &Liar {
        self.endpoints.last().unwrap()
    }

    async fn source(&self, account: &str) -> Arc<dyn SvidSource> {
        let socket = self.folder.path().join(format!("{account}.sock"));
        let source = WorkloadApiSource::connect(&socket.to_string_lossy()).await;
        Arc::new(source.unwrap())
    }

    /// Waits until the sidecar has a block that is mined now.
    async fn mined(&self, sidecar: &Sidecar) {
        self.chain.mine().await;
        let wanted = self.chain.head().await.number;
        eventually("the sidecar has the newest head", async || {
            sidecar.metric("writ_head_block").await >= wanted
        })
        .await;
    }
}

fn witness(n: usize) -> String {
    format!("writ-witness-{n}")
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// A socket for each service account, given to it alone.
async fn issue(folder: &Path, accounts: &[String]) -> Issuer {
    let socket = |account: &String| {
        let path = folder.join(format!("{account}.sock"));
        json!({"path": path, "workloads": [{"spiffe_id": id(account)}]})
    };
    let sockets: Vec<Value> = accounts.iter().map(socket).collect();
    let config = json!({"trustDomains": [{"name": DOMAIN}], "sockets": sockets});
    let config = writ_dev_issuer::Config::from_yaml(&config.to_string()).unwrap();
    writ_dev_issuer::serve(config).await.unwrap()
}

struct Sidecar {
    process: Child,
    admin: u16,
    api: u16,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sidecar {
    /// A sidecar of the agent, with the world's relay.
    async fn start(world: &World) -> Self {
        let (file, [_, _, admin, api, _]) = configured(world).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_writ-sidecar"));
        command.arg("run").arg("--config").arg(file);
        let sidecar = Self {
            process: command.spawn().unwrap(),
            admin,
            api,
        };
        eventually("the sidecar is ready", async || {
            sidecar.asks("/readyz").await.is_some_and(|(s, _)| s == 200)
        })
        .await;
        sidecar
    }

    async fn asks(&self, path: &str) -> Option<(u16, String)> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        say(self.admin, &request).await
    }

    async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.asks("/metrics").await.unwrap();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// Asks for an action: the status, and the code of a refusal.
    async fn acts(&self) -> (u16, String) {
        self.acts_as("payouts.sign").await
    }

    async fn acts_as(&self, capability: &str) -> (u16, String) {
        let action = json!({"capability": capability, "target": "http://bank.example/payouts", "params": {}});
        let body = action.to_string();
        let request = format!(
            "POST /v1/actions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = say(self.api, &request).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let code = answer["code"].as_str().unwrap_or_default().to_owned();
        (status, code)
    }
}

/// The agent is registered, and its sidecar's configuration written: the file, and the ports in it.
async fn configured(world: &World) -> (PathBuf, [u16; 5]) {
    let folder = world.folder.path();
    let catalog = folder.join("catalog.yaml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let hash = Catalog::from_yaml(CATALOG).unwrap().hash();
    let key = B256::from(agent_key(&SALT, &id("agent")));
    let chain = &world.chain;
    chain.set_code(POLICY, &verdict_contract(&allowing())).await;
    let policy_id = chain.install(key, POLICY).await;
    chain.publish_with(policy_id, POLICY, hash.into()).await;
    let ports = free_ports().await;
    let [outbound, inbound, admin, api, dns] = ports;
    let registries = &chain.registries;
    let witnesses: Vec<String> = (0..WITNESSES).map(|n| id(&witness(n))).collect();
    let config = json!({
        "identity": {"workloadApi": folder.join("agent.sock")},
        "agent": {"salt": hex::encode(SALT), "policySalt": hex::encode(SALT), "model": "ab".repeat(32)},
        "chain": {
            "chainId": registries.chain_id,
            "endpoints": [world.own().url()],
            "agentRegistry": registries.agents,
            "policyRegistry": registries.policies,
            "anchor": registries.policies,
            "poll": "200ms",
        },
        "state": {"relay": {
            "address": world.address.to_string(),
            "spiffeId": id("writ-relay"),
            "witnesses": witnesses,
            "needed": NEEDED,
        }},
        "catalog": catalog,
        "record": {"directory": folder.join("record")},
        "listen": {"outbound": outbound, "inbound": inbound, "admin": admin, "api": api, "dns": dns},
    });
    let file = folder.join("sidecar.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    (file, ports)
}

/// Says an HTTP request: status and body of the answer, unless nobody listens yet.
async fn say(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

async fn free_ports() -> [u16; 5] {
    let mut listeners = Vec::new();
    for _ in 0..5 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let ports: Vec<u16> = listeners.iter().map(port).collect();
    ports.try_into().unwrap()
}

/// Waits until this holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never came about: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_whose_endpoints_are_all_down_starts_follows_and_acts_by_its_relay() {
    let world = World::start().await;
    world.own().go_down();
    let sidecar = Sidecar::start(&world).await;
    assert_eq!(sidecar.metric("writ_relay_connected").await, 1);
    for _ in 0..3 {
        world.mined(&sidecar).await;
        assert_eq!(sidecar.acts().await, (200, String::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_reads_its_endpoints_while_its_relay_is_down_and_takes_it_up_again() {
    let mut world = World::start().await;
    let sidecar = Sidecar::start(&world).await;
    world.relay = None;
    eventually("the relay is missed", async || {
        sidecar.metric("writ_relay_connected").await == 0
    })
    .await;
    world.own().take_seen();
    world.mined(&sidecar).await;
    assert!(!world.own().take_seen().is_empty());
    assert_eq!(sidecar.acts().await, (200, String::new()));
    world.start_relay().await;
    eventually("the relay is found", async || {
        sidecar.metric("writ_relay_connected").await == 1
    })
    .await;
    world.own().go_down();
    world.mined(&sidecar).await;
    assert_eq!(sidecar.acts().await, (200, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_revocation_is_enforced_although_the_chain_knows_nothing_of_it() {
    let world = World::start().await;
    let sidecar = Sidecar::start(&world).await;
    assert_eq!(sidecar.acts().await, (200, String::new()));
    let relay = world.relay.as_ref().unwrap();
    let chain_id = world.chain.registries.chain_id;
    relay.set_notices(
        chain_id,
        vec![Notice {
            id: "9f1c".to_owned(),
            spiffe_id: id("agent"),
            agent_key: None,
            issued_at: clock().unix_seconds(),
        }],
    );
    let all = Enforced {
        enforcing: 1,
        connected: 1,
    };
    eventually("the sidecar says that it enforces it", async || {
        relay.enforced(chain_id, "9f1c") == all
    })
    .await;
    assert_eq!(sidecar.acts().await, (403, "revocation-pushed".to_owned()));
    world.mined(&sidecar).await;
    assert_eq!(sidecar.acts().await, (403, "revocation-pushed".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_did_is_told_until_it_is_kept_and_not_again() {
    let mut world = World::start().await;
    let (reports, mut told) = mpsc::channel::<Report>(8);
    world.reports = Some(reports);
    world.relay = None;
    world.start_relay().await;
    let (file, _) = configured(&world).await;
    let config = Config::load(&file).unwrap();
    let relays = Relays::new(&config, world.source("agent").await, clock());
    let seen = Seen::default();
    let note = |path: &str| seen.note(Sight::of_request("bank.example:80", "GET", path), 7);
    note("/balance");
    assert_eq!(relays.report(&seen, Due::New).await, Reported::Away);

    let client = relays.first(&config).await.unwrap().unwrap();
    let relay = Arc::clone(&client) as Arc<dyn writ_chain::Relay>;
    let feed = StateFeed::start_with(
        world.reading(WITNESSES + 1),
        clock(),
        WarmSet::default(),
        Some(relay),
    );
    relays.follow(&config, Arc::clone(&client), &feed.await.unwrap());
    eventually("a head came", async || client.head().is_some()).await;

    // Nobody keeps the first; the same is told again, with what came since.
    let refused = async {
        let report = told.recv().await.unwrap();
        let paths: Vec<_> = report.actions.iter().map(|a| a.path.clone()).collect();
        assert_eq!(paths, [Some("/balance".to_owned())]);
        assert_eq!(&*report.agent, id("agent"));
        report.kept.send(Err(Unkept::Failed)).unwrap();
    };
    let (reported, ()) = tokio::join!(relays.report(&seen, Due::New), refused);
    assert_eq!(reported, Reported::Refused);
    note("/balance");
    let kept = tokio::spawn(async move {
        let report = told.recv().await.unwrap();
        report.kept.send(Ok(())).unwrap();
        report.actions[0].count
    });
    // One report a second on one connection.
    eventually("it is kept", async || {
        relays.report(&seen, Due::New).await == Reported::Told
    })
    .await;
    assert_eq!(kept.await.unwrap(), 2);
    assert!(seen.untold(Due::All, 9).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_local_api_was_asked_for_is_told_as_what_was_captured_is() {
    let mut world = World::start().await;
    let (reports, mut told) = mpsc::channel::<Report>(8);
    world.reports = Some(reports);
    world.relay = None;
    world.start_relay().await;
    let sidecar = Sidecar::start(&world).await;
    assert_eq!(sidecar.acts().await, (200, String::new()));
    assert_eq!(sidecar.acts().await, (200, String::new()));
    let (status, code) = sidecar.acts_as("payouts.cancel").await;
    assert_eq!((status, code.as_str()), (403, "unlisted"));
    let mut actions = Vec::new();
    let all = async {
        while actions.len() < 2 {
            let report = told.recv().await.unwrap();
            assert_eq!(&*report.agent, id("agent"));
            report.kept.send(Ok(())).unwrap();
            actions.extend(report.actions);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    let of = |asked: &str| {
        let asked = Some(asked.to_owned());
        let action = actions.iter().find(|action| action.tool == asked);
        action.unwrap_or_else(|| panic!("{actions:?}")).clone()
    };
    let signed = of("payouts.sign");
    assert_eq!(signed.method.as_deref(), Some(CUSTOM_ACTION));
    assert_eq!(signed.destination, "bank.example:80");
    assert_eq!(
        (signed.capability.as_str(), signed.class),
        ("payouts.sign", 1)
    );
    assert_eq!((signed.denied, signed.path), (None, None));
    let cancelled = of("payouts.cancel");
    assert_eq!(cancelled.capability, "unlisted");
    assert_eq!(cancelled.denied.as_deref(), Some("unlisted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_refused_by_notice_is_revoked_to_the_pep_though_not_on_chain() {
    const HOLD: Duration = Duration::from_secs(120);
    let chain = Chain::start().await;
    chain.set_code(POLICY, &verdict_contract(&allowing())).await;
    let [caller, other] = ["caller", "other"].map(|name| agent_key(&SALT, &id(name)));
    for key in [caller, other] {
        chain.install(B256::from(key), POLICY).await;
    }
    let config = ChainConfig::new(vec![chain.url().clone()], chain.registries);
    let feed = StateFeed::start(config, clock(), WarmSet::default())
        .await
        .unwrap();
    eventually("a head came", async || feed.current().is_some()).await;
    let time = Arc::new(TestClock::at(1_000_000));
    let holds = Arc::new(Holds::new(HOLD, time.clone()));
    let callers = ProvedCallers::new(feed, chain.registries, Arc::clone(&holds));
    let status = async |key: [u8; 32]| {
        // A caller that was never seen may take longer to be proved than a request waits.
        let read = async {
            loop {
                if let Ok(view) = callers.registration(key).await {
                    return view.registration.status;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    };
    assert_eq!(status(caller).await, AgentStatus::Active);
    // Known by its SPIFFE ID alone, which a PEP's envelope check does not go by.
    let notice = Notice {
        id: "9f1c".to_owned(),
        spiffe_id: id("caller"),
        agent_key: None,
        issued_at: 1_000_000,
    };
    holds.push(notice.clone());
    assert_eq!(status(caller).await, AgentStatus::Active);
    holds.push(Notice {
        agent_key: Some(caller),
        ..notice
    });
    assert_eq!(status(caller).await, AgentStatus::Revoked);
    assert_eq!(status(other).await, AgentStatus::Active);
    // The chain did not say so in time, and decides.
    time.advance(HOLD);
    assert_eq!(status(caller).await, AgentStatus::Active);
}
