//! `AgentPolicy`: which pods, what they may do, what their sidecars are told.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which pods, what they may do, and what their sidecars are told.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "writ.dev",
    version = "v1alpha1",
    kind = "AgentPolicy",
    plural = "agentpolicies",
    namespaced,
    status = "AgentPolicyStatus",
    doc = "Which pods are agents, what they may do, and what their sidecars are told.",
    derive = "PartialEq",
    category = "writ",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"In force","type":"string","jsonPath":".status.conditions[?(@.type==\"InForce\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Version","type":"integer","jsonPath":".status.inForce.version"}"#,
    printcolumn = r#"{"name":"Queued until","type":"string","jsonPath":".status.queued.readyAt"}"#,
    printcolumn = r#"{"name":"Agents","type":"integer","jsonPath":".status.pods.agents"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods.covered"}"#,
    printcolumn = r#"{"name":"Uncovered","type":"integer","jsonPath":".status.pods.uncovered"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("!(has(self.rules) && has(self.policyRef))", "rules, policyRef: name one of them; the contract at policyRef brings its own rules"),
    validation = ("has(self.catalog) == (has(self.rules) || has(self.policyRef))", "catalog: goes with rules or policyRef; a pod that only receives has none of them"),
    validation = ("has(self.rules) || has(self.policyRef) || (has(self.inbound) && size(self.inbound) > 0)", "rules: name rules, policyRef or inbound ports; this policy says nothing"),
    validation = ("!has(self.inbound) || self.inbound.all(a, self.inbound.exists_one(b, b.port == a.port))", "inbound: a port is named twice"),
    validation = ("self.chain == oldSelf.chain", "chain: cannot change, or the policy would stay in force on the old one; make another AgentPolicy"),
)]
pub struct AgentPolicySpec {
    /// Pods of this namespace that are agents under this policy. Empty: all of them. A pod's annotation
    /// `writ.dev/policy` names one policy where several select it.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Service accounts whose agents are registered before their first pod comes, so that no pod waits for the
    /// timelock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub service_accounts: Vec<String>,
    /// Name of the Chain.
    #[serde(default = "default_chain")]
    #[schemars(length(min = 1, max = 253))]
    pub chain: String,
    /// What the agents may do, as `writ rules schema` describes it. What no rule allows is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::rules")]
    pub rules: Option<Value>,
    /// A policy contract that is deployed already, in place of `rules`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<PolicyRef>,
    /// What requests are called: the catalog, as `docs/catalog.md` describes it. Its hash is pinned on chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::open_object")]
    pub catalog: Option<Value>,
    /// Whether denials hold.
    #[serde(default)]
    pub mode: Mode,
    /// The model that must act. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Ports on which other agents may call these pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub inbound: Vec<Inbound>,
    /// Who may call these pods.
    #[serde(default)]
    pub callers: Callers,
    /// Namespaces whose pods may be given this catalog, as receivers of these agents' calls. This namespace always may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub disclose_to: Vec<String>,
    /// TCP ports that the containers of one pod may use among themselves, undecided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub pod_local_ports: Vec<u16>,
    /// What happens to TLS that agents speak themselves.
    #[serde(default)]
    pub tls: Tls,
    /// How old the chain's state may be.
    #[serde(default)]
    pub staleness: Staleness,
    /// The record of each pod.
    #[serde(default)]
    pub record: Record,
}

/// Whether denials hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// What is denied does not happen.
    #[default]
    Enforce,
    /// What is denied is recorded and happens all the same, unless the guardian stopped the agent. NOT PROTECTED.
    Observe,
}

/// A policy contract that is deployed already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRef {
    /// Where it stands.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{40}$"))]
    pub address: String,
    /// keccak256 of its code.
    #[schemars(regex(pattern = r"^0x[0-9a-fA-F]{64}$"))]
    pub code_hash: String,
    /// Salt of the names in its rules, 32 hex digits. Absent: one is made, for contracts that compare no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{32}$"))]
    pub salt: Option<String>,
}

/// The model that must act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// SHA-256 of the model artifact, 64 hex digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: String,
    /// SHA-256 of the model's SBOM, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sbom: Option<String>,
}

/// A port on which other agents may call these pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Port that callers dial.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Port on which the application listens at 127.0.0.1.
    #[schemars(range(min = 1, max = 65535))]
    pub app_port: u16,
    /// What the application speaks.
    #[serde(default)]
    pub protocol: InboundProtocol,
    /// Authorities (`host:port`) that callers may name this port by.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 3, max = 260), regex(pattern = r"^[^\s/]+:[0-9]{1,5}$"))
    )]
    pub authorities: Vec<String>,
    /// Requests larger than this many bytes are refused unless their rule allowed `unbound`. Default: 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824_i64))]
    pub body_limit: Option<u64>,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InboundProtocol {
    /// HTTP: each request is one action.
    #[default]
    Http,
    /// MCP over streamable HTTP: each JSON-RPC message is one action.
    Mcp,
}

