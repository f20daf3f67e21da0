//! Environment variables of the init container, which say what is to be captured: the webhook writes
//! them, `writ-sidecar init` and the node agent read them.

/// The uid of the sidecar.
pub const SIDECAR_UID: &str = "WRIT_SIDECAR_UID";
/// Whether IPv6 is captured, as [`Ipv6::as_str`](crate::Ipv6::as_str).
pub const IPV6: &str = "WRIT_IPV6";
/// Ports that the pod's containers may use among themselves, separated by commas.
pub const LOCAL_PORTS: &str = "WRIT_LOCAL_PORTS";
/// The sidecar's port for captured outbound connections.
pub const OUTBOUND_PORT: &str = "WRIT_OUTBOUND_PORT";
/// The sidecar's port for captured inbound connections.
pub const INBOUND_PORT: &str = "WRIT_INBOUND_PORT";
/// The sidecar's port for health, readiness, metrics and probes.
pub const ADMIN_PORT: &str = "WRIT_ADMIN_PORT";
/// The sidecar's port for its local API.
pub const API_PORT: &str = "WRIT_API_PORT";
/// The sidecar's port for DNS.
pub const DNS_PORT: &str = "WRIT_DNS_PORT";
/// Where the sidecar's own `resolv.conf` and `hosts` are written.
pub const NAMES: &str = "WRIT_NAMES";
