//! Finds the addresses of permitted names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Upstream, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;

use super::{DnsError, Families, Kind, Outcome};

/// Life of an answer that comes from the configuration, in seconds.
const HOSTS_TTL: u32 = 30;
/// Most name servers that are asked; resolv.conf knows three.
const MAX_NAMESERVERS: usize = 8;

/// How names are resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The servers to ask, in order.
    pub nameservers: Vec<SocketAddr>,
    /// Names with fixed addresses; they are not asked for. Any address may stand here.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Which addresses are looked for.
    pub families: Families,
    /// Answers that are remembered, at most.
    pub cache_entries: u64,
    /// Bounds of the time for which an answer is remembered, whatever its TTL says.
    pub ttl: std::ops::RangeInclusive<Duration>,
    /// Patience with one server; there is one repetition.
    pub timeout: Duration,
}

impl Settings {
    /// The usual bounds: 1,024 answers, remembered for 1 s to 5 min, 2 s of patience.
    #[must_use]
    pub fn new(nameservers: Vec<SocketAddr>) -> Self {
        Self {
            nameservers,
            hosts: BTreeMap::new(),
            families: Families::Both,
            cache_entries: 1024,
            ttl: Duration::from_secs(1)..=Duration::from_secs(300),
            timeout: Duration::from_secs(2),
        }
    }
}

/// The name servers that the text of `/etc/resolv.conf` lists (resolv.conf(5)), port 53.
///
/// # Errors
/// When it lists none.
pub fn nameservers_from_resolv_conf(text: &str) -> Result<Vec<SocketAddr>, DnsError> {
    let (config, _) =
        parse_resolv_conf(text).map_err(|error| DnsError::ResolvConf(error.to_string()))?;
    Ok(config
        .name_servers()
        .iter()
        .map(|server| SocketAddr::new(server.ip, 53))
        .collect())
}

/// Resolves names for the DNS server and for the sidecar's own connections, over one cache.
///
/// Names are absolute: no search list applies. Addresses that only this machine or this link
/// could mean are left out, unless the configuration names them: an answer must not turn a
/// permitted name into a way to the pod's loopback or to a metadata service.
#[derive(Clone)]
pub struct Resolver {
    /// Absent when only the configured hosts are known.
    upstream: Option<TokioResolver>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    families: Families,
}

impl Resolver {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// When there is neither a name server nor a configured host.
    pub fn new(settings: Settings) -> Result<Self, DnsError> {
        if settings.nameservers.is_empty() && settings.hosts.is_empty() {
            return Err(DnsError::NoNameServer);
        }
        let upstream = match settings.nameservers.is_empty() {
            true => None,
            false => Some(upstream(&settings)?),
        };
        let hosts = settings
            .hosts
            .into_iter()
            .map(|(name, addresses)| (plain(&name), addresses))
            .collect();
        Ok(Self {
            upstream,
            hosts,
            families: settings.families,
        })
    }

    /// The addresses to dial for `name`: an IP literal is itself, everything else is looked up.
    /// IPv4 first, at most 64.
    ///
    /// # Errors
    /// When the name has no usable address or no server answers.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(literal) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        let name = plain(name);
        absolute(&name)?;
        let (v4, v6) = match self.families {
            Families::Both => {
                tokio::join!(self.lookup(&name, Kind::A), self.lookup(&name, Kind::Aaaa))
            }
            Families::V4Only => (self.lookup(&name, Kind::A).await, Outcome::NoData),
        };
        let failed = matches!((&v4, &v6), (Outcome::Failed, _) | (_, Outcome::Failed));
        let found: Vec<IpAddr> = [v4, v6].into_iter().flat_map(addresses).take(64).collect();
        match (found.is_empty(), failed) {
            (false, _) => Ok(found),
            (true, true) => Err(DnsError::Upstream {
                name,
                reason: "no server answered".to_owned(),
            }),
            (true, false) => Err(DnsError::NoAddress(name)),
        }
    }

    /// Which addresses are looked for.
    #[must_use]
    pub fn families(&self) -> Families {
        self.families
    }

    /// One lookup for the DNS server. `name` is in lower case, without the final dot.
    pub(super) async fn lookup(&self, name: &str, kind: Kind) -> Outcome {
        let Ok(absolute) = absolute(name) else {
            return Outcome::NoSuchName;
        };
        if let Some(addresses) = self.hosts.get(name) {
            return fixed(&absolute, addresses, kind);
        }
        let Some(upstream) = &self.upstream else {
            return Outcome::NoSuchName;
        };
        match upstream.lookup(absolute, kind.record_type()).await {
            Ok(lookup) => {
                let usable: Vec<Record> = lookup
                    .answers()
                    .iter()
                    .filter(|r| usable(r))
                    .cloned()
                    .collect();
                if usable.is_empty() {
                    Outcome::NoData
                } else {
                    Outcome::Records(usable)
                }
            }
            Err(NetError::Dns(Upstream::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Outcome::NoSuchName,
                ResponseCode::NoError => Outcome::NoData,
                _ => Outcome::Failed,
            },
            Err(error) => {
                tracing::debug!(name, %error, "name resolution failed");
                Outcome::Failed
            }
        }
    }
}

