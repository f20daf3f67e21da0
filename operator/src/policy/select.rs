//! Which agents a policy is for, and which of two policies yields. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use writ_api::{AgentPolicy, INJECTED, POLICY, SIDECAR, namespace_and_account};

/// What counts of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// The service account that it runs as.
    pub account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The policy that it names, if it does.
    pub policy: Option<String>,
    /// Whether it has a sidecar.
    pub injected: bool,
}

impl PodSeen {
    /// A pod that runs, or is about to. `None`: it has ended.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone());
        Some(Self {
            name: pod.name_any(),
            account: account
                .filter(|a| !a.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            labels: pod.labels().clone(),
            policy: pod.annotations().get(POLICY).cloned(),
            injected: pod.annotations().contains_key(INJECTED) && has_sidecar(pod),
        })
    }
}

/// Whether the sidecar's container is there: the annotation alone may be anybody's, on a pod that is
/// older than its namespace's opting in.
fn has_sidecar(pod: &Pod) -> bool {
    let init = pod.spec.iter().flat_map(|spec| &spec.init_containers);
    init.flatten().any(|container| container.name == SIDECAR)
}

/// What a policy claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Service accounts whose agents it is for.
    pub accounts: BTreeSet<String>,
    /// How many pods with a sidecar each of them has.
    pub covered: BTreeMap<String, i64>,
    /// Selected pods without a sidecar.
    pub uncovered: Vec<String>,
}

/// What a policy claims, of the pods in its namespace: the accounts of selected pods with a sidecar,
/// and those that it names itself, in `serviceAccounts` or in a rule.
///
/// # Errors
/// The selector is not one.
pub fn claim(policy: &AgentPolicy, pods: &[PodSeen], trust_domain: &str) -> Result<Claim, String> {
    let selector: Selector = policy
        .spec
        .selector
        .clone()
        .try_into()
        .map_err(|error| format!("selector: {error}"))?;
    let name = policy.name_any();
    let mut claim = Claim {
        accounts: policy.spec.service_accounts.iter().cloned().collect(),
        ..Claim::default()
    };
    claim.accounts.extend(named_in_rules(policy, trust_domain));
    for pod in pods {
        let elsewhere = pod.policy.as_ref().is_some_and(|named| *named != name);
        if elsewhere || !selector.matches(&pod.labels) {
            continue;
        }
        if pod.injected {
            claim.accounts.insert(pod.account.clone());
            *claim.covered.entry(pod.account.clone()).or_insert(0) += 1;
        } else {
            claim.uncovered.push(pod.name.clone());
        }
    }
    claim.uncovered.sort_unstable();
    Ok(claim)
}

/// Service accounts of this namespace that the rules name.
fn named_in_rules(policy: &AgentPolicy, trust_domain: &str) -> BTreeSet<String> {
    let namespace = policy.namespace().unwrap_or_default();
    let rules = policy.spec.rules.as_ref().and_then(|r| r.get("rules"));
    let rules = rules.and_then(serde_json::Value::as_array);
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| namespace_and_account(trust_domain, rule.get("agent")?.as_str()?))
        .filter(|(of, _)| *of == namespace)
        .map(|(_, account)| account.to_owned())
        .collect()
}

/// A claim that an older policy has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The older policy.
    pub with: String,
    /// A service account that both claim.
    pub account: String,
}

/// The first conflict of a policy with older ones of its namespace. Policies that are going claim
/// nothing. Of two that were made in the same second the one whose name comes first is older.
#[must_use]
pub fn conflict(
    policy: &AgentPolicy,
    claim: &Claim,
    others: &[(&AgentPolicy, Claim)],
) -> Option<Conflict> {
    others
        .iter()
        .filter(|(other, _)| {
            other.metadata.deletion_timestamp.is_none()
                && other.name_any() != policy.name_any()
                && age(other) < age(policy)
        })
        .find_map(|(other, theirs)| {
            let account = claim.accounts.intersection(&theirs.accounts).next()?;
            Some(Conflict {
                with: other.name_any(),
                account: account.clone(),
            })
        })
}

fn age(policy: &AgentPolicy) -> (Option<k8s_openapi::jiff::Timestamp>, String) {
    let made = policy.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (made, policy.name_any())
}