/// Who may call these pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Callers {
    /// AgentPolicies whose agents are admitted: their SPIFFE IDs, keys and catalogs follow by themselves. One of
    /// another namespace must name this namespace in `discloseTo`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub policies: Vec<CallerPolicy>,
    /// Further SPIFFE IDs that are admitted. Empty, and no `policies`: every agent that the registry knows as active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(
            length(min = 16, max = 512),
            regex(pattern = r"^spiffe://[a-z0-9._-]+/[A-Za-z0-9._/-]+$")
        )
    )]
    pub spiffe_ids: Vec<String>,
    /// Tolerated difference between a caller's clock and ours, at most 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[0-9]{1,6}(ms|s|m)$"))]
    pub clock_skew: Option<String>,
}

/// An AgentPolicy whose agents are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallerPolicy {
    /// Its namespace. Absent: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What happens to TLS that agents speak themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Whether it may be terminated with a certificate authority of the pod's own, for destinations whose catalog
    /// entry says `agent_tls: intercept`.
    #[serde(default)]
    pub intercept: bool,
    /// Certificate authorities (PEM) that the catalog names as `peer: {ca: <name>}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::authorities")]
    pub authorities: BTreeMap<String, String>,
}

/// How old the chain's state may be.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("!has(self.fresh) || !has(self.max) || duration(self.fresh) <= duration(self.max)", "fresh: longer than max"),
)]
pub struct Staleness {
    /// State up to this old is fresh. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[0-9]{1,5}(s|m)$"))]
    pub fresh: Option<String>,
    /// State up to this old is used where the rule allows; older is a refusal. Default: 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[0-9]{1,5}(s|m)$"))]
    pub max: Option<String>,
}

/// The record of each pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Size at which new actions are refused, in bytes; at most the webhook's `--record-size`. Default: 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_i64))]
    pub max_bytes: Option<u64>,
}

/// What is in force, what is queued, for whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentPolicyStatus {
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Programmed, InForce, Enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Reason of the first condition that does not hold, or `InForce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Id of this policy in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_id: Option<String>,
    /// The version that decides now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
    /// What waits for owners or for the timelock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<Queued>,
    /// The agents, by service account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<Agent>,
    /// How many pods are under this policy.
    #[serde(default)]
    pub pods: PodCount,
    /// Names of selected pods without a sidecar, up to 20 of them: they are not protected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncovered: Vec<String>,
    /// Who is behind the Services that the catalog's in-cluster destinations name, and whether that is
    /// whom the catalog expects. Proposals: nothing follows from them by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<ProposedPeer>,
    /// The newest transactions sent for this policy, newest first, up to 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transactions: Vec<Transaction>,
}

/// The version that decides now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// Version counter of the registry.
    pub version: i64,
    /// Its contract.
    pub contract: String,
    /// keccak256 of the contract's code.
    pub code_hash: String,
    /// SHA-256 of the catalog.
    pub catalog_hash: String,
    /// Whether the guardian paused it.
    pub paused: bool,
}

/// A change that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queued {
    /// What it changes, such as `publish policy version`.
    pub change: String,
    /// Operation in the timelock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// When the timelock lets it through, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<String>,
    /// Proposal in the multisig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<i64>,
    /// How many owners confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<i64>,
    /// How many owners must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<i64>,
    /// Contract that the multisig must call, for owners who propose it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What it must call it with, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// The agents of one service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Service account.
    pub service_account: String,
    /// Their SPIFFE ID.
    pub spiffe_id: String,
    /// Their key in the registry.
    pub key: String,
    /// What the registry says: `unknown`, `active`, `paused` or `revoked`.
    pub status: String,
    /// ConfigMap with their sidecars' configuration.
    pub config_map: String,
    /// How many of their pods there are now.
    pub pods: i64,
}

/// Who is behind one in-cluster destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProposedPeer {
    /// Host of the destination, as the catalog has it.
    pub destination: String,
    /// SPIFFE IDs of the pods that its Service selects, up to 5: one of them belongs into the catalog as
    /// `peer: {spiffe: ID}`. Two are two agents behind one name: split the Service.
    pub behind: Vec<String>,
    /// What the catalog expects: a SPIFFE ID, `ca:<name>`, `unverified`, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub written: String,
    /// Whether both are the same one.
    pub agrees: bool,
}

/// How many pods are under a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCount {
    /// Agents (SPIFFE IDs).
    #[serde(default)]
    pub agents: i64,
    /// Selected pods with a sidecar.
    #[serde(default)]
    pub covered: i64,
    /// Selected pods without one: not protected.
    #[serde(default)]
    pub uncovered: i64,
}

/// A transaction that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// What it did.
    pub what: String,
    /// Its hash.
    pub hash: String,
    /// Block that holds it.
    pub block: i64,
}

fn default_chain() -> String {
    "default".to_owned()
}
