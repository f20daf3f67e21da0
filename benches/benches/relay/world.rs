//! What a relay needs around it: a chain, a witness, SVIDs, and a Kubernetes API with AgentPolicies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use writ_chain::devnode::{DevNode, DevNodeOptions, Mining};
use writ_chain::{ChainConfig, SystemClock};
use writ_dev_issuer::Issuer;
use writ_identity::{SvidSource, WorkloadApiSource};
use writ_policy::Registries;
use writ_relay::{Witness, WitnessSettings};

use crate::kubernetes::Kubernetes;

pub const RELAY: &str = "spiffe://bench.test/ns/writ-system/sa/writ-relay";
const WITNESS: &str = "spiffe://bench.test/ns/writ-system/sa/writ-witness-0";
/// Agents, each with as many sidecars as comes to it.
const AGENTS: usize = 50;
/// Accounts that are wanted, all agents together: two registries, and policy contracts.
pub const ACCOUNTS: usize = 2 + AGENTS;
/// Slots of each.
pub const SLOTS: u64 = 40;
/// Bytes of an AgentPolicy's catalog.
const CATALOG: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(300);

pub struct World {
    node: DevNode,
    _issuer: Issuer,
    kubernetes: Kubernetes,
    _witness: Witness,
    _folder: tempfile::TempDir,
    relay: Child,
    admin: u16,
    pub address: SocketAddr,
    agents: Vec<Arc<dyn SvidSource>>,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

/// An account of the chain that sidecars want to know of.
pub fn account(number: usize) -> Address {
    Address::repeat_byte(u8::try_from(number + 1).unwrap())
}

fn agent(number: usize) -> String {
    format!("spiffe://bench.test/ns/team-{number}/sa/agent")
}

impl World {
    pub async fn start(policies: usize) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let issuer = issue(folder.path()).await;
        let options = DevNodeOptions {
            mining: Mining::Interval(1),
            ..DevNodeOptions::default()
        };
        let node = DevNode::start(options).await.unwrap();
        fill(&node).await;
        let witness = witness(&node, folder.path()).await;
        let kubernetes = Kubernetes::start().await;
        kubernetes.put("chains", chain(&node, witness.address()));
        for number in 0..policies {
            kubernetes.put("agentpolicies", policy(number));
        }
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            agents.push(source(folder.path(), &format!("agent-{number}")).await);
        }
        std::fs::write(folder.path().join("kubeconfig"), kubernetes.kubeconfig()).unwrap();
        let (listen, admin) = (free_port().await, free_port().await);
        let relay = relay(folder.path(), listen, admin);
        let world = Self {
            node,
            _issuer: issuer,
            kubernetes,
            _witness: witness,
            relay,
            admin,
            address: SocketAddr::from(([127, 0, 0, 1], listen)),
            agents,
            _folder: folder,
        };
        world.until("head", 1).await;
        world
    }

    pub fn chain_id(&self) -> u64 {
        self.node.chain_id()
    }

    pub fn agent(&self, number: usize) -> &Arc<dyn SvidSource> {
        &self.agents[number % AGENTS]
    }

    /// Somebody makes an AgentRevocation.
    pub fn revoke(&self) {
        let now = k8s_openapi::jiff::Timestamp::now();
        let revocation = json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentRevocation",
            "metadata": {"name": "stop", "uid": "r-1", "creationTimestamp": now.to_string()},
            "spec": {"spiffeId": agent(0), "reason": "bench"},
        });
        self.kubernetes.put("agentrevocations", revocation);
    }

    /// Waits until the status of the revocation says that so many sidecars enforce it.
    pub async fn counted(&self, count: usize) {
        let enforced = || {
            let patches = self.kubernetes.patches("agentrevocations/stop/status");
            let last = patches
                .last()
                .map(|(_, p)| p["status"]["sidecars"][0]["enforcing"].clone());
            last == Some(json!(count))
        };
        let wait = async {
            while !enforced() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    /// Waits until a number of the relay's is at least this.
    pub async fn until(&self, what: &str, wanted: u64) {
        let wait = async {
            while self.metric(what).await < wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what} never was {wanted}");
    }

    /// A number of the relay's, 0 while there is none.
    pub async fn metric(&self, what: &str) -> u64 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin)).await else {
            return 0;
        };
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        let label = format!("what=\"{what}\"}} ");
        let line = answer.lines().find_map(|line| line.split_once(&label));
        line.map_or(0, |(_, value)| value.parse().unwrap())
    }

    fn status(&self, key: &str) -> u64 {
        let file = format!("/proc/{}/status", self.relay.id());
        let text = std::fs::read_to_string(file).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        line.trim_matches([':', '\t', ' ', 'k', 'B'])
            .parse()
            .unwrap()
    }

    /// The relay's resident memory, KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    /// The most that it ever had, KiB.
    pub fn most_resident(&self) -> u64 {
        self.status("VmHWM")
    }

    /// Seconds of processor time that the relay took so far.
    pub fn processor(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.relay.id())).unwrap();
        let fields: Vec<&str> = text
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: f64 = [11, 12]
            .iter()
            .map(|n| fields[*n].parse::<f64>().unwrap())
            .sum();
        // USER_HZ, which Linux fixes.
        ticks / 100.0
    }
}

