//! The commands against a real node, as an operator runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use writ_chain::devnode::{DEV_KEYS, DevNode, DevNodeOptions};

const AGENT: &str = "spiffe://example.org/ns/demo/sa/buyer";
const CATALOG: &str = "
version: 1
name: demo
destinations:
  - name: search
    host: search.example
    port: 8080
    peer: {spiffe: spiffe://example.org/ns/search/sa/api}
    upstream: {mode: mtls, port: 8443}
    agent_tls: originate
    envelope: stamp
    pep: sidecar
entries:
  - name: query
    destination: search
    protocol: http
    method: GET
    path: /v1/query
    capability: search.query
    class: public
";
const RULES: &str = "
version: 1
rules:
  - name: search
    agent: any
    capability: search.*
    effect: allow
    max_class: public
";

struct Desk {
    node: DevNode,
    folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let node = DevNode::start(DevNodeOptions::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let salts = format!(
            "salt: {}\nagents:\n  {AGENT}: {}\n",
            "01".repeat(16),
            "02".repeat(16)
        );
        for (name, text) in [
            ("names.yaml", salts.as_str()),
            ("catalog.yaml", CATALOG),
            ("rules.yaml", RULES),
            ("owner.key", DEV_KEYS[0]),
            ("stranger.key", DEV_KEYS[1]),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { node, folder }
    }

    fn run(&self, words: &str) -> Output {
        writ(
            self.folder.path(),
            &words.replace("RPC", &format!("--rpc {}", self.node.url())),
        )
    }

    fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("{words} --output json"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "writ {words}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn writ(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_writ"));
    command
        .current_dir(folder)
        .args(words.split_whitespace())
        .env("NO_COLOR", "1");
    command.output().unwrap()
}

#[tokio::test]
async fn an_operator_deploys_publishes_registers_and_revokes() {
    let desk = Desk::new().await;
    let manifest =
        desk.json("chain deploy RPC --key file:owner.key --development --out manifest.json");
    assert_eq!(manifest["chain_id"], 84_532);
    let again = desk.json("chain deploy RPC --key file:owner.key --development");
    assert_eq!(again, manifest);
    let chain = "RPC --manifest manifest.json";
    let who = format!("--names names.yaml --agent {AGENT}");
    let files = "--rules rules.yaml --catalog catalog.yaml --names names.yaml";
    let owner = format!("{chain} --key file:owner.key");

    assert_eq!(
        desk.json(&format!(
            "chain policy publish {owner} --policy demo {files}"
        ))["state"],
        "executed"
    );
    assert_eq!(
        desk.json(&format!(
            "chain policy publish {owner} --policy demo {files}"
        ))["state"],
        "unchanged"
    );
    let policy = desk.json(&format!("chain policy show {chain} --policy demo"));
    assert_eq!(
        (policy["version"].as_u64(), policy["paused"].as_bool()),
        (Some(1), Some(false))
    );

    assert_eq!(
        desk.json(&format!("chain agent show {chain} {who}"))["status"],
        "unknown"
    );
    assert_eq!(
        desk.json(&format!("chain agent register {owner} {who} --policy demo"))["state"],
        "executed"
    );
    assert_eq!(
        desk.json(&format!("chain agent show {chain} {who}"))["status"],
        "active"
    );

    let refused = desk.run(&format!(
        "chain revoke {chain} --key file:stranger.key {who}"
    ));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Unauthorized"));
    let revoked = desk.json(&format!("chain revoke {owner} {who} --reason compromised"));
    assert_eq!(revoked["state"], "executed");
    assert!(revoked["transaction"].as_str().unwrap().starts_with("0x"));
    assert_eq!(
        desk.json(&format!("chain agent show {chain} {who}"))["status"],
        "revoked"
    );
    // Whoever has no salts has the key, from the status of an AgentPolicy.
    let shown = desk.json(&format!("chain agent show {chain} {who}"));
    let by_key = format!(
        "chain agent show {chain} --agent {}",
        shown["key"].as_str().unwrap()
    );
    assert_eq!(desk.json(&by_key), shown);
    let nameless = desk.run(&format!("chain agent show {chain} --agent {AGENT}"));
    assert!(!nameless.status.success());
    assert!(String::from_utf8_lossy(&nameless.stderr).contains("needs --names"));

    assert_eq!(
        desk.json(&format!("chain pause {owner} --all"))["state"],
        "executed"
    );
    assert_eq!(
        desk.json(&format!("chain policy show {chain} --policy demo"))["paused"],
        true
    );
    assert_eq!(
        desk.json(&format!("chain resume {owner} --all"))["state"],
        "executed"
    );
    assert_eq!(
        desk.json(&format!("chain resume {owner} {who}"))["state"],
        "executed"
    );
    assert_eq!(
        desk.json(&format!("chain status {chain}"))["mismatches"],
        serde_json::json!([])
    );
}

#[test]
fn a_key_given_as_an_argument_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let output = writ(
        folder.path(),
        &format!(
            "chain deploy --rpc http://127.0.0.1:1 --key {}",
            DEV_KEYS[0]
        ),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("file:<path>") && !said.contains("ac0974"),
        "{said}"
    );
}

#[test]
fn rules_are_explained_and_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let salts = format!("salt: {}\n", "01".repeat(16));
    for (name, text) in [
        ("names.yaml", salts.as_str()),
        ("catalog.yaml", CATALOG),
        ("rules.yaml", RULES),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let files = "--rules rules.yaml --catalog catalog.yaml --names names.yaml";
    let table = writ(folder.path(), &format!("rules explain {files}"));
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(
        text.contains("search.query") && text.contains("anything else"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colour");
    let approvals = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let compiled = writ(
        folder.path(),
        &format!("rules compile {files} --approvals {approvals} --output json"),
    );
    let value: Value = serde_json::from_slice(&compiled.stdout).unwrap();
    assert_eq!(value["rules"], 1);
}

#[test]
fn the_published_schema_of_rules_is_what_the_compiler_reads() {
    let folder = tempfile::tempdir().unwrap();
    let printed = writ(folder.path(), "rules schema").stdout;
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas/rules.schema.json");
    let published =
        std::fs::read(published).expect("docs/schemas/rules.schema.json: writ rules schema > it");
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        String::from_utf8(published).unwrap()
    );
}

#[test]
fn every_command_shows_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for words in [
        "chain deploy",
        "chain agent register",
        "chain agent show",
        "chain policy publish",
        "chain policy show",
        "chain revoke",
        "chain pause",
        "chain resume",
        "chain guardian",
        "chain status",
        "rules compile",
        "rules explain",
        "rules schema",
    ] {
        let help =
            String::from_utf8(writ(folder.path(), &format!("{words} --help")).stdout).unwrap();
        assert!(
            help.contains("Example") && help.contains(&format!("writ {words}")),
            "{words}: {help}"
        );
    }
}
