//! The roles of the program, each as its own process: against a Kubernetes API that answers from memory, a real chain and
//! real SVIDs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/kubernetes.rs"]
mod kubernetes;

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kubernetes::Kubernetes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use writ_chain::devnode::{DevNode, DevNodeOptions};
use writ_chain::{Clock, Relay as _, SystemClock};
use writ_dev_issuer::Issuer;
use writ_identity::{CurrentBundles, SvidSource, WorkloadApiSource};
use writ_relay::{ClientSettings, Holds, RelayClient, SeenAction, Witnesses};

const AGENT: &str = "spiffe://relay.test/ns/shop/sa/agent";
const RELAY: &str = "spiffe://relay.test/ns/writ-system/sa/writ-relay";
const WITNESS: &str = "spiffe://relay.test/ns/writ-system/sa/writ-witness-0";
/// Longer than anything that is waited for takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process of the operator.
struct Role {
    process: Child,
    admin: u16,
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Role {
    async fn ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin)).await else {
            return false;
        };
        let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.starts_with("HTTP/1.1 200")
    }
}

struct World {
    folder: tempfile::TempDir,
    node: DevNode,
    kubernetes: Kubernetes,
    _issuer: Issuer,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = issue(folder.path()).await;
        let options = DevNodeOptions {
            mining: writ_chain::devnode::Mining::Interval(1),
            ..DevNodeOptions::default()
        };
        let kubernetes = Kubernetes::start().await;
        std::fs::write(folder.path().join("kubeconfig"), kubernetes.kubeconfig()).unwrap();
        Self {
            node: DevNode::start(options).await.unwrap(),
            folder,
            kubernetes,
            _issuer: issuer,
        }
    }

    fn socket(&self, name: &str) -> String {
        let path = self.folder.path().join(name).with_extension("sock");
        path.to_string_lossy().into_owned()
    }

    /// Starts the program in a role, with the identity of this socket.
    async fn role(&self, role: &str, socket: &str, arguments: &[&str]) -> Role {
        let admin = free_port().await;
        let process = Command::new(env!("CARGO_BIN_EXE_writ-operator"))
            .args(["--trust-domain", "relay.test", "--role", role])
            .args(["--admin-listen", &format!("127.0.0.1:{admin}")])
            .args(["--workload-api", &self.socket(socket)])
            .args(arguments)
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .spawn()
            .unwrap();
        Role { process, admin }
    }

    async fn witness(&self, port: u16) -> Role {
        let arguments = [
            "--witness-listen",
            &format!("127.0.0.1:{port}"),
            "--endpoint",
            self.node.url().as_str(),
            "--chain-id",
            &self.node.chain_id().to_string(),
        ];
        self.role("witness", "witness", &arguments).await
    }

    async fn relay(&self, port: u16) -> Role {
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["--relay-listen", &listen, "--identity", "writ-relay-0"];
        self.role("relay", "relay", &arguments).await
    }

    /// A Chain whose one witness is at this port.
    fn chain(&self, witness: u16) -> Value {
        let members = json!([{"spiffeId": WITNESS, "address": format!("127.0.0.1:{witness}")}]);
        json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "Chain",
            "metadata": {"name": "default", "uid": "c-1"},
            "spec": {
                "chainId": self.node.chain_id(),
                "endpoints": [self.node.url()],
                "development": true,
                "witnesses": {"members": members, "needed": 1},
            },
        })
    }

    /// A sidecar's connection to the relay at this port.
    async fn sidecar(&self, port: u16) -> (Arc<RelayClient>, Arc<Holds>) {
        let source = WorkloadApiSource::connect(&self.socket("agent")).await;
        let source: Arc<dyn SvidSource> = Arc::new(source.unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let holds = Arc::new(Holds::new(Duration::from_secs(120), Arc::clone(&clock)));
        let bundles = Arc::new(CurrentBundles::new(Arc::clone(&source)));
        let settings = ClientSettings {
            chain_id: self.node.chain_id(),
            address: format!("127.0.0.1:{port}"),
            spiffe_id: RELAY.to_owned(),
            witnesses: Witnesses::new(&[WITNESS.to_owned()], 1, 10, bundles).unwrap(),
            grace: Duration::from_secs(30),
            holds: Arc::clone(&holds),
        };
        (RelayClient::start(settings, source, clock), holds)
    }
}

