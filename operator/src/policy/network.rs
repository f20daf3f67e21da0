//! The NetworkPolicy of a policy's pods: what leaves them goes where their sidecars need to go, and
//! nowhere else, should a sidecar be missing or got around. No I/O.
//!
//! A NetworkPolicy knows addresses and ports, not names: a name outside the cluster opens its port to
//! the whole world but the cloud's metadata services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde_json::{Value, json};
use url::{Host, Url};
use writ_api::{AgentPolicySpec, ChainSpec, Mode};
use writ_catalog::Catalog;

/// Where resolvers listen.
const DNS: u16 = 53;
/// Link-local addresses: the cloud's metadata services.
const METADATA: [(&str, &str); 2] = [("0.0.0.0/0", "169.254.0.0/16"), ("::/0", "fe80::/10")];

/// A place that sidecars connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Pods of a namespace.
    Namespace(String),
    /// One address.
    Address(IpAddr),
    /// Anywhere but link-local.
    World,
}

impl Place {
    /// The place of a name, or of an address as text. `<service>.<namespace>.svc` is in the cluster.
    fn of(host: &str, home: &str) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Self::Address(address);
        }
        let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        match labels.as_slice() {
            [_] => Self::Namespace(home.to_owned()),
            [_, namespace, "svc", ..] => Self::Namespace((*namespace).to_owned()),
            _ => Self::World,
        }
    }

    fn peers(&self) -> Value {
        match self {
            Self::Namespace(name) => json!([
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
            ]),
            Self::Address(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                json!([{"ipBlock": {"cidr": format!("{address}/{bits}")}}])
            }
            Self::World => METADATA
                .iter()
                .map(|(all, except)| json!({"ipBlock": {"cidr": all, "except": [except]}}))
                .collect(),
        }
    }
}

/// Where things are that no catalog names.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Namespace of the pods.
    pub home: &'a str,
    /// Namespace of the cluster's resolvers.
    pub dns: &'a str,
    /// The relay, `host:port`.
    pub relay: Option<&'a str>,
    /// Where sidecars send traces.
    pub collector: Option<&'a Url>,
}

