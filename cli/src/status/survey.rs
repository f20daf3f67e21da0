//! From objects to what they mean. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use serde::Serialize;
use writ_api::conditions::{ENFORCED, IN_FORCE, REVOKED, holds};
use writ_api::{
    Agent, AgentPolicy, AgentRevocation, CONFIG_VOLUME, INJECT, INJECTED, Mode, OPT_OUT, POLICY,
    Phase, SIDECAR,
};

use crate::output::{one_line, table};

/// What is looked at.
#[derive(Debug, Default)]
pub struct Facts {
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    pub policies: Vec<AgentPolicy>,
    pub revocations: Vec<AgentRevocation>,
}

/// The agents of a cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Survey {
    /// Pods with a sidecar.
    pub agents: Vec<AgentRow>,
    /// Pods that should have one and have not.
    pub unprotected: Vec<Unprotected>,
    /// Every AgentPolicy.
    pub policies: Vec<PolicyRow>,
}

/// One pod with a sidecar.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRow {
    pub namespace: String,
    pub pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `active`, `paused`, `revoked` or `unknown`.
    pub status: String,
    /// `ready`, `not ready` or `starting`.
    pub sidecar: &'static str,
}

/// One pod without a sidecar that should have one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unprotected {
    pub namespace: String,
    pub pod: String,
    /// Why it should.
    pub because: String,
}

/// One AgentPolicy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub namespace: String,
    pub name: String,
    pub mode: Mode,
    /// Whether the chain decides as it says.
    pub in_force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    pub paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the condition that does not hold says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<String>,
    /// When the timelock lets it through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_until: Option<String>,
}

impl PolicyRow {
    fn of(policy: &AgentPolicy) -> Self {
        let status = policy.status.clone().unwrap_or_default();
        let current = status.observed_generation == policy.metadata.generation;
        // That nothing is enforced in mode Observe is said by the mode.
        let failing = status
            .conditions
            .iter()
            .find(|c| c.status != "True" && c.type_ != ENFORCED);
        let in_force = status.in_force.as_ref();
        Self {
            namespace: policy.namespace().unwrap_or_default(),
            name: policy.name_any(),
            mode: policy.spec.mode,
            in_force: current && holds(&status.conditions, IN_FORCE),
            version: in_force.map(|f| f.version),
            paused: in_force.is_some_and(|f| f.paused),
            reason: if current {
                status.reason.clone()
            } else {
                Some("NotSeenYet".to_owned())
            },
            message: failing.map(|c| c.message.clone()).filter(|_| current),
            queued: status.queued.as_ref().map(|q| q.change.clone()),
            queued_until: status.queued.as_ref().and_then(|q| q.ready_at.clone()),
        }
    }

    /// `version 4`, `nothing`, `PAUSED`.
    fn force(&self) -> String {
        match (self.version, self.paused) {
            (_, true) => "PAUSED".to_owned(),
            (Some(version), _) => format!("version {version}"),
            (None, _) if self.in_force => "receives only".to_owned(),
            (None, _) => "nothing".to_owned(),
        }
    }

    /// What comes next.
    fn next(&self) -> String {
        match (&self.queued, &self.queued_until, &self.reason) {
            (Some(_), Some(until), _) => format!("queued until {until}"),
            (Some(change), None, _) => format!("{change}: waits for owners"),
            (None, _, Some(reason)) if !self.in_force => reason.clone(),
            _ => "-".to_owned(),
        }
    }
}

/// How Mode is written so that nobody overlooks it.
pub fn loud(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Enforce",
        Mode::Observe => "OBSERVE",
    }
}

