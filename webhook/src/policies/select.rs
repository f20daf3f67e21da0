//! The policy of one pod, among those of its namespace. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use writ_api::conditions::{ACCEPTED, Truth};
use writ_api::{AgentPolicy, config_map_name};

use crate::choice::Chosen;
use crate::names;
use crate::overrides::Overrides;
use crate::refusal::{Code, Refusals};
use crate::settings::Trust;

/// The policy for `pod` among those of its namespace: the one that it names, else the oldest of
/// those that select it, as the operator has it.
///
/// # Errors
/// Refusals, when none selects it, or not the one that it names, or when an older policy claims the
/// agents of the one that does.
pub fn select<'a>(
    policies: impl Iterator<Item = &'a AgentPolicy>,
    pod: &Pod,
) -> Result<Chosen, Refusals> {
    let empty = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let mut selecting = policies.filter(|policy| selects(policy, labels));
    let (overrides, _) = Overrides::read(pod);
    let policy = match &overrides.policy {
        None => selecting.min_by_key(|policy| age(policy)).ok_or_else(|| {
            Refusals::one(
                Code::NoPolicy,
                "metadata.labels",
                "no AgentPolicy of the namespace selects the pod",
            )
        }),
        Some(named) => selecting
            .find(|policy| policy.name_any() == *named)
            .ok_or_else(|| refused(format!("no AgentPolicy {named:?} selects the pod"))),
    }?;
    if let Some(why) = conflict(policy) {
        let name = policy.name_any();
        return Err(refused(format!(
            "AgentPolicy {name:?} is not applied: {why}"
        )));
    }
    let account = pod.spec.as_ref().and_then(|spec| {
        let account = spec.service_account_name.as_deref();
        account.filter(|account| !account.is_empty())
    });
    Ok(Chosen {
        config: config_map_name(&policy.name_any(), account.unwrap_or("default")),
        local_ports: policy.spec.pod_local_ports.clone(),
        trust: match policy.spec.tls.intercept {
            true => Trust::Bundle,
            false => Trust::Image,
        },
    })
}

fn refused(reason: String) -> Refusals {
    let field = format!("metadata.annotations[{}]", names::POLICY);
    Refusals::one(Code::PolicyChoice, field, reason)
}

fn selects(policy: &AgentPolicy, labels: &BTreeMap<String, String>) -> bool {
    // A selector that is none selects nothing; the operator says so in the policy's status.
    policy.metadata.deletion_timestamp.is_none()
        && Selector::try_from(policy.spec.selector.clone())
            .is_ok_and(|selector| selector.matches(labels))
}

fn age(policy: &AgentPolicy) -> (Option<k8s_openapi::jiff::Timestamp>, String) {
    let made = policy.metadata.creation_timestamp.as_ref();
    (made.map(|made| made.0), policy.name_any())
}

