//! The document as written. `docs/schemas/catalog.schema.json` is generated from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A catalog document, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Format version: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Name for people; part of the hash.
    pub name: String,
    /// Settings of the content detectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectors: Option<DetectorSettings>,
    /// Where requests may go.
    pub destinations: Vec<DestinationSpec>,
    /// What requests are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntrySpec>,
    /// Ready-made groups of entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presets: Vec<PresetSpec>,
}

/// Settings of the content detectors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectorSettings {
    /// SHA-256 (hex) of the rule set that this catalog was written for; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruleset: Option<String>,
    /// Rules that are not applied, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disabled: Vec<String>,
}

/// One place that requests may go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// Unique name; entries refer to it.
    pub name: String,
    /// DNS name, `*.suffix` (one or more labels in front), or an IP literal (IPv6 in brackets).
    pub host: String,
    /// Port that the agent addresses.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Who must be at the other end.
    pub peer: PeerSpec,
    /// How the sidecar connects.
    pub upstream: Upstream,
    /// What happens to TLS that the agent itself speaks.
    #[serde(default)]
    pub agent_tls: AgentTls,
    /// Whether the request carries the envelope.
    pub envelope: Envelope,
    /// Who verifies the envelope.
    pub pep: Pep,
    /// Claim `aud`. Default: the peer's SPIFFE ID, else `host:port` (an exact host only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// Identity expected of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerSpec {
    /// This SPIFFE ID exactly.
    Spiffe(String),
    /// A certificate for the host's name from this CA bundle: `webpki` (public roots) or the name of
    /// a bundle in the sidecar's configuration.
    Ca(String),
    /// No identity: for `upstream.mode: plain` only.
    Unverified,
}

/// How the sidecar connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// TLS towards the destination.
    pub mode: UpstreamMode,
    /// Port dialled. Default: the port that the agent addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
}

/// TLS towards the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamMode {
    /// TLS, both sides authenticated by SVID.
    Mtls,
    /// TLS, server authenticated.
    Tls,
    /// No TLS.
    Plain,
}

/// What happens to TLS that the agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentTls {
    /// The agent speaks plain HTTP; the sidecar speaks as `upstream` says.
    Originate,
    /// The sidecar terminates the agent's TLS with the pod's own CA.
    Intercept,
    /// The connection passes unread and is one action.
    Opaque,
    /// Nothing passes.
    #[default]
    Refuse,
}

/// Whether the request carries the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// It does.
    Stamp,
    /// It does not: third parties without a PEP.
    Withhold,
}

/// Who verifies the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pep {
    /// The sidecar beside the target.
    Sidecar,
    /// An egress gateway or a PEP in front of the target.
    Gateway,
    /// Nobody.
    None,
}

/// Protocol of an entry.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP, decided per request.
    Http,
    /// MCP over streamable HTTP, decided per JSON-RPC message.
    Mcp,
    /// A connection that passes unread.
    Opaque,
    /// An action that the agent describes over the sidecar's local API; no captured request carries
    /// it.
    Custom,
    /// Reserved: gRPC.
    Grpc,
    /// Reserved: A2A.
    A2a,
    /// Reserved: WebSocket.
    Ws,
}

/// Data class, ascending.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 0: may be published.
    Public,
    /// 1: stays in the organisation.
    Internal,
    /// 2: personal and business data.
    Confidential,
    /// 3: secrets, payment data.
    Restricted,
}

impl Class {
    /// `classification` of the Action: 0 public to 3 restricted.
    #[must_use]
    pub fn level(self) -> u8 {
        match self {
            Self::Public => 0,
            Self::Internal => 1,
            Self::Confidential => 2,
            Self::Restricted => 3,
        }
    }
}

/// One kind of request and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntrySpec {
    /// Unique name, for messages and records.
    pub name: String,
    /// Name of a destination.
    pub destination: String,
    /// Protocol.
    pub protocol: Protocol,
    /// `http`: the HTTP method. `mcp`: a JSON-RPC method (instead of `tool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `http`: path template (`/v1/accounts/{id}`, `/files/{*rest}`). `mcp`: path of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`: what the query must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QuerySpec>,
    /// `mcp`: tool called by `tools/call`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Dotted capability, such as `payments.transfer`.
    pub capability: String,
    /// Data class; detectors may raise it.
    pub class: Class,
    /// What is acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceSpec>,
    /// Budget window in seconds; 0: no budget.
    #[serde(default)]
    pub window: u32,
    /// Where the amount stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<AmountSpec>,
    /// What the JSON body (`mcp`: the arguments, `custom`: the params) must contain; anything else is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<RequireSpec>,
    /// JSON pointers of scalars that the envelope shows to the target and to auditors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
    /// Static risk score, 0 to 100.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub risk: u8,
}

/// Constraints on the query, read as `application/x-www-form-urlencoded`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuerySpec {
    /// Parameters that must occur once, with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub equals: BTreeMap<String, String>,
    /// Names of the other parameters that may occur. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceSpec {
    /// The value of a path variable.
    Variable(String),
    /// The string or integer at this JSON pointer.
    Pointer(String),
    /// Always this.
    Constant(String),
}

/// An exact decimal in the JSON body (`mcp`: in the arguments, `custom`: in the params).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmountSpec {
    /// JSON pointer (RFC 6901) of a string or a number.
    pub pointer: String,
    /// Decimals of the unit: `"12.34"` at scale 2 is 1234.
    #[schemars(range(max = 36))]
    pub scale: u8,
    /// Unit, such as `EUR` or `USDC`.
    pub unit: String,
    /// Most digits accepted, decimals included.
    #[serde(default = "default_max_digits")]
    #[schemars(range(min = 1, max = 70))]
    pub max_digits: u8,
}

fn default_max_digits() -> u8 {
    30
}

/// A scalar that the body must contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequireSpec {
    /// JSON pointer (RFC 6901).
    pub pointer: String,
    /// Value, a string, an integer or a boolean.
    pub equals: Scalar,
}

/// A scalar in a constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`, `false`.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A string.
    Text(String),
}

/// A ready-made group of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetSpec {
    /// Which one.
    pub preset: Preset,
    /// Name of a destination.
    pub destination: String,
    /// Path of the MCP endpoint.
    pub path: String,
    /// Data class of these messages.
    pub class: Class,
}

/// Ready-made groups of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// `initialize`, `ping`, `tools/list`, `notifications/*`, responses, and the HTTP requests that
    /// open the event stream and end the session.
    McpBase,
}
