//! The sidecar's one YAML file: its form, its defaults, and what is refused.
//!
//! A file is taken whole or not at all. The JSON Schema in `docs/schemas/sidecar.schema.json` is
//! generated from these types.

mod state;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

pub use state::{Relay, State};

/// Largest configuration file read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

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

/// The chain that holds the policy.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Chain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// JSON-RPC endpoints, each of another operator.
    #[schemars(with = "Vec<String>")]
    pub endpoints: Vec<Url>,
    /// How many of them must agree on a head.
    #[serde(default = "one")]
    pub quorum: usize,
    /// The agent registry's address.
    #[schemars(with = "String")]
    pub agent_registry: Address,
    /// The policy registry's address.
    #[schemars(with = "String")]
    pub policy_registry: Address,
    /// The anchor contract's address, named in every envelope.
    #[schemars(with = "String")]
    pub anchor: Address,
    /// The block tag that decisions read.
    #[serde(default)]
    pub head: HeadTag,
    /// How often endpoints are asked for a new head.
    #[serde(default = "seconds::<1>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub poll: Duration,
    /// Bounds of staleness.
    #[serde(default)]
    pub staleness: Staleness,
}

/// Block tag that decisions read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadTag {
    /// The newest agreed block.
    #[default]
    Latest,
    /// The newest block that the chain calls safe.
    Safe,
}

/// Bounds of staleness (C-25).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Staleness {
    /// State up to this old is fresh.
    #[serde(default = "seconds::<60>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub fresh: Duration,
    /// State up to this old is used where the rule allows; older is a refusal.
    #[serde(default = "seconds::<300>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max: Duration,
}

impl Default for Staleness {
    fn default() -> Self {
        Self {
            fresh: seconds::<60>(),
            max: seconds::<300>(),
        }
    }
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

/// Ports that the sidecar listens on.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// Captured outbound connections, loopback only.
    pub outbound: u16,
    /// Captured inbound connections.
    pub inbound: u16,
    /// Health, readiness and metrics.
    pub admin: u16,
    /// Local API, loopback only.
    pub api: u16,
    /// DNS, loopback only.
    pub dns: u16,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            outbound: 15801,
            inbound: 15806,
            admin: 15820,
            api: 15821,
            dns: 15853,
        }
    }
}

impl Listen {
    /// All of them.
    #[must_use]
    pub const fn ports(&self) -> [u16; 5] {
        [self.outbound, self.inbound, self.admin, self.api, self.dns]
    }
}

/// What leaves the pod.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Outbound {
    /// Bodies up to this many bytes are bound by digest; larger ones are `unbound`.
    pub body_limit: usize,
    /// How long the agent may take to send a request's head.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// How long the agent may take to send a request's body.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    /// How long connecting to a target may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long a target may take to answer with a response's head.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub response_timeout: Duration,
    /// Most connections from the agent at one time.
    pub max_connections: usize,
    /// Idle connections kept for each target.
    pub max_idle: usize,
    /// Lifetime of envelopes in seconds where the rule names none, 30 to 300.
    pub envelope_seconds: u64,
    /// Interception of the agent's own TLS; needed by destinations with `agentTls: intercept`.
    pub intercept: Option<Intercept>,
    /// Ports on loopback, or the pod's own address, that pass undecided.
    pub local_ports: Vec<u16>,
    /// PEM files of certificate authorities that the catalog names, by name.
    pub authorities: BTreeMap<String, PathBuf>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            body_limit: 1 << 20,
            header_timeout: seconds::<10>(),
            body_timeout: seconds::<30>(),
            connect_timeout: seconds::<5>(),
            response_timeout: seconds::<120>(),
            max_connections: 1024,
            max_idle: 64,
            envelope_seconds: 60,
            intercept: None,
            local_ports: Vec::new(),
            authorities: BTreeMap::new(),
        }
    }
}

/// Interception of the agent's own TLS.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Intercept {
    /// Memory-backed folder that holds the pod's CA key, readable by the sidecar alone.
    pub key_directory: PathBuf,
    /// Where the trust bundle for the agent is written (PEM: system roots and the pod's CA).
    pub bundle: PathBuf,
}