/// Why the operator does not apply the policy, when an older one claims its agents. Nobody writes
/// its ConfigMaps then, or keeps up those that there are.
fn conflict(policy: &AgentPolicy) -> Option<&str> {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.into_iter().find(|condition| {
        condition.type_ == ACCEPTED
            && condition.status == Truth::False.as_str()
            && condition.reason == "Conflicted"
    });
    found.map(|condition| condition.message.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-02-02T00:00:00Z";

    fn policy(name: &str, made: &str, spec: Value) -> AgentPolicy {
        serde_json::from_value(json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": made},
            "spec": spec,
        }))
        .unwrap()
    }

    fn of_buyers(name: &str, made: &str) -> AgentPolicy {
        let spec = json!({"selector": {"matchLabels": {"app": "buyer"}}, "podLocalPorts": [6379]});
        policy(name, made, spec)
    }

    fn conflicted(mut policy: AgentPolicy) -> AgentPolicy {
        let condition = json!({"type": "Accepted", "status": "False", "reason": "Conflicted",
            "message": "the older AgentPolicy \"a\" claims them", "lastTransitionTime": LATE});
        policy.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
        policy
    }

    fn pod(app: &str, account: &str, named: Option<&str>) -> Pod {
        let annotations = named.map(|name| json!({"writ.dev/policy": name}));
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": app}, "annotations": annotations},
            "spec": {"containers": [], "serviceAccountName": account},
        }))
        .unwrap()
    }

    fn config(policies: &[AgentPolicy], pod: &Pod) -> Result<String, Code> {
        match select(policies.iter(), pod) {
            Ok(chosen) => Ok(chosen.config),
            Err(refusals) => Err(refusals.iter().next().unwrap().code),
        }
    }

    #[test]
    fn the_policy_that_selects_the_pod_and_its_account_name_the_configuration() {
        let policies = [of_buyers("buyers", EARLY)];
        let chosen = select(policies.iter(), &pod("buyer", "agent", None)).unwrap();
        assert_eq!(chosen.config, "writ-buyers-agent");
        assert_eq!(chosen.local_ports, [6379]);
        assert_eq!(chosen.trust, Trust::Image);
        let nameless = config(&policies, &pod("buyer", "", None));
        assert_eq!(nameless, Ok("writ-buyers-default".to_owned()));
    }

    #[test]
    fn a_policy_that_intercepts_has_its_agents_trust_the_bundle() {
        let all = [policy("all", EARLY, json!({"tls": {"intercept": true}}))];
        let chosen = select(all.iter(), &pod("any", "agent", None)).unwrap();
        assert_eq!(chosen.trust, Trust::Bundle);
    }

    #[test]
    fn of_two_policies_that_select_a_pod_the_older_counts_in_whatever_order_they_come() {
        let (old, new) = (of_buyers("z", EARLY), of_buyers("a", LATE));
        let buyer = pod("buyer", "agent", None);
        for both in [[old.clone(), new.clone()], [new, old]] {
            assert_eq!(config(&both, &buyer), Ok("writ-z-agent".to_owned()));
        }
        let twins = [of_buyers("b", EARLY), of_buyers("a", EARLY)];
        assert_eq!(config(&twins, &buyer), Ok("writ-a-agent".to_owned()));
    }

    #[test]
    fn a_pod_may_name_one_of_those_that_select_it() {
        let odd = json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Odd"}]}});
        let policies = [
            of_buyers("old", EARLY),
            of_buyers("new", LATE),
            policy("odd", EARLY, odd),
            policy(
                "sellers",
                EARLY,
                json!({"selector": {"matchLabels": {"app": "seller"}}}),
            ),
        ];
        let named = |name| config(&policies, &pod("buyer", "agent", Some(name)));
        assert_eq!(named("new"), Ok("writ-new-agent".to_owned()));
        for name in ["odd", "sellers", "nobodys"] {
            assert_eq!(named(name), Err(Code::PolicyChoice), "{name}");
        }
    }

    #[test]
    fn a_pod_that_no_policy_selects_is_refused() {
        let policies = [of_buyers("buyers", EARLY)];
        assert_eq!(
            config(&policies, &pod("seller", "agent", None)),
            Err(Code::NoPolicy)
        );
        assert_eq!(
            config(&[], &pod("buyer", "agent", None)),
            Err(Code::NoPolicy)
        );
    }

    #[test]
    fn a_policy_that_is_being_deleted_selects_nothing() {
        let mut going = of_buyers("going", EARLY);
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let buyer = pod("buyer", "agent", None);
        assert_eq!(
            config(std::slice::from_ref(&going), &buyer),
            Err(Code::NoPolicy)
        );
        let named = pod("buyer", "agent", Some("going"));
        assert_eq!(
            config(std::slice::from_ref(&going), &named),
            Err(Code::PolicyChoice)
        );
        let both = [going, of_buyers("next", LATE)];
        assert_eq!(config(&both, &buyer), Ok("writ-next-agent".to_owned()));
    }

    #[test]
    fn a_policy_that_yields_to_an_older_one_is_refused_with_what_its_status_says() {
        let yields = conflicted(of_buyers("yields", EARLY));
        for named in [None, Some("yields")] {
            let refused = select([&yields].into_iter(), &pod("buyer", "agent", named));
            let refused = refused.unwrap_err();
            assert_eq!(refused.iter().next().unwrap().code, Code::PolicyChoice);
            assert!(refused.to_string().contains("claims them"), "{refused}");
        }
        // The next in age would get into the conflict by this very pod, unless the pod names it.
        let both = [yields, of_buyers("new", LATE)];
        assert_eq!(
            config(&both, &pod("buyer", "agent", None)),
            Err(Code::PolicyChoice)
        );
        let named = config(&both, &pod("buyer", "agent", Some("new")));
        assert_eq!(named, Ok("writ-new-agent".to_owned()));
    }

    #[test]
    fn a_policy_refused_for_what_it_says_goes_on_with_what_was_in_force() {
        let mut invalid = conflicted(of_buyers("invalid", EARLY));
        let condition = &mut invalid.status.as_mut().unwrap().conditions[0];
        condition.reason = "InvalidSelector".to_owned();
        let config = config(&[invalid], &pod("buyer", "agent", None));
        assert_eq!(config, Ok("writ-invalid-agent".to_owned()));
    }
}
