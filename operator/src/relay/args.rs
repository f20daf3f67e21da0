//! Flags of the roles `relay` and `witness`, and of those who are told of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// What this process does.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Carries out what the custom resources say.
    #[default]
    Controller,
    /// Reads the chains' endpoints for all sidecars, and tells them of revocations.
    Relay,
    /// Signs the heads that one endpoint serves.
    Witness,
}

/// Block that is read.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// The newest.
    #[default]
    Latest,
    /// The newest that the chain calls safe.
    Safe,
}

/// Flags of relay and witness.
#[derive(clap::Args, Clone, Debug)]
pub struct RelayArgs {
    /// What this process does.
    #[arg(long, env = "WRIT_ROLE", value_enum, default_value_t = Role::Controller)]
    pub role: Role,
    /// Where sidecars find the relay, such as writ-relay.writ-system.svc:15900. Without it they read the endpoints
    /// themselves. [controller]
    #[arg(long, env = "WRIT_RELAY", value_parser = host_and_port, value_name = "HOST:PORT")]
    pub relay: Option<String>,
    /// SPIFFE ID of the relay; spiffe://<trust domain>/ns/<namespace>/sa/writ-relay if it is not given. [controller,
    /// witness]
    #[arg(long, env = "WRIT_RELAY_ID", value_parser = spiffe_id, value_name = "SPIFFE ID")]
    pub relay_id: Option<String>,
    /// Socket of the SPIFFE Workload API. [relay, witness]
    #[arg(
        long,
        env = "WRIT_WORKLOAD_API",
        default_value = "/run/spire/sockets/agent.sock",
        value_name = "FILE"
    )]
    pub workload_api: PathBuf,
    /// Where sidecars are served. [relay]
    #[arg(
        long,
        env = "WRIT_RELAY_LISTEN",
        default_value = "[::]:15900",
        value_name = "ADDRESS"
    )]
    pub relay_listen: SocketAddr,
    /// Most sidecars connected at one time. [relay]
    #[arg(
        long,
        env = "WRIT_MAX_SIDECARS",
        default_value_t = 10_000,
        value_parser = sidecars,
        value_name = "COUNT"
    )]
    pub max_sidecars: usize,
    /// Most sidecars of one SPIFFE ID connected at one time. [relay]
    #[arg(
        long,
        env = "WRIT_MAX_SIDECARS_PER_ID",
        default_value_t = 2_000,
        value_parser = sidecars,
        value_name = "COUNT"
    )]
    pub max_sidecars_per_id: usize,
    /// Where the relay is served. [witness]
    #[arg(
        long,
        env = "WRIT_WITNESS_LISTEN",
        default_value = "[::]:15910",
        value_name = "ADDRESS"
    )]
    pub witness_listen: SocketAddr,
    /// The endpoint whose heads are signed: give each witness another operator's. [witness]
    #[arg(long, env = "WRIT_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<Url>,
    /// EIP-155 chain id of the endpoint. [witness]
    #[arg(long, env = "WRIT_CHAIN_ID", value_name = "ID")]
    pub chain_id: Option<u64>,
    /// Block whose header is signed. [witness]
    #[arg(long, env = "WRIT_HEAD", value_enum, default_value_t = Head::Latest)]
    pub head: Head,
    /// How often the endpoint is asked for its head. [witness]
    #[arg(long, env = "WRIT_POLL", default_value = "500ms", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub poll: Duration,
}

impl RelayArgs {
    /// SPIFFE ID of the relay.
    #[must_use]
    pub fn relay_id(&self, trust_domain: &str, namespace: &str) -> String {
        let given = self.relay_id.clone();
        given.unwrap_or_else(|| format!("spiffe://{trust_domain}/ns/{namespace}/sa/writ-relay"))
    }

    /// Who may listen to a witness.
    #[must_use]
    pub fn relays(&self, trust_domain: &str, namespace: &str) -> BTreeSet<String> {
        BTreeSet::from([self.relay_id(trust_domain, namespace)])
    }

    /// The endpoint and chain of a witness.
    ///
    /// # Errors
    /// Which flag to give.
    pub fn watched(&self) -> Result<(Url, u64), String> {
        match (&self.endpoint, self.chain_id) {
            (Some(endpoint), Some(id)) if !self.poll.is_zero() => Ok((endpoint.clone(), id)),
            (None, _) => Err("--role witness needs --endpoint".to_owned()),
            (_, None) => Err("--role witness needs --chain-id".to_owned()),
            _ => Err("--poll must be longer than zero".to_owned()),
        }
    }
}

fn spiffe_id(text: &str) -> Result<String, String> {
    writ_identity::check_spiffe_id(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn sidecars(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|n| (1..=100_000).contains(n));
    count.ok_or_else(|| "give 1 to 100000".to_owned())
}

fn host_and_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && port > 0).then_some(port)
    });
    port.map(|_| text.to_owned())
        .ok_or_else(|| "give host:port".to_owned())
}
