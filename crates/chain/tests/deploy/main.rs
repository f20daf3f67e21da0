//! Deployment, governance and rules on a real node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod deployment;
mod governance;
mod rules;

use std::time::Duration;

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::signers::local::PrivateKeySigner;
use writ_chain::deploy::{DeployPlan, Manifest, deploy};
use writ_chain::devnode::{DEV_KEYS, DevNode, DevNodeOptions};
use writ_chain::tx::{AgentRecord, Progress, Session, TxError};
use writ_policy::names;

const OWNER: usize = 0;
const GUARDIAN: usize = 1;
const ANCHORER: usize = 2;
const APPROVER: usize = 3;
const STRANGER: usize = 4;
const SALT: [u8; 16] = [5; 16];
const AGENT: &str = "spiffe://example.org/ns/demo/sa/buyer";

fn key(n: usize) -> PrivateKeySigner {
    DEV_KEYS[n].parse().unwrap()
}

struct Chain {
    node: DevNode,
    manifest: Manifest,
}

impl Chain {
    async fn development() -> Self {
        let plan = DeployPlan::development(
            key(OWNER).address(),
            key(GUARDIAN).address(),
            key(ANCHORER).address(),
            key(APPROVER).address(),
        );
        Self::with(plan).await
    }

    async fn with(plan: DeployPlan) -> Self {
        let node = DevNode::start(DevNodeOptions::default()).await.unwrap();
        let session = Session::with_wallet(node.url(), Some(node.chain_id()), key(OWNER))
            .await
            .unwrap();
        let manifest = deploy(&session, &plan).await.unwrap();
        Self { node, manifest }
    }

    async fn as_key(&self, n: usize) -> Session {
        Session::with_wallet(self.node.url(), Some(self.node.chain_id()), key(n))
            .await
            .unwrap()
    }

    /// Moves the chain's clock on.
    async fn advance(&self, time: Duration) {
        let session = self.as_key(OWNER).await;
        let _: u64 = session
            .provider()
            .raw_request("anvil_increaseTime".into(), [time.as_secs()])
            .await
            .unwrap_or(0);
        let _: serde_json::Value = session
            .provider()
            .raw_request("anvil_mine".into(), [1])
            .await
            .unwrap();
    }
}

fn record(policy: B256) -> AgentRecord {
    AgentRecord {
        key: names::agent_key(&SALT, AGENT).into(),
        policy_id: policy,
        model: B256::ZERO,
        organisation: B256::ZERO,
        capabilities: B256::ZERO,
    }
}

fn executed(progress: &Progress) -> bool {
    matches!(progress, Progress::Executed { .. })
}

fn refused_as(result: Result<Progress, TxError>, name: &str) {
    let error = result.expect_err("refused").to_string();
    assert!(error.contains(name), "{error}");
}