async fn issue(folder: &Path) -> Issuer {
    let socket = |(name, id): (&str, &str)| {
        let path = folder.join(name).with_extension("sock");
        json!({"path": path, "workloads": [{"spiffe_id": id}]})
    };
    let sockets = [("agent", AGENT), ("relay", RELAY), ("witness", WITNESS)].map(socket);
    let config = json!({"trustDomains": [{"name": "relay.test"}], "sockets": sockets});
    let config = writ_dev_issuer::Config::from_yaml(&config.to_string()).unwrap();
    writ_dev_issuer::serve(config).await.unwrap()
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// An AgentPolicy that the agent is under.
fn policy() -> Value {
    let agent = json!({"serviceAccount": "agent", "spiffeId": AGENT, "key": "0x01", "status": "active", "configMap": "writ-buyers-agent", "pods": 1});
    json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
        "metadata": {"name": "buyers", "namespace": "shop", "uid": "p-1", "creationTimestamp": Timestamp::now().to_string()},
        "spec": {"selector": {}},
        "status": {"agents": [agent]},
    })
}

fn transfers(count: u64) -> SeenAction {
    SeenAction {
        capability: "payments.transfer".to_owned(),
        class: 2,
        resource: None,
        destination: "bank.example:80".to_owned(),
        method: Some("POST".to_owned()),
        path: Some("/v1/transfers".to_owned()),
        tool: None,
        denied: None,
        rule: None,
        count,
        first: 10,
        last: 20,
        amount: None,
    }
}

