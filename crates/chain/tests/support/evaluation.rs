//! A real node with the real contracts on it, and snapshots proved from its `eth_getProof`.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use alloy::eips::BlockId;
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::types::{EIP1186AccountProofResponse, TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use tokio::sync::RwLock;
use writ_chain::devnode::{DEV_KEYS, DevNode, DevNodeOptions};
use writ_policy::{
    AccountProof, Action, CALLER, GAS_LIMIT, ProvedHeader, Registries, Snapshot, SnapshotBuilder,
    StateKey, StorageProof, dry_run,
};

sol! {
    function register(bytes32 key, bytes32 policyId, bytes32 model, bytes32 organisation, bytes32 capabilities);
    function revoke(bytes32 key, bytes32 reason);
    function publish(bytes32 policyId, address policy, bytes32 codeHash, bytes32 catalogHash);
    struct Approval { bytes32 agent; bytes32 audience; bytes32 target; bytes32 params; uint256 maxAmount; uint64 expiry; bytes32 nonce; }
    function approvalId(Approval a) returns (bytes32);
    function approve(Approval a, bytes[] signatures) returns (bytes32);
}

pub struct Chain {
    node: DevNode,
    pub provider: DynProvider,
    pub registries: Registries,
    pub approvals: Address,
    /// Held for writing while a block is mined, for reading by proxies while they ask the node: a
    /// proof asked for at that moment may be of the next block's state, which no honest node serves.
    pub quiet: Arc<RwLock<()>>,
    owner: PrivateKeySigner,
}

impl Chain {
    /// A node on which one development account is timelock, multisig, guardian and approver at once.
    pub async fn start() -> Self {
        // Another test may have been first; which of them does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let node = DevNode::start(DevNodeOptions::default()).await.unwrap();
        let provider = ProviderBuilder::default()
            .connect_http(node.url().clone())
            .erased();
        let owner: PrivateKeySigner = DEV_KEYS[0].parse().unwrap();
        let chain_id = node.chain_id();
        let registries = Registries {
            chain_id,
            agents: Address::ZERO,
            policies: Address::ZERO,
        };
        let mut chain = Self {
            node,
            provider,
            registries,
            approvals: Address::ZERO,
            quiet: Arc::default(),
            owner,
        };
        let own = chain.owner.address();
        let governed = (own, own, own).abi_encode_params();
        chain.registries.agents = chain.deploy("AgentRegistry", &governed).await;
        chain.registries.policies = chain.deploy("PolicyRegistry", &governed).await;
        let approvals = (own, own, own, own, vec![own], U256::from(1)).abi_encode_params();
        chain.approvals = chain.deploy("ApprovalRegistry", &approvals).await;
        chain
    }

    pub fn url(&self) -> &url::Url {
        self.node.url()
    }

    pub async fn deploy(&self, name: &str, arguments: &[u8]) -> Address {
        // Tests of crates at any depth use this file.
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = here.ancestors().map(|a| a.join("contracts/artifacts"));
        let folder = folders.find(|folder| folder.is_dir()).unwrap();
        let path = folder.join(format!("{name}.json"));
        let artifact: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut init = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
        init.extend(arguments);
        self.create(init).await
    }

    pub async fn create(&self, init: Vec<u8>) -> Address {
        let receipt = self.transact(TxKind::Create, init).await;
        receipt.contract_address.unwrap()
    }

    pub async fn send(&self, to: Address, call: impl SolCall) {
        self.transact(TxKind::Call(to), call.abi_encode()).await;
    }

    async fn transact(&self, to: TxKind, data: Vec<u8>) -> TransactionReceipt {
        let mut request = TransactionRequest::default()
            .from(self.owner.address())
            .input(data.into());
        request.to = Some(to);
        let receipt: TransactionReceipt = self
            .provider
            .raw_request("eth_sendTransactionSync".into(), (request,))
            .await
            .unwrap();
        assert!(receipt.status(), "transaction reverted");
        receipt
    }

    pub async fn set_code(&self, address: Address, code: &[u8]) {
        let params = (address, Bytes::copy_from_slice(code));
        self.provider
            .raw_request::<_, ()>("anvil_setCode".into(), params)
            .await
            .unwrap();
    }

    pub async fn mine(&self) {
        let _quiet = self.quiet.write().await;
        self.provider
            .raw_request::<_, serde_json::Value>("evm_mine".into(), [(); 0])
            .await
            .unwrap();
    }

    /// Registers an active agent under a policy id of its own, and publishes this contract for it.
    pub async fn install(&self, agent: B256, policy: Address) -> B256 {
        let policy_id = keccak256(agent);
        self.publish(policy_id, policy).await;
        let call = registerCall {
            key: agent,
            policyId: policy_id,
            model: B256::ZERO,
            organisation: B256::ZERO,
            capabilities: B256::ZERO,
        };
        self.send(self.registries.agents, call).await;
        policy_id
    }

    pub async fn publish(&self, policy_id: B256, policy: Address) {
        let catalog = B256::repeat_byte(0xca);
        self.publish_with(policy_id, policy, catalog).await;
    }

    pub async fn publish_with(&self, policy_id: B256, policy: Address, catalog: B256) {
        let code = self.provider.get_code_at(policy).await.unwrap();
        let call = publishCall {
            policyId: policy_id,
            policy,
            codeHash: keccak256(code),
            catalogHash: catalog,
        };
        self.send(self.registries.policies, call).await;
    }

    pub async fn revoke(&self, agent: B256) {
        self.send(
            self.registries.agents,
            revokeCall {
                key: agent,
                reason: B256::ZERO,
            },
        )
        .await;
    }

    /// An open approval, signed by the one approver.
    pub async fn approve(&self, agent: B256, target: B256, params: B256, most: U256) -> B256 {
        let a = Approval {
            agent,
            audience: B256::repeat_byte(1),
            target,
            params,
            maxAmount: most,
            expiry: u64::MAX,
            nonce: agent,
        };
        let id = self
            .call(
                None,
                self.approvals,
                approvalIdCall { a: a.clone() }.abi_encode(),
            )
            .await
            .unwrap();
        let id = B256::from_slice(&id);
        let signature = self.owner.sign_hash_sync(&id).unwrap().as_bytes();
        self.send(
            self.approvals,
            approveCall {
                a,
                signatures: vec![signature.to_vec().into()],
            },
        )
        .await;
        id
    }

    /// `eth_call` with the profile's caller and gas.
    pub async fn call(
        &self,
        block: Option<B256>,
        to: Address,
        data: Vec<u8>,
    ) -> Result<Bytes, String> {
        let request = TransactionRequest::default()
            .from(CALLER)
            .to(to)
            .gas_limit(GAS_LIMIT)
            .input(data.into());
        let block = block.map_or(BlockId::latest(), BlockId::from);
        self.provider
            .call(request)
            .block(block)
            .await
            .map_err(|error| error.to_string())
    }

    pub async fn head(&self) -> ProvedHeader {
        let block = self
            .provider
            .get_block(BlockId::latest())
            .await
            .unwrap()
            .unwrap();
        ProvedHeader::from_consensus(&block.header.inner)
            .unwrap()
            .expect_hash(block.header.hash)
            .unwrap()
    }

    pub async fn proof(
        &self,
        block: B256,
        address: Address,
        slots: &[U256],
    ) -> EIP1186AccountProofResponse {
        let keys = slots.iter().map(|slot| B256::from(*slot)).collect();
        self.provider
            .get_proof(address, keys)
            .block_id(block.into())
            .await
            .unwrap()
    }

    /// Fetches and proves keys at the builder's header.
    pub async fn prove(&self, builder: &mut SnapshotBuilder, keys: &BTreeSet<StateKey>) {
        let mut wanted: BTreeMap<Address, Vec<U256>> = BTreeMap::new();
        for key in keys {
            let (StateKey::Account(address) | StateKey::Code(address) | StateKey::Slot(address, _)) =
                key;
            let slots = wanted.entry(*address).or_default();
            if let StateKey::Slot(_, slot) = key {
                slots.push(*slot);
            }
        }
        let block = builder.header().hash;
        for (address, slots) in wanted {
            let answer = self.proof(block, address, &slots).await;
            builder
                .add_account_proof(address, &account_claim(&answer))
                .unwrap();
            for slot in &answer.storage_proof {
                let claim = StorageProof {
                    value: slot.value,
                    proof: slot.proof.clone(),
                };
                builder
                    .add_storage_proof(address, slot.key.as_b256().into(), &claim)
                    .unwrap();
            }
            if keys.contains(&StateKey::Code(address)) {
                let code = self
                    .provider
                    .get_code_at(address)
                    .block_id(block.into())
                    .await
                    .unwrap();
                builder.add_code(address, code).unwrap();
            }
        }
    }

    /// Everything these actions need, proved at the newest head.
    pub async fn snapshot_for(&self, actions: &[Action]) -> Snapshot {
        let mut snapshot =
            SnapshotBuilder::new(self.head().await, self.registries.chain_id).build();
        for _ in 0..32 {
            let warm = dry_run(&snapshot, &self.registries, actions).unwrap();
            if warm.missing.is_empty() {
                return snapshot;
            }
            let mut builder = SnapshotBuilder::extending(&snapshot);
            self.prove(&mut builder, &warm.missing).await;
            snapshot = builder.build();
        }
        panic!("the warm set is not complete after 32 rounds");
    }
}

pub fn account_claim(answer: &EIP1186AccountProofResponse) -> AccountProof {
    AccountProof {
        nonce: answer.nonce,
        balance: answer.balance,
        storage_hash: answer.storage_hash,
        code_hash: answer.code_hash,
        proof: answer.account_proof.clone(),
    }
}
