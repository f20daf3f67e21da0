//! Whom a catalog should expect at its in-cluster destinations: the identities of the pods behind their
//! Services. Proposed and shown, never applied: a catalog is pinned on chain as its author wrote it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use serde_json::Value;
use writ_api::{AgentPolicy, ProposedPeer, spiffe_id};

use crate::Context;

/// Most destinations that are looked up for one policy.
const MOST: usize = 32;

/// A Service that a destination names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// The Service of `host`, as seen from `home`: one label, or `<service>.<namespace>.svc` with or
    /// without the cluster's suffix. Anything else is outside.
    #[must_use]
    pub fn of(host: &str, home: &str) -> Option<Self> {
        let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        let (name, namespace) = match labels.as_slice() {
            [name] => (*name, home),
            [name, namespace, "svc", ..] => (*name, *namespace),
            _ => return None,
        };
        let plain = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        (plain(name) && plain(namespace)).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// A destination of a catalog as it is written, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its host.
    pub host: String,
    /// Its peer: a SPIFFE ID, `ca:<name>` or `unverified`; empty where none is written.
    pub peer: String,
    /// Its Service.
    pub place: Place,
}

/// The in-cluster destinations of a catalog.
#[must_use]
pub fn written(catalog: &Value, home: &str) -> Vec<Written> {
    let destinations = catalog["destinations"].as_array().into_iter().flatten();
    let read = |destination: &Value| {
        let host = destination["host"].as_str()?;
        let peer = match &destination["peer"] {
            Value::String(word) => word.clone(),
            Value::Object(one) => match (one.get("spiffe"), one.get("ca")) {
                (Some(Value::String(id)), _) => id.clone(),
                (_, Some(Value::String(name))) => format!("ca:{name}"),
                _ => String::new(),
            },
            _ => String::new(),
        };
        Some(Written {
            host: host.to_owned(),
            peer,
            place: Place::of(host, home)?,
        })
    };
    let mut seen = BTreeSet::new();
    destinations
        .filter_map(read)
        .filter(|written| seen.insert(written.host.clone()))
        .take(MOST)
        .collect()
}

/// What is proposed, from the selectors of Services and the pods that they select.
pub fn propose<'a>(
    written: &[Written],
    selectors: &BTreeMap<Place, BTreeMap<String, String>>,
    pods: impl IntoIterator<Item = &'a Pod> + Clone,
    trust_domain: &str,
) -> Vec<ProposedPeer> {
    let mut proposed = Vec::new();
    for destination in written {
        let Place { namespace, .. } = &destination.place;
        // A Service without a selector has endpoints of somebody's own making.
        let Some(selector) = selectors.get(&destination.place).filter(|s| !s.is_empty()) else {
            continue;
        };
        let behind = |pod: &&Pod| {
            pod.namespace().as_deref() == Some(namespace)
                && selector.iter().all(|(k, v)| pod.labels().get(k) == Some(v))
        };
        let identity = |pod: &Pod| {
            let account = pod.spec.as_ref()?.service_account_name.clone();
            let account = account.filter(|name| !name.is_empty());
            let account = account.unwrap_or_else(|| "default".to_owned());
            Some(spiffe_id(trust_domain, namespace, &account))
        };
        let all = pods.clone().into_iter().filter(behind);
        let identities: BTreeSet<String> = all.filter_map(identity).collect();
        if identities.is_empty() {
            continue;
        }
        proposed.push(ProposedPeer {
            destination: destination.host.clone(),
            agrees: identities.len() == 1 && identities.contains(&destination.peer),
            written: destination.peer.clone(),
            behind: identities.into_iter().take(5).collect(),
        });
    }
    proposed
}

/// What is proposed for a policy, of what is known of the cluster.
pub(super) fn proposed(policy: &AgentPolicy, home: &str, context: &Context) -> Vec<ProposedPeer> {
    let Some(catalog) = &policy.spec.catalog else {
        return Vec::new();
    };
    let written = written(catalog, home);
    let selector = |place: &Place| {
        let service = ObjectRef::<Service>::new(&place.name).within(&place.namespace);
        let service = context.stores.services.get(&service)?;
        service.spec.as_ref()?.selector.clone()
    };
    let places = written.iter().map(|written| &written.place);
    let selectors = places
        .filter_map(|place| Some((place.clone(), selector(place)?)))
        .collect();
    let pods = context.stores.pods.state();
    let pods = pods.iter().map(AsRef::as_ref);
    let domain = &context.settings.trust_domain;
    propose(&written, &selectors, pods, domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(namespace: &str, name: &str) -> Place {
        Place {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn pod(namespace: &str, app: &str, account: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": [], "serviceAccountName": account},
        }))
        .unwrap()
    }

    fn told(peer: Value, pods: &[Pod]) -> Vec<ProposedPeer> {
        let catalog =
            json!({"destinations": [{"host": "pay.bank.svc.cluster.local", "peer": peer}]});
        let selector = BTreeMap::from([("app".to_owned(), "pay".to_owned())]);
        let selectors = BTreeMap::from([(place("bank", "pay"), selector)]);
        propose(&written(&catalog, "shop"), &selectors, pods, "example.org")
    }

    #[test]
    fn names_of_services_are_told_from_others() {
        assert_eq!(Place::of("pay", "shop"), Some(place("shop", "pay")));
        assert_eq!(
            Place::of("pay.bank.svc", "shop"),
            Some(place("bank", "pay"))
        );
        let long = Place::of("pay.bank.svc.cluster.local.", "shop");
        assert_eq!(long, Some(place("bank", "pay")));
        for outside in [
            "pay.bank",
            "api.example.com",
            "10.0.0.7",
            "*.svc",
            "",
            "a/b",
            "pay.b/c.svc",
        ] {
            assert_eq!(Place::of(outside, "shop"), None, "{outside}");
        }
    }

    #[test]
    fn the_account_of_the_pods_behind_a_service_is_proposed() {
        let pods = [
            pod("bank", "pay", Some("api")),
            pod("bank", "other", Some("other")),
            pod("elsewhere", "pay", Some("thief")),
        ];
        let id = "spiffe://example.org/ns/bank/sa/api";
        let right = told(json!({"spiffe": id}), &pods);
        assert_eq!(right[0].behind, [id]);
        assert!(right[0].agrees);
        for wrong in [
            json!({"spiffe": "spiffe://example.org/ns/bank/sa/old"}),
            json!("unverified"),
            json!(null),
        ] {
            let told = told(wrong.clone(), &pods);
            assert!(!told[0].agrees, "{wrong}");
            assert_eq!(told[0].behind, [id]);
        }
    }

    #[test]
    fn pods_of_two_accounts_behind_one_service_agree_with_nobody() {
        let pods = [pod("bank", "pay", Some("api")), pod("bank", "pay", None)];
        let told = told(
            json!({"spiffe": "spiffe://example.org/ns/bank/sa/api"}),
            &pods,
        );
        assert!(!told[0].agrees);
        assert_eq!(told[0].behind.len(), 2);
        assert!(
            told[0]
                .behind
                .contains(&"spiffe://example.org/ns/bank/sa/default".to_owned())
        );
    }

    #[test]
    fn nothing_is_proposed_where_there_are_no_pods_or_nothing_in_the_cluster() {
        assert_eq!(told(json!("unverified"), &[]), []);
        let odd = json!({"destinations": [{"host": 7}, {}, {"host": "api.example.com"}, "x"]});
        assert_eq!(written(&odd, "shop"), []);
        assert_eq!(written(&json!("no catalog"), "shop"), []);
    }
}