/// What the objects mean.
pub fn survey(facts: &Facts) -> Survey {
    let labels: BTreeMap<String, &BTreeMap<String, String>> = facts
        .namespaces
        .iter()
        .map(|n| (n.name_any(), n.labels()))
        .collect();
    let revoked: BTreeSet<&str> = facts
        .revocations
        .iter()
        .filter(|r| {
            let phase = r.status.as_ref().and_then(|s| s.phase);
            phase.is_some_and(|phase| phase >= Phase::Included)
                && r.status
                    .as_ref()
                    .is_some_and(|s| holds(&s.conditions, REVOKED))
        })
        .map(|r| r.spec.spiffe_id.as_str())
        .collect();
    let mut survey = Survey {
        agents: Vec::new(),
        unprotected: Vec::new(),
        policies: facts.policies.iter().map(PolicyRow::of).collect(),
    };
    for pod in facts.pods.iter().filter(|pod| !has_ended(pod)) {
        let namespace = pod.namespace().unwrap_or_default();
        let policies = facts
            .policies
            .iter()
            .filter(|p| p.namespace() == pod.namespace());
        if pod.annotations().contains_key(INJECTED) {
            survey
                .agents
                .push(agent(pod, namespace, policies, &revoked));
        } else if let Some(because) = should(pod, labels.get(&namespace).copied(), policies) {
            survey.unprotected.push(Unprotected {
                namespace,
                pod: pod.name_any(),
                because,
            });
        }
    }
    survey
        .agents
        .sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    survey
        .unprotected
        .sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    survey
        .policies
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    survey
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Service account of a pod.
pub fn account(pod: &Pod) -> String {
    pod.spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone())
        .filter(|a| !a.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

/// Name of the ConfigMap that a pod's sidecar reads.
pub fn config_map(pod: &Pod) -> Option<&str> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|v| v.name == CONFIG_VOLUME)?;
    Some(volume.config_map.as_ref()?.name.as_str())
}

/// The policy that a pod runs under, and its agent there: what its sidecar reads says it.
pub fn of_pod<'p>(
    pod: &Pod,
    policies: impl Iterator<Item = &'p AgentPolicy>,
) -> Option<(&'p AgentPolicy, Option<&'p Agent>)> {
    let map = config_map(pod)?;
    let account = account(pod);
    policies
        .filter(|policy| writ_api::config_map_name(&policy.name_any(), &account) == map)
        .map(|policy| {
            let agents = policy.status.iter().flat_map(|s| &s.agents);
            let agent = agents
                .into_iter()
                .find(|agent| agent.service_account == account);
            (policy, agent)
        })
        .next()
}

fn agent<'p>(
    pod: &Pod,
    namespace: String,
    policies: impl Iterator<Item = &'p AgentPolicy>,
    revoked: &BTreeSet<&str>,
) -> AgentRow {
    let found = of_pod(pod, policies);
    let known = found.and_then(|(_, agent)| agent);
    let spiffe_id = known.map(|agent| agent.spiffe_id.clone());
    let status = match (&spiffe_id, known) {
        (Some(id), _) if revoked.contains(id.as_str()) => "revoked",
        (_, Some(agent)) => &agent.status,
        (_, None) => "unknown",
    };
    AgentRow {
        namespace,
        pod: pod.name_any(),
        status: status.to_owned(),
        spiffe_id,
        policy: found.map(|(policy, _)| policy.name_any()),
        mode: found.map(|(policy, _)| policy.spec.mode),
        sidecar: sidecar(pod),
    }
}

fn sidecar(pod: &Pod) -> &'static str {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.init_container_statuses.as_ref());
    let status = statuses.and_then(|all| all.iter().find(|s| s.name == SIDECAR));
    match status {
        Some(status) if status.ready => "ready",
        Some(status) if status.started == Some(true) => "not ready",
        _ => "starting",
    }
}

