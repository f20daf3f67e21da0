//! Who may call a policy's pods: other policies' agents, with their keys and catalogs.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use writ_api::{AgentPolicy, namespace_and_account};
use writ_catalog::Catalog;

/// Who is admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// SPIFFE IDs. Empty, with `restricted` false: whoever the registry knows as active.
    pub ids: BTreeSet<String>,
    /// Agent keys, hex, whose registry entries are kept warm.
    pub keys: BTreeSet<String>,
    /// Catalogs by their SHA-256, hex.
    pub catalogs: BTreeMap<String, String>,
    /// Whether the policy names anybody: then nobody else is admitted, even while those named are not there yet.
    pub restricted: bool,
    /// Policies that are named and cannot be used, with why.
    pub missing: Vec<String>,
}

/// Who may call the pods of `policy`, out of all policies. A policy of another namespace must name
/// this one in `discloseTo`: its catalog is that namespace's own matter.
#[must_use]
pub fn admitted<'a>(
    policy: &AgentPolicy,
    trust_domain: &str,
    find: impl Fn(&str, &str) -> Option<&'a AgentPolicy>,
) -> Admitted {
    let callers = &policy.spec.callers;
    let home = policy.namespace().unwrap_or_default();
    let mut admitted = Admitted {
        ids: callers.spiffe_ids.iter().cloned().collect(),
        restricted: !callers.policies.is_empty() || !callers.spiffe_ids.is_empty(),
        ..Admitted::default()
    };
    for caller in &callers.policies {
        let namespace = caller.namespace.as_deref().unwrap_or(&home);
        let disclosed = |p: &&AgentPolicy| namespace == home || p.spec.disclose_to.contains(&home);
        // Whether it is missing or not disclosed is not told apart: that too is its namespace's matter.
        let Some(there) = find(namespace, &caller.name).filter(disclosed) else {
            admitted.missing.push(format!(
                "{namespace}/{}: not there, or its discloseTo lacks {home}",
                caller.name
            ));
            continue;
        };
        for agent in there.status.iter().flat_map(|s| &s.agents) {
            // A status is no authority over other namespaces' agents.
            let of = namespace_and_account(trust_domain, &agent.spiffe_id);
            if of.is_none_or(|(of, _)| of != namespace) {
                continue;
            }
            admitted.ids.insert(agent.spiffe_id.clone());
            admitted
                .keys
                .insert(agent.key.trim_start_matches("0x").to_owned());
        }
        let text = there
            .spec
            .catalog
            .as_ref()
            .and_then(|c| serde_json::to_string_pretty(c).ok());
        let Some(text) = text else { continue };
        match Catalog::from_json(text.as_bytes()) {
            Ok(catalog) => drop(admitted.catalogs.insert(hex::encode(catalog.hash()), text)),
            Err(_) => admitted.missing.push(format!(
                "{namespace}/{}: its catalog is not valid",
                caller.name
            )),
        }
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::want::tests::policy as caller;
    use serde_json::json;

    fn tool(namespace: &str) -> AgentPolicy {
        serde_json::from_value(json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
            "metadata": {"name": "tool", "namespace": namespace},
            "spec": {
                "inbound": [{"port": 8443, "appPort": 8080, "authorities": ["search.shop:80"]}],
                "callers": {"policies": [{"namespace": "shop", "name": "buyers"}]},
            },
        }))
        .unwrap()
    }

    fn known(disclose_to: &[&str]) -> AgentPolicy {
        let mut caller = caller();
        caller.spec.disclose_to = disclose_to.iter().map(|n| (*n).to_owned()).collect();
        caller.status = Some(writ_api::AgentPolicyStatus {
            agents: vec![writ_api::Agent {
                spiffe_id: "spiffe://example.org/ns/shop/sa/buyer".to_owned(),
                key: format!("0x{}", "ab".repeat(32)),
                ..writ_api::Agent::default()
            }],
            ..writ_api::AgentPolicyStatus::default()
        });
        caller
    }

    #[test]
    fn a_named_policys_agents_keys_and_catalog_follow() {
        let caller = known(&[]);
        let admitted = admitted(&tool("shop"), "example.org", |_, _| Some(&caller));
        assert_eq!(admitted.ids.len(), 1);
        assert_eq!(admitted.keys.first().unwrap(), &"ab".repeat(32));
        assert_eq!(admitted.catalogs.len(), 1);
        assert!(admitted.missing.is_empty());
    }

    #[test]
    fn a_status_that_names_another_namespaces_agent_admits_nobody() {
        let mut caller = known(&[]);
        let agents = &mut caller.status.as_mut().unwrap().agents;
        agents[0].spiffe_id = "spiffe://example.org/ns/bank/sa/teller".to_owned();
        let admitted = admitted(&tool("shop"), "example.org", |_, _| Some(&caller));
        assert!(admitted.ids.is_empty() && admitted.keys.is_empty());
    }

    #[test]
    fn another_namespaces_catalog_is_not_handed_out_unless_it_says_so() {
        let (closed, open) = (known(&["elsewhere"]), known(&["tools"]));
        let refused = admitted(&tool("tools"), "example.org", |_, _| Some(&closed));
        assert!(refused.catalogs.is_empty() && refused.ids.is_empty());
        assert_eq!(refused.missing.len(), 1);
        assert!(refused.restricted, "nobody else gets in instead");
        assert_eq!(
            admitted(&tool("tools"), "example.org", |_, _| Some(&open))
                .catalogs
                .len(),
            1
        );
    }
}
