//! Chains, AgentPolicies, what their sidecars are told, and pods without one. No I/O.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use writ_api::conditions::{DEVELOPMENT, ENFORCED, holds};
use writ_api::{AgentPolicy, Chain, Condition, Mode};
use writ_catalog::Catalog;

use super::finding::{Area, Finding};
use super::gather::{Facts, Looked};
use super::pod::ready_since;
use crate::output::one_line;
use crate::status::{Facts as Inventory, survey};

pub fn check(facts: &Facts, into: &mut Vec<Finding>) {
    let mut area = Area {
        name: "chain",
        into,
    };
    if let Some(chains) = area.seen(&facts.chains) {
        if chains.is_empty() {
            area.fail(
                "there is no Chain, so no policy can be in force",
                "make one (chart: chain or devChain.enabled; see docs/agent-policy.md)",
            );
        }
        for chain in chains {
            one(chain, &mut area);
        }
        relayed(chains, facts, &mut area);
    }
    let mut area = Area {
        name: "policy",
        into: area.into,
    };
    if let Some(policies) = area.seen(&facts.policies) {
        if policies.is_empty() {
            area.warn(
                "there is no AgentPolicy: opted-in pods are refused, or run under a static configuration",
                "write one: docs/agent-policy.md, or `writ init NAMESPACE`",
            );
        }
        for policy in policies {
            policy_of(policy, facts, &mut area);
        }
        bare(facts, policies, &mut area);
    }
}

fn failing(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    conditions
        .iter()
        .filter(|c| c.status != "True" && ![DEVELOPMENT, ENFORCED].contains(&c.type_.as_str()))
}

fn one(chain: &Chain, area: &mut Area<'_>) {
    let name = chain.name_any();
    let Some(status) = &chain.status else {
        area.fail(
            format!("Chain {name}: the operator has not looked at it"),
            "see whether an operator leads, above",
        );
        return;
    };
    let before = area.into.len();
    for condition in failing(&status.conditions) {
        area.fail(
            format!("Chain {name}: {}: {}", condition.reason, condition.message),
            format!("kubectl describe chain {name}"),
        );
    }
    let newest = status.endpoints.iter().filter_map(|e| e.block).max();
    for endpoint in &status.endpoints {
        let behind = newest
            .zip(endpoint.block)
            .map_or(0, |(newest, block)| newest.saturating_sub(block));
        match &endpoint.problem {
            Some(problem) => area.warn(
                format!("Chain {name}: {}: {problem}", endpoint.host),
                "see the endpoint's own status, or name another in spec.endpoints",
            ),
            None if behind > 5 => area.warn(
                format!("Chain {name}: {} is {behind} blocks behind", endpoint.host),
                "see the endpoint's own status, or name another in spec.endpoints",
            ),
            None => {}
        }
    }
    if holds(&status.conditions, DEVELOPMENT) {
        area.warn(
            format!(
                "Chain {name} is for DEVELOPMENT: one owner, no delay, keys that everybody knows"
            ),
            "name a real chain before anything depends on it",
        );
    }
    if area
        .into
        .iter()
        .skip(before)
        .all(|f| f.level != super::Level::Fail)
    {
        let block = status
            .block
            .map_or_else(String::new, |b| format!(", block {b}"));
        let healthy = status.endpoints.iter().filter(|e| e.healthy).count();
        area.ok(format!(
            "Chain {name} is ready: {healthy} endpoints answer{block}"
        ));
    }
}

/// Whether relays serve the sidecars of chains that name witnesses. Without them sidecars read the
/// endpoints themselves.
fn relayed(chains: &[Chain], facts: &Facts, area: &mut Area<'_>) {
    let (Looked::Seen(pods), None) = (&facts.pods, &facts.only) else {
        return;
    };
    let needed = chains
        .iter()
        .filter_map(|c| Some(c.spec.witnesses.as_ref()?.needed));
    let Some(needed) = needed.max() else { return };
    let count = |component: &str| {
        let ours = pods.iter().filter(|pod| {
            let is = |label: &str, value: &str| pod.labels().get(label).is_some_and(|v| v == value);
            is("app.kubernetes.io/part-of", "writ") && is("app.kubernetes.io/component", component)
        });
        let (ready, all): (Vec<_>, Vec<_>) = ours.partition(|pod| ready_since(pod).is_some());
        (ready.len(), ready.len() + all.len())
    };
    let alone = "sidecars read the chain's endpoints themselves";
    let blind = format!("{alone}, and learn of revocations from the chain alone");
    for (component, needed, otherwise) in [("relay", 1, blind.as_str()), ("witness", needed, alone)]
    {
        let (ready, all) = count(component);
        let says = format!("{ready} of {all} {component} pods are ready, {needed} needed");
        if ready >= usize::try_from(needed).unwrap_or(usize::MAX) {
            area.ok(says);
        } else {
            area.warn(
                format!("{says}: {otherwise}"),
                format!("kubectl get pods -A -l app.kubernetes.io/part-of=writ,app.kubernetes.io/component={component}"),
            );
        }
    }
}

