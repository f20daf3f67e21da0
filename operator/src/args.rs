//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use writ_service::Logging;

use crate::leader::Timing;
use crate::relay::args::RelayArgs;
use crate::{NetworkPolicies, RelayAt, Settings};

/// Operator of Writ: turns AgentPolicies into contracts and sidecar configuration, and
/// AgentRevocations into transactions.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    version,
    after_help = "Examples:
  writ-operator --trust-domain example.org                  inside the cluster
  KUBECONFIG=~/.kube/config writ-operator --trust-domain example.org --log-format text --keys ./keys
  writ-operator --trust-domain example.org --role relay
  writ-operator --trust-domain example.org --role witness --endpoint https://rpc.example --chain-id 84532

Keys that a Chain names (spec.keys) are files of --keys, each with one secp256k1 key in hex.
Over HTTP on --admin-listen: /healthz, /readyz, /metrics."
)]
pub struct Args {
    /// Trust domain of the agents' SPIFFE IDs: spiffe://<trust domain>/ns/<namespace>/sa/<account>.
    #[arg(long, env = "WRIT_TRUST_DOMAIN", value_parser = trust_domain, value_name = "NAME")]
    pub trust_domain: String,
    /// Namespace of this program: its Lease and its Secrets with salts are there.
    #[arg(
        long,
        env = "WRIT_NAMESPACE",
        default_value = "writ-system",
        value_name = "NAME"
    )]
    pub namespace: String,
    /// Name of this process, unlike any other's: in a pod, the pod's name.
    #[arg(long, env = "WRIT_POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Folder with the keys that Chains name.
    #[arg(
        long,
        env = "WRIT_KEYS",
        default_value = "/etc/writ/keys",
        value_name = "FOLDER"
    )]
    pub keys: PathBuf,
    /// File name of the Workload API's socket, in the folder that sidecars mount.
    #[arg(long, env = "WRIT_SPIRE_SOCKET", default_value = "agent.sock", value_parser = file_name, value_name = "NAME")]
    pub spire_socket: String,
    /// Whether a NetworkPolicy is kept for each AgentPolicy's pods, which lets out only what their
    /// sidecars need.
    #[arg(long, env = "WRIT_NETWORK_POLICIES", value_enum, default_value_t = NetworkPolicies::Keep)]
    pub network_policies: NetworkPolicies,
    /// Namespace of the cluster's resolvers.
    #[arg(
        long,
        env = "WRIT_DNS_NAMESPACE",
        default_value = "kube-system",
        value_name = "NAME"
    )]
    pub dns_namespace: String,
    /// OpenTelemetry collector that sidecars send traces to, so that their NetworkPolicies let them.
    #[arg(long, env = "WRIT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<url::Url>,
    /// Where health, readiness and metrics are, over HTTP.
    #[arg(
        long,
        env = "WRIT_ADMIN_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// How long leadership lasts without renewal.
    #[arg(long, env = "WRIT_LEASE", default_value = "15s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub lease: Duration,
    /// How often leadership is renewed, at most a third of --lease.
    #[arg(long, env = "WRIT_LEASE_RENEW", default_value = "3s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub lease_renew: Duration,
    /// Logs.
    #[command(flatten)]
    pub logging: Logging,
    /// Relay and witness.
    #[command(flatten)]
    pub relaying: RelayArgs,
}

impl Args {
    /// Times of the lease, checked.
    ///
    /// # Errors
    /// Which flag to change.
    pub fn timing(&self) -> Result<Timing, String> {
        if self.lease < Duration::from_secs(3) || self.lease > Duration::from_secs(600) {
            return Err("--lease must be between 3s and 10m".to_owned());
        }
        if self.lease_renew.is_zero() || self.lease_renew > self.lease / 3 {
            return Err("--lease-renew must be at most a third of --lease".to_owned());
        }
        Ok(Timing {
            lease: self.lease,
            renew: self.lease_renew,
        })
    }

    /// What the controllers need to know.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            namespace: self.namespace.clone(),
            trust_domain: self.trust_domain.clone(),
            spire_socket: self.spire_socket.clone(),
            network_policies: self.network_policies,
            dns_namespace: self.dns_namespace.clone(),
            collector: self.otlp_endpoint.clone(),
            relay: self.relaying.relay.as_ref().map(|address| RelayAt {
                address: address.clone(),
                spiffe_id: self.relaying.relay_id(&self.trust_domain, &self.namespace),
            }),
        }
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(plain) {
        return Err(
            "a trust domain has lower-case letters, digits, dots, hyphens and underscores"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.starts_with('.') {
        return Err("name a file, without folders".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn args(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("writ-operator").chain(line.split_whitespace());
        Args::try_parse_from(words)
    }

    #[test]
    fn the_trust_domain_is_the_only_flag_that_must_be_given() {
        assert!(args("").is_err());
        let args = args("--trust-domain example.org").unwrap();
        assert_eq!(args.settings().namespace, "writ-system");
        assert!(args.timing().is_ok());
    }

    #[test]
    fn sidecars_are_told_of_a_relay_only_where_one_is_named() {
        let without = args("--trust-domain a").unwrap();
        assert_eq!(without.settings().relay, None);
        let with = args("--trust-domain a --relay writ-relay.writ-system.svc:15900").unwrap();
        let relay = with.settings().relay.unwrap();
        assert_eq!(relay.address, "writ-relay.writ-system.svc:15900");
        assert_eq!(relay.spiffe_id, "spiffe://a/ns/writ-system/sa/writ-relay");
    }

    #[test]
    fn a_witness_names_its_endpoint_and_its_chain() {
        let bare = args("--trust-domain a --role witness").unwrap();
        assert!(bare.relaying.watched().unwrap_err().contains("--endpoint"));
        let line = "--trust-domain a --role witness --endpoint http://a:8545 --chain-id 1";
        assert!(args(line).unwrap().relaying.watched().is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_flag() {
        for line in [
            "--trust-domain spiffe://example.org",
            "--trust-domain Example.org",
            "--trust-domain a --spire-socket ../agent.sock",
            "--trust-domain a --relay writ-relay.writ-system.svc",
            "--trust-domain a --role something",
        ] {
            assert!(args(line).is_err(), "{line}");
        }
        let slow = args("--trust-domain a --lease 15s --lease-renew 10s").unwrap();
        assert!(slow.timing().unwrap_err().contains("--lease-renew"));
    }
}
