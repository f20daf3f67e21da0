//! One pod: redirect, sidecar, identity, policy. No I/O.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use writ_api::{
    AgentPolicy, CONFIG_VOLUME, INIT, INJECTED, INJECTED_VERSION, NODE_DRIVER, SIDECAR,
};

use super::cluster::clock;
use super::finding::{Area, Finding};
use super::gather::{Facts, Looked, PodFacts};
use crate::cluster::status_message;
use crate::status::{account, config_map, of_pod};

pub fn check(seen: &PodFacts, facts: &Facts, into: &mut Vec<Finding>) {
    let pod = &seen.pod;
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let mut area = Area {
        name: "redirect",
        into,
    };
    match pod.annotations().get(INJECTED).map(String::as_str) {
        None => {
            area.fail(
                format!("pod {name} has no sidecar"),
                format!(
                    "opt it in (kubectl label namespace {namespace} writ.dev/inject=enabled) and make it anew; pods that ran \
                     before stay as they are"
                ),
            );
            return;
        }
        Some(INJECTED_VERSION) => area.ok(format!("pod {name} has a sidecar")),
        Some(other) => area.warn(
            format!("pod {name} was injected by another release (form {other})"),
            "make it anew",
        ),
    }
    redirect(status(seen, INIT), &namespace, &name, &mut area);
    let mut area = Area {
        name: "identity",
        into: area.into,
    };
    sidecar(seen, &namespace, &name, &mut area);
    let mut area = Area {
        name: "policy",
        into: area.into,
    };
    policy(seen, facts, &mut area);
    events(&seen.events, ready_since(pod), &mut area);
    if let Looked::Seen(answer) = &seen.ready
        && status_message(&answer.text).is_none()
    {
        let mut area = Area {
            name: "clock",
            into: area.into,
        };
        clock(answer.ahead, "the sidecar's clock", &mut area);
    }
}

fn status<'p>(seen: &'p PodFacts, container: &str) -> Option<&'p ContainerStatus> {
    let status = seen.pod.status.as_ref()?;
    let all = status.init_container_statuses.as_ref()?;
    all.iter().find(|s| s.name == container)
}

/// The init container redirects, proves it with a random token, and ends.
fn redirect(status: Option<&ContainerStatus>, namespace: &str, name: &str, area: &mut Area<'_>) {
    let logs = format!("kubectl logs {name} -n {namespace} -c {INIT}");
    let state = status.and_then(|s| s.state.as_ref());
    let ended = state.and_then(|s| s.terminated.as_ref());
    let again = status
        .and_then(|s| s.last_state.as_ref())
        .and_then(|s| s.terminated.as_ref());
    match (ended, again) {
        (Some(ended), _) if ended.exit_code == 0 => {
            area.ok("the redirect is in place, and was proved before the pod started");
        }
        (Some(ended), _) | (None, Some(ended)) => area.fail(
            format!("{INIT} failed with exit code {}: the pod does not start", ended.exit_code),
            format!("{logs}; often the node lacks iptables' kernel modules, or the namespace forbids NET_ADMIN"),
        ),
        (None, None) => {
            let waiting = state.and_then(|s| s.waiting.as_ref());
            let reason = waiting.and_then(|w| w.reason.clone()).unwrap_or_else(|| "not started".to_owned());
            area.fail(
                format!("{INIT} has not run yet: {reason}"),
                format!("see the events below, and kubectl describe pod {name} -n {namespace}"),
            );
        }
    }
}

