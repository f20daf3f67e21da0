//! The sidecar's one YAML file: its form, its defaults, and what is refused.
//!
//! A file is taken whole or not at all. The JSON Schema in `docs/schemas/sidecar.schema.json` is
//! generated from these types.

mod chain;
mod check;
mod digits;
mod state;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use chain::{Chain, HeadTag, Staleness};
pub use check::{ConfigError, read_bounded};
pub use digits::Hex;
pub use state::{Relay, State};
pub use traffic::{Callers, Dns, InboundPort, InboundProtocol, Intercept, Listen, Outbound};

/// Configuration of one sidecar.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Whether denials and refusals are enforced or only observed.
    #[serde(default)]
    pub mode: Mode,
    /// Where the sidecar gets its SVID.
    pub identity: Identity,
    /// What the registry knows of this agent. Absent for a pod that only receives.
    pub agent: Option<Agent>,
    /// The chain that holds the policy, and how its state is read.
    pub chain: Chain,
    /// Where proved chain state comes from besides the chain's endpoints.
    #[serde(default)]
    pub state: State,
    /// The catalog file (YAML) of this agent. Absent for a pod that only receives.
    pub catalog: Option<PathBuf>,
    /// The record.
    pub record: Record,
    /// Ports that the sidecar listens on.
    #[serde(default)]
    pub listen: Listen,
    /// What leaves the pod.
    #[serde(default)]
    pub outbound: Outbound,
    /// What arrives at the pod, by port of the application.
    #[serde(default)]
    pub inbound: Vec<InboundPort>,
    /// Who may call this pod.
    #[serde(default)]
    pub callers: Callers,
    /// Name resolution.
    #[serde(default)]
    pub dns: Dns,
}

impl Config {
    /// The JSON Schema of this configuration.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

/// Whether denials and refusals are enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What is denied is stopped.
    #[default]
    Enforce,
    /// What is denied is recorded and goes on with its denial, unless the guardian stopped it. For
    /// finding out what a policy would stop, never for production.
    Observe,
}

/// Where the sidecar gets its SVID.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Identity {
    /// Unix socket of the SPIFFE Workload API.
    pub workload_api: PathBuf,
    /// How long to wait for the first SVID before giving up.
    #[serde(default = "seconds::<30>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

/// What the registry knows of this agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Agent {
    /// 128-bit salt of the agent key, 32 hex digits: agent key = keccak256(salt, SPIFFE ID).
    pub salt: Hex<16>,
    /// 128-bit salt of the names in the policy, 32 hex digits.
    pub policy_salt: Hex<16>,
    /// SHA-256 of the model artifact, 64 hex digits.
    pub model: Hex<32>,
    /// SHA-256 of the model's SBOM, 64 hex digits.
    #[serde(default)]
    pub sbom: Option<Hex<32>>,
}

/// The record on this pod's volume.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Record {
    /// Folder that holds the log and the replay store, readable by the sidecar alone.
    pub directory: PathBuf,
    /// Size at which new actions are refused, in bytes.
    #[serde(default = "default_record_bytes")]
    pub max_bytes: u64,
}

const fn seconds<const N: u64>() -> Duration {
    Duration::from_secs(N)
}

const fn one() -> usize {
    1
}

const fn default_record_bytes() -> u64 {
    1 << 30
}

#[cfg(test)]
mod tests;