fn policy_of(policy: &AgentPolicy, facts: &Facts, area: &mut Area<'_>) {
    let namespace = policy.namespace().unwrap_or_default();
    let place = format!("AgentPolicy {namespace}/{}", policy.name_any());
    let describe = format!(
        "kubectl describe agentpolicy {} -n {namespace}",
        policy.name_any()
    );
    let Some(status) = &policy.status else {
        area.fail(
            format!("{place}: the operator has not looked at it"),
            "see whether an operator leads, above",
        );
        return;
    };
    let before = area.into.len();
    if status.observed_generation != policy.metadata.generation {
        area.warn(
            format!("{place}: the operator has not seen the newest edit"),
            "wait, or see the operator's log",
        );
    }
    for condition in failing(&status.conditions) {
        let says = format!("{place}: {}: {}", condition.reason, condition.message);
        let already = area
            .into
            .iter()
            .skip(before)
            .any(|f| f.says == one_line(&says));
        if already {
            continue;
        }
        match condition.reason.as_str() {
            // These pass by themselves, or when owners act.
            "Queued" | "AgentsQueued" | "AwaitingOwners" | "NotPublished"
                if status.in_force.is_some() =>
            {
                area.warn(says, &describe);
            }
            _ => area.fail(says, &describe),
        }
    }
    if policy.spec.mode == Mode::Observe {
        area.warn(
            format!(
                "{place} is in mode OBSERVE: what it denies happens all the same. NOT PROTECTED"
            ),
            format!(
                "writ policy suggest {} -n {namespace}, then mode: Enforce",
                policy.name_any()
            ),
        );
    }
    for agent in &status.agents {
        if agent.status == "revoked" {
            area.warn(
                format!("{place}: {} is revoked", agent.spiffe_id),
                "only the owners can reinstate it",
            );
        }
        let key = (namespace.clone(), agent.config_map.clone());
        let Some(map) = facts.configs.get(&key).and_then(|looked| area.seen(looked)) else {
            continue;
        };
        match map {
            None => area.fail(
                format!(
                    "{place}: ConfigMap {} of its sidecars is missing, so pods of {} wait",
                    agent.config_map, agent.service_account
                ),
                "the operator writes it: see its log, and the conditions above",
            ),
            Some(map) => config(map, policy, &place, area),
        }
    }
    let fine = area
        .into
        .iter()
        .skip(before)
        .all(|f| f.level == super::Level::Ok);
    if fine {
        let version = status.in_force.as_ref().map_or_else(
            || "its pods only receive".to_owned(),
            |f| format!("version {} is in force", f.version),
        );
        area.ok(format!("{place}: {version}, {} pods", status.pods.covered));
    }
}

/// Whether a ConfigMap fits what is in force.
fn config(map: &ConfigMap, policy: &AgentPolicy, place: &str, area: &mut Area<'_>) {
    let name = map.name_any();
    let file = |file: &str| map.data.as_ref().and_then(|data| data.get(file));
    if file("sidecar.yaml").is_none() {
        area.fail(
            format!("{place}: ConfigMap {name} has no sidecar.yaml"),
            "the operator writes it: see its log",
        );
    }
    let force = policy.status.as_ref().and_then(|s| s.in_force.as_ref());
    let (Some(force), Some(catalog)) = (force, file("catalog.yaml")) else {
        return;
    };
    let fix = "the operator undoes changes: see its log, and who edits the ConfigMap";
    match Catalog::from_yaml(catalog) {
        Err(error) => area.fail(
            format!("{place}: the catalog in ConfigMap {name} does not load: {error}"),
            fix,
        ),
        Ok(catalog) => {
            let hash = alloy_primitives::B256::from(catalog.hash());
            if force.catalog_hash.parse() != Ok(hash) {
                area.fail(
                    format!(
                        "{place}: the catalog in ConfigMap {name} ({hash}) is not the one that the chain pins ({}), so \
                         sidecars refuse it",
                        force.catalog_hash
                    ),
                    fix,
                );
            }
        }
    }
}

fn bare(facts: &Facts, policies: &[AgentPolicy], area: &mut Area<'_>) {
    let (Looked::Seen(namespaces), Looked::Seen(pods)) = (&facts.namespaces, &facts.pods) else {
        area.seen(&facts.namespaces);
        area.seen(&facts.pods);
        return;
    };
    let inventory = Inventory {
        namespaces: namespaces.clone(),
        pods: pods.clone(),
        policies: policies.to_vec(),
        revocations: Vec::new(),
    };
    let survey = survey(&inventory);
    for pod in &survey.unprotected {
        area.fail(
            format!(
                "{}/{} has no sidecar, and {}. NOT PROTECTED",
                pod.namespace, pod.pod, pod.because
            ),
            format!(
                "make it anew; where a controller does so: kubectl delete pod {} -n {}",
                pod.pod, pod.namespace
            ),
        );
    }
    if survey.unprotected.is_empty() {
        area.ok(format!(
            "{} pods have a sidecar, and none lacks one",
            survey.agents.len()
        ));
    }
}
