//! `Chain`: one EVM chain, how it is read, which contracts on it hold the policies.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One EVM chain: how it is read, and which contracts on it hold agents and policies.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "writ.dev",
    version = "v1alpha1",
    kind = "Chain",
    plural = "chains",
    status = "ChainStatus",
    doc = "One EVM chain: how it is read, and which contracts on it hold agents and policies.",
    derive = "PartialEq",
    category = "writ",
    printcolumn = r#"{"name":"Chain ID","type":"integer","jsonPath":".spec.chainId"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Block","type":"integer","jsonPath":".status.block"}"#,
    printcolumn = r#"{"name":"Delay","type":"string","jsonPath":".status.governance.delay"}"#,
    printcolumn = r#"{"name":"Development","type":"boolean","jsonPath":".spec.development"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.development || has(self.contracts)", "contracts: name the deployed contracts (writ chain deploy prints them), or set development: true and the operator deploys them"),
    validation = ("self.quorum <= size(self.endpoints)", "quorum: more than there are endpoints"),
    validation = ("!self.development || !(self.chainId in [1, 10, 56, 100, 137, 8453, 42161, 43114])", "development: this is the chain id of a public main net, and development keys are known to everybody"),
    validation = ("!has(self.witnesses) || self.witnesses.needed <= size(self.witnesses.members)", "witnesses.needed: more than there are members"),
    validation = ("!has(self.witnesses) || self.witnesses.needed * 2 > size(self.witnesses.members)", "witnesses.needed: must be more than half of the members, else two groups could each vouch for another chain"),
    validation = ("self.chainId == oldSelf.chainId", "chainId: cannot change; make another Chain"),
)]
pub struct ChainSpec {
    /// EIP-155 chain id. Every endpoint must serve it.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    pub chain_id: u64,
    /// JSON-RPC endpoints, each of another operator. Where a relay serves the sidecars, it reads them; the sidecars do
    /// while there is none.
    #[schemars(
        length(min = 1, max = 8),
        inner(length(min = 8, max = 2048), regex(pattern = r"^https?://[^\s]+$"))
    )]
    pub endpoints: Vec<String>,
    /// How many endpoints must agree on a head.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 8))]
    pub quorum: u32,
    /// Which block decisions read.
    #[serde(default)]
    pub head: Head,
    /// Head witnesses: who vouches for heads where a relay serves the sidecars. Without them no relay serves this chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<Witnesses>,
    /// The deployed contracts. Required unless `development` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contracts: Option<Contracts>,
    /// Names of the keys that sign transactions: files in the operator's key folder. Without them nothing is
    /// sent, and the status says what somebody else must send. On a development chain: its well-known keys.
    #[serde(default)]
    pub keys: Keys,
    /// NOT FOR PRODUCTION. The operator deploys the contracts itself, with one owner and no delay, signed by
    /// keys that everybody knows.
    #[serde(default)]
    pub development: bool,
}

/// Who vouches for heads, and how many of them must. Two of three is a good choice; one of one is for development.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Witnesses {
    /// The witnesses, each reading another endpoint.
    #[schemars(
        length(min = 1, max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["spiffeId"])
    )]
    pub members: Vec<WitnessMember>,
    /// How many of them must have signed a head: more than half.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 8))]
    pub needed: u32,
}

/// One head witness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WitnessMember {
    /// Its SPIFFE ID.
    #[schemars(
        length(min = 16, max = 512),
        regex(pattern = r"^spiffe://[a-z0-9._-]+/[A-Za-z0-9._/-]+$")
    )]
    pub spiffe_id: String,
    /// Where the relay finds it: `host:port`.
    #[schemars(
        length(min = 3, max = 300),
        regex(pattern = r"^([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$")
    )]
    pub address: String,
}

/// Block that decisions read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Head {
    /// The newest agreed block.
    #[default]
    Latest,
    /// The newest block that the chain calls safe.
    Safe,
}

/// Addresses of the contracts, as `writ chain deploy` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contracts {
    /// Which agents there are.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub agent_registry: String,
    /// Which policy versions are in force.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub policy_registry: String,
    /// Human approvals.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub approval_registry: String,
    /// Anchored checkpoints; named in every envelope.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub anchor: String,
    /// The owners.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub multisig: String,
    /// Delays what the owners decide.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub timelock: String,
}

/// Names of files in the operator's key folder, each with one secp256k1 key in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keys {
    /// Deploys policy versions, and executes what is due in the timelock. Has no other right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub deployer: Option<String>,
    /// Revokes agents and pauses policies, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub guardian: Option<String>,
    /// One of the owners: proposes and confirms. Without it the owners do so themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub owner: Option<String>,
}

/// What the operator saw of the chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChainStatus {
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Development.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Newest block of the endpoint that is read, when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<i64>,
    /// Each endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointStatus>,
    /// The contracts in use: those of the spec, or those that the operator deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contracts: Option<Contracts>,
    /// Who decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governance: Option<Governance>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Scheme, host and port: what follows often holds an access key.
    pub host: String,
    /// Whether it answers for the right chain.
    pub healthy: bool,
    /// Its newest block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<i64>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The owners and their timelock, as the contracts say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Governance {
    /// Owners of the multisig.
    pub owners: i64,
    /// How many of them must agree.
    pub threshold: i64,
    /// Delay of the timelock, such as `24h`.
    pub delay: String,
    /// Address of the guardian.
    pub guardian: String,
}

fn one() -> u32 {
    1
}