fn revocation() -> Value {
    json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "AgentRevocation",
        "metadata": {"name": "stop", "uid": "r-1", "creationTimestamp": Timestamp::now().to_string()},
        "spec": {"spiffeId": AGENT, "reason": "stolen"},
    })
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
async fn witness_and_relay_serve_what_a_chain_says_and_push_revocations() {
    let world = World::start().await;
    let (witnessing, relaying) = (free_port().await, free_port().await);
    let witness = world.witness(witnessing).await;
    eventually("the witness is ready", async || witness.ready().await).await;
    let relay = world.relay(relaying).await;
    eventually("a relay with nothing to do is ready", async || {
        relay.ready().await
    })
    .await;

    let (client, holds) = world.sidecar(relaying).await;
    world.kubernetes.put("chains", world.chain(witnessing));
    eventually("a head came", async || client.head().is_some()).await;
    eventually("the relay is ready", async || relay.ready().await).await;

    world.kubernetes.put("agentrevocations", revocation());
    eventually("the agent is refused", async || holds.refuses(AGENT)).await;
    let counted = json!([{"relay": "writ-relay-0", "enforcing": 1, "connected": 1}]);
    eventually("the status says so", async || {
        let patches = world.kubernetes.patches("agentrevocations/stop/status");
        let last = patches.last().map(|(_, object)| object["status"].clone());
        last == Some(json!({"sidecars": counted}))
    })
    .await;
    let patches = world.kubernetes.patches("agentrevocations/stop/status");
    for (query, _) in patches {
        assert!(
            query.contains("fieldManager=writ-relay-writ-relay-0"),
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_takes_its_port_anew_when_a_chain_changes() {
    let world = World::start().await;
    let (witnessing, relaying) = (free_port().await, free_port().await);
    let _witness = world.witness(witnessing).await;
    world.kubernetes.put("chains", world.chain(witnessing));
    let relay = world.relay(relaying).await;
    let (client, _) = world.sidecar(relaying).await;
    eventually("a head came", async || client.metrics().heads > 0).await;

    let mut without = world.chain(witnessing);
    without["spec"]["witnesses"] = Value::Null;
    world.kubernetes.put("chains", without);
    eventually("nothing is served", async || !client.metrics().connected).await;
    eventually("nothing is missing", async || relay.ready().await).await;
    let before = client.metrics().heads;
    world.kubernetes.put("chains", world.chain(witnessing));
    eventually("heads come again", async || client.metrics().heads > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_relays_are_told_of_an_agents_actions_is_kept_beside_its_policy() {
    let world = World::start().await;
    let witnessing = free_port().await;
    let _witness = world.witness(witnessing).await;
    world.kubernetes.put("chains", world.chain(witnessing));
    let mut relays = Vec::new();
    for _ in 0..2 {
        let port = free_port().await;
        let relay = world.relay(port).await;
        let (client, _) = world.sidecar(port).await;
        eventually("a head came", async || client.head().is_some()).await;
        relays.push((relay, client));
    }
    let report = async |n: usize, count: u64| relays[n].1.report(&[transfers(count)]).await;
    let error = report(0, 1).await.unwrap_err();
    assert!(error.to_string().contains("no AgentPolicy"), "{error}");

    world.kubernetes.put("agentpolicies", policy());
    // One report a second on one connection.
    eventually("it is kept", async || report(0, 3).await.is_ok()).await;
    eventually("it is kept", async || report(1, 4).await.is_ok()).await;
    let map = world
        .kubernetes
        .config_map("shop", "writ-seen-buyers")
        .unwrap();
    assert_eq!(map["metadata"]["ownerReferences"][0]["uid"], "p-1");
    assert_eq!(
        map["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "writ-relay"
    );
    let kept = |map: &Value| -> Value {
        serde_json::from_str(map["data"]["actions.json"].as_str().unwrap()).unwrap()
    };
    let actions = kept(&map);
    assert_eq!(actions.as_array().unwrap().len(), 1);
    assert_eq!(actions[0]["agent"], AGENT);
    assert_eq!(
        (&actions[0]["count"], &actions[0]["decision"]),
        (&json!(7), &json!("allow"))
    );

    // Somebody else was faster, then the API server fails: what is not written is not answered, nor counted.
    world.kubernetes.fail(&[409, 409]);
    eventually("it is kept", async || report(0, 1).await.is_ok()).await;
    world.kubernetes.fail(&[500; 20]);
    eventually("it is not kept", async || {
        let failed = report(1, 100).await;
        failed.is_err_and(|error| error.to_string().contains("could not be written"))
    })
    .await;
    world.kubernetes.fail(&[]);
    eventually("it is kept", async || report(1, 1).await.is_ok()).await;
    let map = world
        .kubernetes
        .config_map("shop", "writ-seen-buyers")
        .unwrap();
    assert_eq!(kept(&map)[0]["count"], 9);
}

#[test]
fn arguments_that_cannot_work_are_refused_with_what_to_change() {
    let endpoint = ["--endpoint", "http://127.0.0.1:1"];
    let chain = ["--chain-id", "1"];
    let none: &[&str] = &[];
    let cases: [(&str, Vec<&str>, &str); 9] = [
        ("witness", none.to_vec(), "needs --endpoint"),
        ("witness", endpoint.to_vec(), "needs --chain-id"),
        (
            "witness",
            [&endpoint[..], &chain, &["--poll", "0s"]].concat(),
            "--poll must be longer",
        ),
        ("witness", vec!["--endpoint", "rpc.example"], "--endpoint"),
        ("witness", vec!["--relay-id", "writ-relay"], "--relay-id"),
        ("relay", none.to_vec(), "set KUBECONFIG"),
        ("relay", vec!["--max-sidecars", "0"], "give 1 to"),
        (
            "controller",
            vec!["--relay", "writ-relay"],
            "give host:port",
        ),
        ("ledger", none.to_vec(), "[possible values: controller"),
    ];
    for (role, arguments, fix) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_writ-operator"))
            .args(["--trust-domain", "relay.test", "--role", role])
            .args(["--admin-listen", "127.0.0.1:0"])
            .args(&arguments)
            .env_remove("KUBECONFIG")
            .env("HOME", "/nonexistent")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{role} {arguments:?}");
        assert!(said.contains(fix), "{role} {arguments:?}: {said}");
    }
}