fn sidecar(seen: &PodFacts, namespace: &str, name: &str, area: &mut Area<'_>) {
    let logs = format!("kubectl logs {name} -n {namespace} -c {SIDECAR}");
    let status = status(seen, SIDECAR);
    let restarts = status.map_or(0, |s| s.restart_count);
    if restarts > 0 {
        area.warn(
            format!("the sidecar was restarted {restarts} times"),
            format!("{logs} --previous"),
        );
    }
    let running = status.is_some_and(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    if !running {
        let waiting = status
            .and_then(|s| s.state.as_ref())
            .and_then(|s| s.waiting.as_ref());
        let reason = waiting
            .and_then(|w| w.reason.clone())
            .unwrap_or_else(|| "not started".to_owned());
        area.fail(
            format!("the sidecar does not run: {reason}"),
            format!("{logs}; and see the events below"),
        );
        return;
    }
    match area.seen(&seen.ready) {
        Some(answer) if answer.status == 200 => {
            area.ok("the sidecar has its identity, its state and its policy, and decides");
        }
        Some(answer) if status_message(&answer.text).is_some() => area.warn(
            format!(
                "the API server cannot ask the sidecar: {}",
                status_message(&answer.text).unwrap_or_default()
            ),
            format!("{logs}; a NetworkPolicy may keep the API server from its port 15820"),
        ),
        Some(answer) if answer.status == 503 => {
            for line in answer.text.lines().filter(|l| !l.is_empty()).take(10) {
                area.fail(format!("the sidecar is not ready: {line}"), logs.clone());
            }
        }
        Some(answer) => area.warn(
            format!("the sidecar answers {} to the API server", answer.status),
            format!("{logs}; a NetworkPolicy may keep the API server from its port 15820"),
        ),
        None if status.is_some_and(|s| s.ready) => area.ok("the sidecar says that it is ready"),
        None => area.fail("the sidecar says that it is not ready", logs),
    }
}

fn policy(seen: &PodFacts, facts: &Facts, area: &mut Area<'_>) {
    let pod = &seen.pod;
    let namespace = pod.namespace().unwrap_or_default();
    let Some(map) = config_map(pod) else {
        area.fail(
            "the pod mounts no configuration for its sidecar",
            "make it anew",
        );
        return;
    };
    let key = (namespace.clone(), map.to_owned());
    let present = facts.configs.get(&key).and_then(|looked| area.seen(looked));
    if let Some(None) = present {
        area.fail(
            format!("ConfigMap {map} is missing, so the pod waits"),
            "the operator writes it once the AgentPolicy is accepted: see above",
        );
    }
    let Some(policies) = area.seen(&facts.policies) else {
        return;
    };
    let here: Vec<&AgentPolicy> = policies
        .iter()
        .filter(|p| p.namespace().as_deref() == Some(namespace.as_str()))
        .collect();
    let Some((policy, agent)) = of_pod(pod, here.into_iter()) else {
        area.warn(
            format!("the pod runs under ConfigMap {map}, which no AgentPolicy is behind"),
            "with a static configuration that is as it should be; else make the pod anew",
        );
        return;
    };
    let account = account(pod);
    let policy = policy.name_any();
    match agent.map(|agent| (agent.status.as_str(), &agent.spiffe_id)) {
        Some(("active", id)) => area.ok(format!("the pod acts as {id} under AgentPolicy {policy}")),
        Some(("revoked", id)) => area.fail(
            format!("{id} is revoked: everything is refused"),
            "only the owners can reinstate it",
        ),
        Some((status, id)) => area.fail(
            format!("the registry says {status} of {id}: everything is refused"),
            format!("see AgentPolicy {policy} above: its registration may wait in the timelock"),
        ),
        None => area.fail(
            format!("AgentPolicy {policy} does not know service account {account} yet"),
            "see AgentPolicy above",
        ),
    }
}

/// Since when every container of a pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0)
}

/// What Kubernetes warned of, newest last. What was before the pod became ready is over.
fn events(events: &Looked<Vec<Event>>, ready: Option<Timestamp>, area: &mut Area<'_>) {
    let Some(events) = area.seen(events) else {
        return;
    };
    let at = |event: &Event| match (&event.last_timestamp, &event.event_time) {
        (Some(time), _) => Some(time.0),
        (None, time) => time.as_ref().map(|time| time.0),
    };
    let over =
        |event: &&Event| matches!((at(event), ready), (Some(at), Some(ready)) if at <= ready);
    let mut newest: Vec<&Event> = events.iter().filter(|event| !over(event)).collect();
    newest.sort_by_key(|event| at(event));
    for event in newest.iter().rev().take(5).rev() {
        let reason = event.reason.as_deref().unwrap_or("Warning");
        let message = event.message.as_deref().unwrap_or_default();
        let message = message.lines().next().unwrap_or_default();
        area.warn(format!("{reason}: {message}"), hint(reason, message));
    }
}

fn hint(reason: &str, message: &str) -> &'static str {
    match reason {
        "FailedMount" if message.contains(CONFIG_VOLUME) => {
            "the operator writes the ConfigMap once the AgentPolicy is accepted: see above"
        }
        "FailedMount" if message.contains("csi.spiffe.io") => {
            "install SPIFFE's CSI driver on this node, or use hostPath (chart: spire.socket.kind)"
        }
        "FailedMount" if message.contains(NODE_DRIVER) => {
            "the node agent brings it: kubectl get pods -n writ-node -o wide"
        }
        "FailedCreate" | "FailedAdmission" => "the message says what to change in the pod",
        _ => "see kubectl describe pod",
    }
}