/// One port of the application behind this sidecar.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InboundPort {
    /// Port that callers dial.
    pub port: u16,
    /// Where the application listens.
    pub app: SocketAddr,
    /// Authorities (`host:port`) that callers may name this port by. Never taken from Host.
    pub authorities: Vec<String>,
    /// What the application speaks.
    #[serde(default)]
    pub protocol: InboundProtocol,
    /// Requests larger than this many bytes are refused unless their rule allowed `unbound`.
    #[serde(default = "default_body_limit")]
    pub body_limit: usize,
    /// How long a caller may take to send a body that is bound, and how long it may pause in one
    /// that is not.
    #[serde(default = "seconds::<30>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
}

/// What the application speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InboundProtocol {
    /// Plain HTTP: each request is one action.
    #[default]
    Http,
    /// MCP over streamable HTTP: each JSON-RPC message is one action.
    Mcp,
}

/// Who may call this pod.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Callers {
    /// Catalog files (YAML) of admitted callers, found by hash.
    pub catalogs: Vec<PathBuf>,
    /// SPIFFE IDs admitted; empty means every caller that the registry knows as active.
    pub allow: Vec<String>,
    /// Agent keys (hex) whose registry entries are kept warm.
    pub agents: Vec<Hex<32>>,
    /// Tolerated difference between a caller's clock and ours, at most 60 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub clock_skew: Duration,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            catalogs: Vec::new(),
            allow: Vec::new(),
            agents: Vec::new(),
            clock_skew: seconds::<10>(),
        }
    }
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Dns {
    /// Resolvers to ask; empty means those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// Names answered from here, as `/etc/hosts` would.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
}

/// `N` bytes, written as hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> std::fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(&text), &mut bytes)
            .map_err(|_| serde::de::Error::custom(format!("expected {} hex digits", N * 2)))?;
        Ok(Self(bytes))
    }
}

impl<const N: usize> JsonSchema for Hex<N> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Hex{N}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": format!("^(0x)?[0-9a-fA-F]{{{}}}$", N * 2),
        })
    }
}

/// Why a configuration was refused. Nothing of a refused file takes effect.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}; check the path and that the sidecar's uid may read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_CONFIG_BYTES`].
    #[error("{0} is larger than 1 MiB; a configuration is a few kilobytes")]
    TooLarge(PathBuf),
    /// The file is not the YAML that the schema describes.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what, as the parser says it.
        reason: String,
    },
    /// The file parses, but contradicts itself.
    #[error("configuration refused: {0}")]
    Contradiction(String),
}

