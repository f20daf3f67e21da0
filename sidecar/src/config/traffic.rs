//! What leaves the pod, what arrives at it, and on which ports it is taken up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use writ_redirect::Ports;

use super::{Hex, seconds};

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
        let ports = Ports::default();
        Self {
            outbound: ports.outbound,
            inbound: ports.inbound,
            admin: ports.status,
            api: ports.local_api,
            dns: ports.dns,
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

const fn default_body_limit() -> usize {
    1 << 20
}