/// What the pods of a policy may reach: resolvers, the relay, the collector of traces, the chain's
/// endpoints, the catalog's destinations. A name of one label is a Service of the pods' own namespace; a name of two
/// (`service.namespace`) is taken for one outside, so that no Service is meant by accident.
#[must_use]
pub fn spec(
    policy: &AgentPolicySpec,
    chain: &ChainSpec,
    catalog: Option<&Catalog>,
    places: Places<'_>,
) -> Option<NetworkPolicySpec> {
    let Places {
        home,
        dns,
        relay,
        collector,
    } = places;
    // What is only observed is not stopped here either. The object stays, so that enforcing needs
    // no new one.
    if policy.mode == Mode::Observe {
        let open = json!({
            "podSelector": policy.selector,
            "policyTypes": ["Egress"],
            "egress": [{}],
        });
        return serde_json::from_value(open).ok();
    }
    let mut wanted: BTreeSet<(Place, u16)> = BTreeSet::new();
    let endpoints = chain.endpoints.iter();
    let endpoints = endpoints.filter_map(|endpoint| Url::parse(endpoint).ok());
    for url in endpoints.chain(collector.cloned()) {
        let place = match url.host() {
            Some(Host::Domain(name)) => Place::of(name, home),
            Some(Host::Ipv4(address)) => Place::Address(address.into()),
            Some(Host::Ipv6(address)) => Place::Address(address.into()),
            None => continue,
        };
        wanted.extend(url.port_or_known_default().map(|port| (place, port)));
    }
    for destination in catalog.iter().flat_map(|c| c.destinations()) {
        let port = destination.upstream.port;
        wanted.insert((Place::of(&destination.host, home), port));
    }
    let relay = relay.and_then(|at| at.rsplit_once(':'));
    if let Some((host, Ok(port))) = relay.map(|(host, port)| (host, port.parse())) {
        wanted.insert((Place::of(host, home), port));
    }
    let resolvers = Place::Namespace(dns.to_owned());
    let mut egress = vec![json!({
        "to": resolvers.peers(),
        "ports": [{"protocol": "UDP", "port": DNS}, {"protocol": "TCP", "port": DNS}],
    })];
    egress.extend(wanted.iter().map(
        |(place, port)| json!({"to": place.peers(), "ports": [{"protocol": "TCP", "port": port}]}),
    ));
    let spec = json!({
        "podSelector": policy.selector,
        "policyTypes": ["Egress"],
        "egress": egress,
    });
    serde_json::from_value(spec).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::want::tests::policy;

    fn chain(endpoints: Value) -> ChainSpec {
        serde_json::from_value(json!({"chainId": 84532, "endpoints": endpoints})).unwrap()
    }

    fn places(relay: Option<&str>) -> Places<'_> {
        Places {
            home: "shop",
            dns: "kube-system",
            relay,
            collector: None,
        }
    }

    fn egress(endpoints: Value, host: Option<&str>) -> Vec<Value> {
        let mut document = policy().spec.catalog.unwrap();
        if let Some(host) = host {
            document["destinations"][0]["host"] = json!(host);
        }
        let catalog = Catalog::from_json(document.to_string().as_bytes()).unwrap();
        let spec = spec(
            &policy().spec,
            &chain(endpoints),
            Some(&catalog),
            places(None),
        )
        .unwrap();
        serde_json::to_value(spec).unwrap()["egress"]
            .as_array()
            .unwrap()
            .clone()
    }

    #[test]
    fn pods_that_only_receive_reach_the_resolver_and_the_chain() {
        let spec = spec(
            &policy().spec,
            &chain(json!(["http://10.0.0.7:8545"])),
            None,
            places(None),
        )
        .unwrap();
        let value = serde_json::to_value(spec).unwrap();
        assert_eq!(value["policyTypes"], json!(["Egress"]));
        let egress = value["egress"].as_array().unwrap();
        assert_eq!(egress.len(), 2);
        assert_eq!(
            egress[0]["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            "kube-system"
        );
        assert_eq!(egress[1]["to"][0]["ipBlock"]["cidr"], "10.0.0.7/32");
        assert_eq!(
            egress[1]["ports"],
            json!([{"protocol": "TCP", "port": 8545}])
        );
    }

    #[test]
    fn the_relay_is_reached_at_its_port_too() {
        let spec = spec(
            &policy().spec,
            &chain(json!(["http://10.0.0.7:8545"])),
            None,
            places(Some("writ-relay.writ-system.svc:15900")),
        );
        let egress = serde_json::to_value(spec.unwrap()).unwrap()["egress"].clone();
        let to = |rule: &&Value| rule["ports"][0]["port"] == 15900;
        let rule = egress.as_array().unwrap().iter().find(to).unwrap().clone();
        assert_eq!(
            rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            "writ-system"
        );
    }

    #[test]
    fn the_collector_of_traces_is_reached_at_its_port_too() {
        let collector = Url::parse("http://collector.observability.svc:4317").unwrap();
        let places = Places {
            collector: Some(&collector),
            ..places(None)
        };
        let spec = spec(
            &policy().spec,
            &chain(json!(["http://10.0.0.7:8545"])),
            None,
            places,
        );
        let egress = serde_json::to_value(spec.unwrap()).unwrap()["egress"].clone();
        let to = |rule: &&Value| rule["ports"][0]["port"] == 4317;
        let rule = egress.as_array().unwrap().iter().find(to).unwrap();
        assert_eq!(
            rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            "observability"
        );
    }

    #[test]
    fn a_service_opens_its_namespace_at_the_port_that_the_sidecar_dials() {
        for (host, namespace) in [
            ("pay.bank.svc.cluster.local", "bank"),
            ("pay.bank.svc", "bank"),
            ("pay", "shop"),
        ] {
            let rules = egress(json!(["http://10.0.0.7:8545"]), Some(host));
            let rule = rules
                .iter()
                .find(|r| r["ports"][0]["port"] == 8443)
                .unwrap();
            let label =
                &rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
            assert_eq!(label, namespace, "{host}");
        }
    }

    #[test]
    fn a_name_outside_opens_its_port_but_never_the_metadata_services() {
        let rules = egress(json!(["https://rpc.example"]), Some("*.partner.example"));
        for port in [443, 8443] {
            let rule = rules
                .iter()
                .find(|r| r["ports"][0]["port"] == port)
                .unwrap();
            assert_eq!(
                rule["to"][0]["ipBlock"]["except"],
                json!(["169.254.0.0/16"])
            );
        }
    }

    #[test]
    fn what_is_only_observed_is_not_stopped_by_the_network_either() {
        let mut observed = policy().spec;
        observed.mode = Mode::Observe;
        let chain = chain(json!(["http://10.0.0.7:8545"]));
        let spec = spec(&observed, &chain, None, places(None)).unwrap();
        assert_eq!(serde_json::to_value(spec).unwrap()["egress"], json!([{}]));
    }

    #[test]
    fn no_rule_opens_every_port_or_every_destination() {
        for rule in egress(json!(["https://rpc.example"]), None) {
            assert!(!rule["ports"].as_array().unwrap().is_empty());
            assert!(!rule["to"].as_array().unwrap().is_empty());
        }
    }
}
