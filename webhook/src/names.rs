//! Names that the webhook reads and writes: labels, annotations, containers, volumes, paths. Those that
//! other programs read too are in `writ-api`.

pub use writ_api::{
    CONFIG_VOLUME, INIT, INJECT, INJECTED, INJECTED_VERSION, OPT_OUT, POLICY, REDIRECT,
    REDIRECT_BY_NODE, SIDECAR,
};

/// What every label and annotation of ours starts with.
pub const PREFIX: &str = "writ.dev/";
/// Annotation: the sidecar's log level.
pub const LOG_LEVEL: &str = "writ.dev/log-level";
/// Annotation: CPU requested for the sidecar.
pub const CPU: &str = "writ.dev/cpu";
/// Annotation: memory of the sidecar, request and limit.
pub const MEMORY: &str = "writ.dev/memory";
/// Annotation: ports and paths of the application's metrics, as `9090/metrics, 9091/stats`.
pub const SCRAPE: &str = "writ.dev/scrape";
/// Every annotation that a pod may carry.
pub const OVERRIDES: [&str; 5] = [LOG_LEVEL, CPU, MEMORY, POLICY, SCRAPE];

/// Volume with the record.
pub const RECORD_VOLUME: &str = "writ-record";
/// Memory-backed volume with the interception key, for the sidecar alone.
pub const KEYS_VOLUME: &str = "writ-keys";
/// Memory-backed volume with the trust bundle that agents read.
pub const TRUST_VOLUME: &str = "writ-trust";
/// Volume with the socket of the SPIFFE Workload API.
pub const SPIRE_VOLUME: &str = "writ-spire";
/// Memory-backed volume where iptables keeps its lock.
pub const RUN_VOLUME: &str = "writ-run";
/// Memory-backed volume with the sidecar's own resolv.conf and hosts.
pub const NAMES_VOLUME: &str = "writ-names";
/// Every volume of ours.
pub const VOLUMES: [&str; 7] = [
    NAMES_VOLUME,
    CONFIG_VOLUME,
    RECORD_VOLUME,
    KEYS_VOLUME,
    TRUST_VOLUME,
    SPIRE_VOLUME,
    RUN_VOLUME,
];

/// What the name of every ConfigMap with a sidecar's configuration starts with.
pub const CONFIG_PREFIX: &str = "writ-";

/// Where the sidecar finds its configuration.
pub const CONFIG_PATH: &str = "/etc/writ";
/// Where the record's volume is mounted.
pub const RECORD_PATH: &str = "/var/lib/writ";
/// Where the interception key's volume is mounted.
pub const KEYS_PATH: &str = "/run/writ/keys";
/// Where the trust bundle's volume is mounted, in every container that sees it.
pub const TRUST_PATH: &str = "/run/writ/trust";
/// The trust bundle (PEM): system roots and the pod's own CA.
pub const TRUST_BUNDLE: &str = "/run/writ/trust/bundle.pem";
/// Where the init container writes the sidecar's own resolv.conf and hosts.
pub const NAMES_PATH: &str = "/var/lib/writ-names";
/// Where the Workload API's socket is mounted.
pub const SPIRE_PATH: &str = "/run/spire/sockets";

/// Environment variables that tell common TLS libraries of the bundle.
pub const TRUST_VARIABLES: [&str; 3] =
    ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"];
/// Environment variable of the sidecar: the probes that it answers, as JSON.
pub const PROBES: &str = "WRIT_PROBES";
/// Environment variable of the sidecar: the metrics that it lets a scraper ask for, as JSON.
pub const SCRAPES: &str = "WRIT_SCRAPES";

/// Where service account tokens are mounted. The API server adds this mount on its own.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether a container of this name is ours.
#[must_use]
pub fn is_our_container(name: &str) -> bool {
    name == INIT || name == SIDECAR
}

/// Whether a volume of this name is ours.
#[must_use]
pub fn is_our_volume(name: &str) -> bool {
    VOLUMES.contains(&name)
}
