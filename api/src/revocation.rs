//! `AgentRevocation`: one agent is stopped, everywhere, for good.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Stops one agent everywhere, at once. Deleting it does not reinstate the agent: only the owners can.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "writ.dev",
    version = "v1alpha1",
    kind = "AgentRevocation",
    plural = "agentrevocations",
    status = "AgentRevocationStatus",
    doc = "Stops one agent everywhere, at once. Deleting it does not reinstate the agent: only the owners can.",
    derive = "PartialEq",
    category = "writ",
    printcolumn = r#"{"name":"Agent","type":"string","jsonPath":".spec.spiffeId"}"#,
    printcolumn = r#"{"name":"Revoked","type":"string","jsonPath":".status.conditions[?(@.type==\"Revoked\")].status"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Block","type":"integer","jsonPath":".status.block"}"#,
    printcolumn = r#"{"name":"Sidecars","type":"string","jsonPath":".status.sidecars[*].enforcing"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".spec.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self == oldSelf", "a revocation cannot change: make another one"),
)]
pub struct AgentRevocationSpec {
    /// SPIFFE ID of the agent.
    #[schemars(
        length(min = 16, max = 512),
        regex(pattern = r"^spiffe://[a-z0-9._-]+/[A-Za-z0-9._/-]+$")
    )]
    pub spiffe_id: String,
    /// Name of the Chain whose registry knows the agent.
    #[serde(default = "default_chain")]
    #[schemars(length(min = 1, max = 253))]
    pub chain: String,
    /// Why, for the public registry: 1 to 32 printable ASCII characters, no names of people.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[ -~]+$"))]
    pub reason: String,
    /// The agent's key in the registry, for an agent that this cluster has no salt of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66), regex(pattern = r"^0x[0-9a-fA-F]{64}$"))]
    pub agent_key: Option<String>,
}

/// How far a revocation has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRevocationStatus {
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The agent's key in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_key: Option<String>,
    /// The transaction that revoked it, whoever sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// The block that holds the transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<i64>,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How many sidecars refuse the agent, as each relay counts those that are connected to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["relay"])
    )]
    pub sidecars: Vec<Enforcement>,
}

/// How many of a relay's sidecars refuse a revoked agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// Name of the relay's pod.
    #[schemars(length(min = 1, max = 253))]
    pub relay: String,
    /// Sidecars that said that they refuse the agent, because of the relay's notice or by the chain's proved state.
    pub enforcing: u32,
    /// Sidecars connected.
    pub connected: u32,
}

/// How far a revocation has come.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Phase {
    /// Not on chain yet; the condition says why.
    Pending,
    /// Sent, and not seen in a block yet.
    Submitted,
    /// In a block.
    Included,
    /// In a block that the chain calls safe.
    Safe,
    /// In a block that the chain calls final.
    Final,
}

fn default_chain() -> String {
    "default".to_owned()
}
