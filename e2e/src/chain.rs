//! The development chain in the cluster, and the real `writ chain` commands against it.

use std::path::PathBuf;

use alloy::providers::{Provider, ProviderBuilder};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::{SYSTEM, until};

/// The chain's id.
pub(crate) const CHAIN_ID: u64 = 84532;
const PORT: u16 = 8545;
/// Name, key and address of who sends transactions.
type Role = (&'static str, &'static str, &'static str);
/// Well-known development keys: they hold funds on development chains only. The operator's contracts
/// have others of them, so that two programs never send from one account.
const KEYS: [Role; 4] = [
    (
        "owner",
        "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
        "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    ),
    (
        "guardian",
        "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
        "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    ),
    (
        "anchorer",
        "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
        "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    ),
    (
        "approver",
        "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
        "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    ),
];
/// Those of the contracts that the operator deployed.
const OPERATORS: [Role; 4] = [
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
        Self::with(client, KEYS).await
    }

    /// The same chain with the contracts that the operator deployed, for what one does without the operator.
    pub async fn of_operator(client: &Client) -> Self {
        Self::with(client, OPERATORS).await
    }

    async fn with(client: &Client, keys: [Role; 4]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (role, key, _) in keys {
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
        for (role, _, address) in &keys[1..] {
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

    /// Runs `writ chain ...` signed by `role`, and returns what it printed; panics with what it said when it
    /// fails.
    pub async fn writ(&self, role: &str, line: &[String]) -> String {
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
        String::from_utf8(done.stdout).expect("text")
    }

    /// Has the guardian revoke an agent by its key in the registry, and returns the block that holds it.
    pub async fn revoke_key(&self, key: &str) -> u64 {
        let line = [
            "revoke", "--reason", "e2e", "--agent", key, "--output", "json",
        ];
        let printed = self.writ("guardian", &line.map(str::to_owned)).await;
        let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let hash = printed["transaction"].as_str().expect("a transaction");
        let receipt = self
            .provider()
            .get_transaction_receipt(hash.parse().expect("a hash"));
        let receipt = receipt
            .await
            .expect("the chain answers")
            .expect("a receipt");
        receipt.block_number.expect("a block")
    }

    pub(crate) fn provider(&self) -> impl Provider + use<> {
        ProviderBuilder::new().connect_http(self.rpc.parse().expect("a URL"))
    }
}

/// Listens on loopback and carries every connection to the chain's pod through the API server, so
/// that the tests need no route into the cluster.
async fn forward(client: Client) -> String {
    let pods: Api<Pod> = Api::namespaced(client, SYSTEM);
    let labelled = ListParams::default().labels("app.kubernetes.io/component=devchain");
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