/// The program beside which this one was built.
fn relay(folder: &Path, listen: u16, admin: u16) -> Child {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("writ-operator");
    let socket = folder.join("relay.sock");
    Command::new(&program)
        .args([
            "--trust-domain",
            "bench.test",
            "--role",
            "relay",
            "--identity",
            "writ-relay-0",
        ])
        .args(["--log", "warn", "--log-format", "text"])
        .args(["--relay-listen", &format!("127.0.0.1:{listen}")])
        .args(["--admin-listen", &format!("127.0.0.1:{admin}")])
        .arg("--workload-api")
        .arg(socket)
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; build the programs first", program.display()))
}

async fn issue(folder: &Path) -> Issuer {
    let mut all = vec![
        ("relay".to_owned(), RELAY.to_owned()),
        ("witness".to_owned(), WITNESS.to_owned()),
    ];
    all.extend((0..AGENTS).map(|n| (format!("agent-{n}"), agent(n))));
    let socket = |(name, id): (String, String)| {
        let path = folder.join(name).with_extension("sock");
        json!({"path": path, "workloads": [{"spiffe_id": id}]})
    };
    let sockets: Vec<Value> = all.into_iter().map(socket).collect();
    let config = json!({"trustDomains": [{"name": "bench.test"}], "sockets": sockets});
    let config = writ_dev_issuer::Config::from_yaml(&config.to_string()).unwrap();
    writ_dev_issuer::serve(config).await.unwrap()
}

async fn source(folder: &Path, name: &str) -> Arc<dyn SvidSource> {
    let socket = folder.join(name).with_extension("sock");
    let source = WorkloadApiSource::connect(&socket.to_string_lossy()).await;
    Arc::new(source.unwrap())
}

async fn witness(node: &DevNode, folder: &Path) -> Witness {
    let registries = Registries {
        chain_id: node.chain_id(),
        agents: Address::ZERO,
        policies: Address::ZERO,
    };
    let settings = WitnessSettings {
        chain: ChainConfig {
            poll: Duration::from_millis(500),
            ..ChainConfig::new(vec![node.url().clone()], registries)
        },
        listen: "127.0.0.1:0".parse().unwrap(),
        relays: BTreeSet::from([RELAY.to_owned()]),
    };
    let clock = Arc::new(SystemClock::new());
    let source = source(folder, "witness").await;
    Witness::start(settings, source, clock).await.unwrap()
}

/// Code and slots at the accounts that are wanted.
async fn fill(node: &DevNode) {
    for number in 0..ACCOUNTS {
        let address = account(number);
        rpc(node, "anvil_setCode", json!([address, "0x00"])).await;
        for slot in 0..SLOTS {
            let (slot, value) = (format!("0x{slot:064x}"), format!("0x{:064x}", slot + 1));
            rpc(node, "anvil_setStorageAt", json!([address, slot, value])).await;
        }
    }
}

async fn rpc(node: &DevNode, method: &str, params: Value) {
    let url = node.url();
    let to = (url.host_str().unwrap(), url.port().unwrap());
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"result\""), "{method}: {answer}");
}

fn chain(node: &DevNode, witness: SocketAddr) -> Value {
    let members = json!([{"spiffeId": WITNESS, "address": witness.to_string()}]);
    json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "Chain", "metadata": {"name": "default", "uid": "c-1"},
        "spec": {"chainId": node.chain_id(), "endpoints": [node.url()], "development": true,
            "witnesses": {"members": members, "needed": 1}},
    })
}

/// An AgentPolicy of one of the agents' namespaces; the first of each namespace has the agent.
fn policy(number: usize) -> Value {
    let of = number % AGENTS;
    let agents = if number < AGENTS {
        json!([{"serviceAccount": "agent", "spiffeId": agent(of), "key": "0x01", "status": "active",
            "configMap": "writ-p-agent", "pods": 1}])
    } else {
        json!([])
    };
    json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": format!("team-{of}"),
            "uid": format!("p-{number}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"selector": {}, "catalog": {"version": 1, "name": "c", "comment": "x".repeat(CATALOG)}},
        "status": {"agents": agents},
    })
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