/// Accounts that the policy was for before and that nobody else claims: their agents stay, though no
/// pod of theirs runs at the moment.
#[must_use]
pub fn kept(policy: &AgentPolicy, others: &[(&AgentPolicy, Claim)]) -> BTreeSet<String> {
    let agents = policy.status.iter().flat_map(|s| &s.agents);
    agents
        .map(|agent| agent.service_account.clone())
        .filter(|account| {
            !others
                .iter()
                .any(|(_, theirs)| theirs.accounts.contains(account))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use writ_api::AgentPolicyStatus;

    fn policy(name: &str, made: &str, spec: serde_json::Value) -> AgentPolicy {
        serde_json::from_value(json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": made},
            "spec": spec,
        }))
        .unwrap()
    }

    fn selecting(name: &str, made: &str, app: &str) -> AgentPolicy {
        policy(
            name,
            made,
            json!({"selector": {"matchLabels": {"app": app}}}),
        )
    }

    fn pod(name: &str, account: &str, app: &str) -> PodSeen {
        PodSeen {
            name: name.to_owned(),
            account: account.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            policy: None,
            injected: true,
        }
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    fn of(policy: &AgentPolicy, pods: &[PodSeen]) -> Claim {
        claim(policy, pods, "example.org").unwrap()
    }

    #[test]
    fn agents_are_the_accounts_of_selected_pods_with_a_sidecar() {
        let mut bare = pod("bare", "other", "buyer");
        bare.injected = false;
        let pods = [
            pod("a", "buyer", "buyer"),
            pod("b", "buyer", "buyer"),
            pod("c", "seller", "seller"),
            bare,
        ];
        let claim = of(&selecting("p", EARLY, "buyer"), &pods);
        assert_eq!(claim.accounts, BTreeSet::from(["buyer".to_owned()]));
        assert_eq!(claim.covered, BTreeMap::from([("buyer".to_owned(), 2)]));
        assert_eq!(claim.uncovered, ["bare"]);
    }

    #[test]
    fn an_empty_selector_takes_every_pod() {
        let claim = of(
            &policy("p", EARLY, json!({})),
            &[pod("a", "x", "1"), pod("b", "y", "2")],
        );
        assert_eq!(claim.accounts.len(), 2);
    }

    #[test]
    fn a_pod_that_names_a_policy_is_of_that_one_only() {
        let mut named = pod("a", "buyer", "buyer");
        named.policy = Some("second".to_owned());
        let pods = [named];
        assert!(
            of(&selecting("first", EARLY, "buyer"), &pods)
                .accounts
                .is_empty()
        );
        assert_eq!(
            of(&selecting("second", EARLY, "buyer"), &pods)
                .accounts
                .len(),
            1
        );
        assert!(
            of(&selecting("second", EARLY, "seller"), &pods)
                .accounts
                .is_empty(),
            "not selected"
        );
    }

    #[test]
    fn accounts_named_by_the_policy_itself_need_no_pod() {
        let named = policy(
            "p",
            EARLY,
            json!({
                "serviceAccounts": ["one"],
                "selector": {"matchLabels": {"app": "nothing"}},
                "rules": {"version": 1, "rules": [
                    {"name": "a", "agent": "spiffe://example.org/ns/shop/sa/two"},
                    {"name": "b", "agent": "spiffe://example.org/ns/elsewhere/sa/three"},
                    {"name": "c", "agent": "any"},
                ]},
            }),
        );
        let accounts = of(&named, &[]).accounts;
        assert_eq!(
            accounts,
            BTreeSet::from(["one".to_owned(), "two".to_owned()])
        );
    }

    #[test]
    fn of_two_policies_for_one_agent_the_newer_yields() {
        let (old, new) = (
            selecting("z-old", EARLY, "buyer"),
            selecting("a-new", LATE, "buyer"),
        );
        let pods = [pod("a", "buyer", "buyer")];
        let both = [(&old, of(&old, &pods)), (&new, of(&new, &pods))];
        assert_eq!(conflict(&old, &both[0].1, &both), None);
        let found = conflict(&new, &both[1].1, &both).unwrap();
        assert_eq!(
            (found.with.as_str(), found.account.as_str()),
            ("z-old", "buyer")
        );
    }

    #[test]
    fn policies_of_the_same_second_are_ordered_by_name() {
        let (a, b) = (selecting("a", EARLY, "x"), selecting("b", EARLY, "x"));
        let pods = [pod("p", "x", "x")];
        let both = [(&a, of(&a, &pods)), (&b, of(&b, &pods))];
        assert!(conflict(&a, &both[0].1, &both).is_none());
        assert!(conflict(&b, &both[1].1, &both).is_some());
    }

    #[test]
    fn a_policy_that_is_going_is_in_nobodys_way() {
        let mut old = selecting("old", EARLY, "buyer");
        old.metadata.deletion_timestamp = old.metadata.creation_timestamp.clone();
        let new = selecting("new", LATE, "buyer");
        let pods = [pod("a", "buyer", "buyer")];
        let both = [(&old, of(&old, &pods)), (&new, of(&new, &pods))];
        assert_eq!(conflict(&new, &both[1].1, &both), None);
    }

    #[test]
    fn an_agent_whose_pods_ended_stays_unless_another_policy_claims_it() {
        let mut mine = selecting("mine", EARLY, "buyer");
        mine.status = Some(AgentPolicyStatus {
            agents: vec![writ_api::Agent {
                service_account: "job".to_owned(),
                ..writ_api::Agent::default()
            }],
            ..AgentPolicyStatus::default()
        });
        let other = selecting("other", LATE, "x");
        let idle = [(&other, of(&other, &[]))];
        assert_eq!(kept(&mine, &idle), BTreeSet::from(["job".to_owned()]));
        let claiming = [(&other, of(&other, &[pod("p", "job", "x")]))];
        assert!(kept(&mine, &claiming).is_empty());
    }

    #[test]
    fn a_pod_that_ended_is_not_counted() {
        let ended: Pod = serde_json::from_value(
            json!({"metadata": {"name": "a"}, "status": {"phase": "Succeeded"}}),
        )
        .unwrap();
        assert_eq!(PodSeen::of(&ended), None);
        let starts: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": []}}))
                .unwrap();
        assert_eq!(PodSeen::of(&starts).unwrap().account, "default");
    }
}