/// Why a pod without a sidecar should have one.
fn should<'p>(
    pod: &Pod,
    namespace: Option<&BTreeMap<String, String>>,
    mut policies: impl Iterator<Item = &'p AgentPolicy>,
) -> Option<String> {
    let is = |labels: &BTreeMap<String, String>, key: &str, value: &str| {
        labels.get(key).is_some_and(|v| v == value)
    };
    let opted_in = namespace.is_some_and(|labels| is(labels, INJECT, "enabled"));
    let may_opt_out = !opted_in || namespace.is_some_and(|labels| is(labels, OPT_OUT, "allowed"));
    if may_opt_out && is(pod.labels(), INJECT, "false") {
        return None;
    }
    if opted_in {
        return Some(format!("its namespace is labelled {INJECT}=enabled"));
    }
    if pod.labels().contains_key(INJECT) {
        return Some(format!("it is labelled {INJECT}"));
    }
    let selected = policies.find(|policy| {
        let elsewhere = pod
            .annotations()
            .get(POLICY)
            .is_some_and(|named| *named != policy.name_any());
        let selector: Result<Selector, _> = policy.spec.selector.clone().try_into();
        !elsewhere && selector.is_ok_and(|s| s.matches(pod.labels()))
    });
    selected.map(|policy| format!("AgentPolicy {} selects it", policy.name_any()))
}

impl Survey {
    /// One table, and below it what needs somebody's attention.
    pub fn text(&self) -> String {
        let dash = || "-".to_owned();
        let policy = |namespace: &str, name: &Option<String>| {
            self.policies
                .iter()
                .find(|p| p.namespace == namespace && Some(&p.name) == name.as_ref())
        };
        let covered = self.agents.iter().map(|agent| {
            let policy = policy(&agent.namespace, &agent.policy);
            [
                agent.namespace.clone(),
                agent.pod.clone(),
                agent.spiffe_id.clone().unwrap_or_else(dash),
                agent.status.to_owned(),
                agent.policy.clone().unwrap_or_else(dash),
                agent.mode.map_or_else(dash, |mode| loud(mode).to_owned()),
                policy.map_or_else(dash, PolicyRow::force),
                policy.map_or_else(dash, PolicyRow::next),
                agent.sidecar.to_owned(),
            ]
        });
        let bare = self.unprotected.iter().map(|pod| {
            let mut row: [String; 9] = std::array::from_fn(|_| dash());
            let [namespace, name, .., sidecar] = &mut row;
            *namespace = pod.namespace.clone();
            *name = pod.pod.clone();
            *sidecar = "NONE".to_owned();
            row
        });
        let rows: Vec<[String; 9]> = covered.chain(bare).collect();
        let mut text = if rows.is_empty() {
            "no agents: no pod here has a sidecar, and none should have one\n".to_owned()
        } else {
            let header = [
                "NAMESPACE",
                "POD",
                "AGENT",
                "STATUS",
                "POLICY",
                "MODE",
                "IN FORCE",
                "NEXT",
                "SIDECAR",
            ];
            table(header, rows)
        };
        let notes = self.notes();
        if !notes.is_empty() {
            text.push('\n');
            text.push_str(&notes);
        }
        text
    }

    fn notes(&self) -> String {
        let mut notes = String::new();
        for pod in &self.unprotected {
            notes.push_str(&format!(
                "NOT PROTECTED: {}/{} has no sidecar, and {}. Make it anew; where a controller does so: kubectl delete pod {} -n {}\n",
                pod.namespace, pod.pod, pod.because, pod.pod, pod.namespace
            ));
        }
        for policy in &self.policies {
            let place = format!("{}/{}", policy.namespace, policy.name);
            if policy.mode == Mode::Observe {
                notes.push_str(&format!(
                    "OBSERVE: {place} lets through what it denies. Its agents are NOT PROTECTED until mode: Enforce\n"
                ));
            }
            if let (false, Some(message)) = (policy.in_force, &policy.message) {
                let reason = one_line(policy.reason.as_deref().unwrap_or("NotInForce"));
                notes.push_str(&format!("{reason}: {place}: {}\n", one_line(message)));
            }
        }
        notes
    }
}
