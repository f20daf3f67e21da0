//! The development chain in the cluster, and the real `writ chain` commands against it.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::until;

/// Namespace of our own pods.
pub(crate) const SYSTEM: &str = "writ-system";
/// The chain's id.
pub(crate) const CHAIN_ID: u64 = 84532;
const PORT: u16 = 8545;
/// The node's well-known development keys: they hold funds on development chains only.
const KEYS: [(&str, &str, &str); 4] = [
    (
        "owner",
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    ),
    (
        "guardian",
        "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    ),
    (
        "anchorer",
        "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    ),
    (
        "approver",
        "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
        "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    ),
];

/// The development chain with the contracts deployed.
pub struct Chain {
    folder: TempDir,
    rpc: String,
    manifest: serde_json::Value,
    /// Two transactions of one account at the same time would take the same nonce.
    sending: Mutex<()>,
}

impl Chain {
    /// Reaches the chain's pod and deploys the contracts, or finds them deployed.
    pub(crate) async fn start(client: &Client) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (role, key, _) in KEYS {
            std::fs::write(folder.path().join(format!("{role}.key")), key).expect("a key file");
        }
        let rpc = forward(client.clone()).await;
        let mut chain = Self {
            folder,
            rpc,
            manifest: serde_json::Value::Null,
            sending: Mutex::new(()),
        };
        let manifest = chain.path("manifest.json");
        let mut line = vec!["deploy".to_owned(), "--development".to_owned()];
        for (role, _, address) in &KEYS[1..] {
            line.extend([format!("--{role}"), (*address).to_owned()]);
        }
        line.extend(["--out".to_owned(), manifest.display().to_string()]);
        chain.writ("owner", &line).await;
        let text = std::fs::read_to_string(manifest).expect("the manifest that was written");
        chain.manifest = serde_json::from_str(&text).expect("a manifest in JSON");
        chain
    }

    /// A file in the chain's temporary folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address of a deployed contract.
    pub fn address(&self, contract: &str) -> &str {
        self.manifest["contracts"][contract]["address"]
            .as_str()
            .unwrap_or_else(|| panic!("no {contract} in the manifest"))
    }

    /// Runs `writ chain ...` signed by `role`, and panics with what it said when it fails.
    pub async fn writ(&self, role: &str, line: &[String]) {
        let _one = self.sending.lock().await;
        let program =
            std::env::var("WRIT_BIN").expect("WRIT_BIN: the writ program; e2e/run sets it");
        let mut command = Command::new(program);
        command.arg("chain").args(line).args(["--rpc", &self.rpc]);
        if line.first().is_some_and(|verb| verb != "deploy") {
            command.arg("--manifest").arg(self.path("manifest.json"));
        }
        let key = self.path(&format!("{role}.key"));
        command.arg("--key").arg(format!("file:{}", key.display()));
        let done = command.output().await.expect("the writ program runs");
        assert!(
            done.status.success(),
            "writ chain {}: {}",
            line.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// Listens on loopback and carries every connection to the chain's pod through the API server, so
/// that the tests need no route into the cluster.
async fn forward(client: Client) -> String {
    let pods: Api<Pod> = Api::namespaced(client, SYSTEM);
    let labelled = ListParams::default().labels("app.kubernetes.io/name=writ-devchain");
    let name = until("a ready pod of the development chain", async || {
        let list = pods.list(&labelled).await.ok()?;
        let ready = list.items.into_iter().find(crate::pods::is_ready)?;
        ready.metadata.name
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let rpc = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (pods, name) = (pods.clone(), name.clone());
            tokio::spawn(async move {
                let Ok(mut carried) = pods.portforward(&name, &[PORT]).await else {
                    return;
                };
                if let Some(mut far) = carried.take_stream(PORT) {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    rpc
}