fn upstream(settings: &Settings) -> Result<TokioResolver, DnsError> {
    let servers = settings
        .nameservers
        .iter()
        .take(MAX_NAMESERVERS)
        .map(name_server)
        .collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    bound(builder.options_mut(), settings);
    builder
        .build()
        .map_err(|error| DnsError::ResolvConf(error.to_string()))
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn bound(options: &mut ResolverOpts, settings: &Settings) {
    options.timeout = settings.timeout;
    options.attempts = 1;
    options.cache_size = settings.cache_entries;
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_min_ttl = Some(*settings.ttl.start());
    options.positive_max_ttl = Some(*settings.ttl.end());
    options.negative_min_ttl = Some(*settings.ttl.start());
    options.negative_max_ttl = Some(*settings.ttl.end());
    options.preserve_intermediates = true;
    options.case_randomization = true;
}

/// As the catalog writes names: lower case, without the final dot.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn absolute(name: &str) -> Result<Name, DnsError> {
    let bad = || DnsError::BadName(name.to_owned());
    let mut absolute = Name::from_ascii(name).map_err(|_| bad())?;
    if absolute.is_root() {
        return Err(bad());
    }
    absolute.set_fqdn(true);
    Ok(absolute)
}

fn fixed(name: &Name, addresses: &[IpAddr], kind: Kind) -> Outcome {
    let records: Vec<Record> = addresses
        .iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), Kind::A) => Some(RData::A((*v4).into())),
            (IpAddr::V6(v6), Kind::Aaaa) => Some(RData::AAAA((*v6).into())),
            _ => None,
        })
        .map(|data| Record::from_rdata(name.clone(), HOSTS_TTL, data))
        .collect();
    if records.is_empty() {
        Outcome::NoData
    } else {
        Outcome::Records(records)
    }
}

fn addresses(outcome: Outcome) -> Vec<IpAddr> {
    let Outcome::Records(records) = outcome else {
        return Vec::new();
    };
    records
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect()
}

fn usable(record: &Record) -> bool {
    match record.data.ip_addr() {
        Some(address) => dialable(address),
        None => matches!(record.data, RData::CNAME(_)),
    }
}

/// Whether an address that someone else's DNS gave may be dialled.
fn dialable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            !(v4.is_loopback() || v4.is_link_local() || first == 0 || first >= 224)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || embeds_v4(&v6))
        }
    }
}

/// `::a.b.c.d`, the deprecated compatible form, which some stacks still route as IPv4.
fn embeds_v4(v6: &Ipv6Addr) -> bool {
    v6.segments().iter().take(6).all(|segment| *segment == 0)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;

    #[test]
    fn addresses_of_this_machine_or_this_link_are_never_dialled() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!dialable(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn public_and_cluster_addresses_are_dialled() {
        for address in [
            "192.0.2.1",
            "10.96.0.10",
            "172.16.0.1",
            "2001:db8::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(dialable(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_name_servers_of_resolv_conf_are_read() {
        let text = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5\n";
        let servers = nameservers_from_resolv_conf(text).unwrap();
        assert_eq!(
            servers,
            [
                "10.96.0.10:53".parse().unwrap(),
                "[fd00::10]:53".parse().unwrap()
            ]
        );
    }

    #[test]
    fn a_resolv_conf_without_name_server_is_refused() {
        assert!(matches!(
            nameservers_from_resolv_conf("search x\n"),
            Err(DnsError::ResolvConf(_))
        ));
    }

    #[test]
    fn no_name_server_and_no_host_is_refused() {
        assert!(matches!(
            Resolver::new(Settings::new(Vec::new())),
            Err(DnsError::NoNameServer)
        ));
    }

    fn with_hosts() -> Resolver {
        let mut settings = Settings::new(Vec::new());
        let addresses = ["127.0.0.1", "::1"].map(|a| a.parse().unwrap()).to_vec();
        settings
            .hosts
            .insert("payments.example".to_owned(), addresses);
        Resolver::new(settings).unwrap()
    }

    #[tokio::test]
    async fn a_configured_host_has_its_addresses_even_on_loopback() {
        let found = with_hosts().resolve("Payments.Example.").await.unwrap();
        assert_eq!(
            found,
            [
                "127.0.0.1".parse::<IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
    }

    #[tokio::test]
    async fn an_address_is_its_own_resolution() {
        let found = with_hosts().resolve("[fd00::7]").await.unwrap();
        assert_eq!(found, ["fd00::7".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn an_unknown_or_malformed_name_is_an_error() {
        let resolver = with_hosts();
        assert!(matches!(
            resolver.resolve("other.example").await,
            Err(DnsError::NoAddress(_))
        ));
        for name in ["", ".", "a..b", &"x".repeat(64), "a b"] {
            assert!(resolver.resolve(name).await.is_err(), "{name:?}");
        }
    }
}