impl Config {
    /// Reads, parses and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the place and the fix.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path, MAX_CONFIG_BYTES)?;
        let config: Self = serde_saphyr::from_str(&text).map_err(|e| ConfigError::Malformed {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The JSON Schema of this configuration.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// Refuses what parses but cannot be meant.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError::Contradiction(reason));
        if self.chain.endpoints.is_empty() {
            return refuse("chain.endpoints is empty; name at least one JSON-RPC endpoint".into());
        }
        if self.chain.quorum == 0 || self.chain.quorum > self.chain.endpoints.len() {
            return refuse(format!(
                "chain.quorum is {}, but there are {} endpoints; it must be between 1 and that",
                self.chain.quorum,
                self.chain.endpoints.len()
            ));
        }
        if self.chain.staleness.fresh > self.chain.staleness.max {
            return refuse("chain.staleness.fresh is longer than chain.staleness.max".into());
        }
        self.state.check().map_err(ConfigError::Contradiction)?;
        if self.agent.is_some() != self.catalog.is_some() {
            return refuse("agent and catalog go together: name both, or neither".into());
        }
        if self.agent.is_none() && self.inbound.is_empty() {
            return refuse("neither agent nor inbound is set: there is nothing to do".into());
        }
        if self.callers.clock_skew > seconds::<60>() {
            return refuse("callers.clockSkew must be at most 60 s".into());
        }
        if !(30..=300).contains(&self.outbound.envelope_seconds) {
            return refuse("outbound.envelopeSeconds must be between 30 and 300".into());
        }
        let mut own = self.listen.ports();
        own.sort_unstable();
        if own.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("two of listen's ports are the same".into());
        }
        for (index, inbound) in self.inbound.iter().enumerate() {
            if own.contains(&inbound.port) {
                return refuse(format!(
                    "inbound port {} is the sidecar's own",
                    inbound.port
                ));
            }
            if inbound.body_timeout.is_zero() {
                return refuse(format!(
                    "inbound port {}: bodyTimeout is zero; no body could arrive",
                    inbound.port
                ));
            }
            if inbound.authorities.is_empty() {
                return refuse(format!(
                    "inbound port {}: authorities is empty; name the host:port that callers use",
                    inbound.port
                ));
            }
            if self
                .inbound
                .iter()
                .skip(index + 1)
                .any(|other| other.port == inbound.port)
            {
                return refuse(format!("inbound port {} is named twice", inbound.port));
            }
        }
        Ok(())
    }
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`ConfigError`] when it cannot be read or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > limit {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
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

const fn default_body_limit() -> usize {
    1 << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
identity: {workloadApi: /run/spire/agent.sock}
agent: {salt: 000102030405060708090a0b0c0d0e0f, policySalt: 0f0e0d0c0b0a09080706050403020100, model: '0000000000000000000000000000000000000000000000000000000000000001'}
chain:
  chainId: 84532
  endpoints: ['http://127.0.0.1:8545']
  agentRegistry: '0x0000000000000000000000000000000000000001'
  policyRegistry: '0x0000000000000000000000000000000000000002'
  anchor: '0x0000000000000000000000000000000000000003'
catalog: /etc/writ/catalog.yaml
record: {directory: /var/lib/writ}
";

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn a_minimal_configuration_has_the_documented_defaults() {
        let config = load(MINIMAL).unwrap();
        assert_eq!(config.listen.outbound, 15801);
        assert_eq!(config.chain.staleness.fresh, Duration::from_secs(60));
        assert_eq!(config.outbound.body_limit, 1 << 20);
    }

    #[test]
    fn an_unknown_field_is_refused_whole() {
        let error = load(&format!("{MINIMAL}\nsurprise: 1\n")).unwrap_err();
        assert!(error.to_string().contains("surprise"), "{error}");
    }

    #[test]
    fn a_duplicate_key_is_refused() {
        assert!(load(&format!("{MINIMAL}\ncatalog: /other\n")).is_err());
    }

    #[test]
    fn contradictions_are_refused_with_the_setting_named() {
        for (from, to, names) in [
            (
                "  endpoints: ['http://127.0.0.1:8545']",
                "  endpoints: []",
                "endpoints",
            ),
            (
                "  chainId: 84532",
                "  chainId: 84532\n  quorum: 2",
                "quorum",
            ),
            ("catalog: /etc/writ/catalog.yaml", "", "catalog"),
            (
                "record:",
                "inbound: [{port: 15801, app: '127.0.0.1:80', authorities: ['a:80']}]\nrecord:",
                "15801",
            ),
            (
                "record:",
                "inbound: [{port: 80, app: '127.0.0.1:80', authorities: []}]\nrecord:",
                "authorities",
            ),
            (
                "record:",
                "inbound: [{port: 80, app: '127.0.0.1:80', authorities: ['a:80'], bodyTimeout: 0s}]\nrecord:",
                "bodyTimeout",
            ),
            (
                "record:",
                "outbound: {envelopeSeconds: 10}\nrecord:",
                "envelopeSeconds",
            ),
        ] {
            let error = load(&MINIMAL.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(names), "{names}: {error}");
        }
    }

    #[test]
    fn the_published_schema_is_current() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/schemas/sidecar.schema.json"
        );
        let current = serde_json::to_string_pretty(&Config::json_schema()).unwrap() + "\n";
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            published, current,
            "run `writ-sidecar schema > docs/schemas/sidecar.schema.json`"
        );
    }
}
