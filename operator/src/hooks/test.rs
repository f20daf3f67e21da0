//! `helm test`: the installation answers, and would put its sidecar into an opted-in pod, or refuses it
//! because there is no AgentPolicy for it yet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use writ_api::{INIT, INJECT, SIDECAR};

use super::{HookError, failed};

/// The webhook's code for a pod that no AgentPolicy selects.
const NO_POLICY: &str = "[no-policy]";

/// What is tried out.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Namespace of our own pods.
    pub namespace: String,
    /// Namespace in which a pod is tried.
    pub agents: String,
    /// Its labels, besides the opt-in.
    pub labels: Vec<(String, String)>,
    /// Its service account.
    pub account: String,
}

/// Tries the installation out; returns what was seen, a line each.
///
/// # Errors
/// [`HookError::NotWorking`] says what does not work, and where to look.
pub async fn try_out(client: &Client, probe: &Probe) -> Result<Vec<String>, HookError> {
    let mut seen = Vec::new();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &probe.namespace);
    for name in ["writ-webhook", "writ-operator"] {
        let deployment = deployments
            .get(name)
            .await
            .map_err(failed(format!("reading Deployment {name}")))?;
        let ready = deployment.status.and_then(|s| s.ready_replicas);
        match ready.unwrap_or(0) {
            0 => {
                return Err(HookError::NotWorking(format!(
                    "no pod of {name} is ready; see kubectl logs deployment/{name} -n {}",
                    probe.namespace
                )));
            }
            ready => seen.push(format!("{name}: {ready} ready")),
        }
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), &probe.namespace);
    let lease = leases
        .get("writ-operator")
        .await
        .map_err(failed("reading Lease writ-operator"))?;
    seen.push(format!("operator: led by {}", leader(&lease)?));
    seen.push(injected(client, probe).await?);
    Ok(seen)
}

fn leader(lease: &Lease) -> Result<String, HookError> {
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.filter(|name| !name.is_empty());
    let life = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let renewed = spec.renew_time.map(|time| time.0.as_second());
    let now = Timestamp::now().as_second();
    match (holder, renewed) {
        (Some(holder), Some(renewed)) if now - renewed <= life => Ok(holder),
        _ => Err(HookError::NotWorking(
            "no operator leads; see the log of deployment/writ-operator".to_owned(),
        )),
    }
}

/// Asks the API server, in a dry run, what would become of an opted-in pod.
async fn injected(client: &Client, probe: &Probe) -> Result<String, HookError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &probe.agents);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = pods.create(&dry, &candidate(probe)?).await;
    outcome(answer.map_err(|error| error.to_string()), &probe.agents)
}

/// What an answer of the API server says about the installation.
fn outcome(answer: Result<Pod, String>, agents: &str) -> Result<String, HookError> {
    let pod = match answer {
        Ok(pod) => pod,
        Err(refusal) if refusal.contains(NO_POLICY) => {
            return Ok(format!(
                "an opted-in pod is refused in {agents} until an AgentPolicy selects it"
            ));
        }
        Err(refusal) => {
            return Err(HookError::NotWorking(format!(
                "an opted-in pod is not admitted in {agents}: {refusal}"
            )));
        }
    };
    let spec = pod.spec.unwrap_or_default();
    let first: Vec<String> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| c.name.clone())
        .collect();
    if first != [INIT, SIDECAR] {
        return Err(HookError::NotWorking(format!(
            "an opted-in pod is admitted in {agents} without its sidecar (init containers: {first:?}); \
             see kubectl describe mutatingwebhookconfiguration writ"
        )));
    }
    Ok(format!("an opted-in pod gets its sidecar in {agents}"))
}

fn candidate(probe: &Probe) -> Result<Pod, HookError> {
    let mut labels: BTreeMap<&str, &str> = probe
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    labels.insert(INJECT, "true");
    serde_json::from_value(json!({
        "metadata": {"generateName": "writ-test-", "labels": labels},
        "spec": {
            "serviceAccountName": probe.account,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent", "image": "localhost/writ/none:none",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))
    .map_err(|error| HookError::NotWorking(format!("the test's own pod: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, age: i64) -> Lease {
        let renewed = Timestamp::from_second(Timestamp::now().as_second() - age).unwrap();
        serde_json::from_value(json!({"spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string(),
        }}))
        .unwrap()
    }

    #[test]
    fn an_operator_leads_while_its_lease_holds() {
        assert_eq!(
            leader(&lease("writ-operator-a", 3)).unwrap(),
            "writ-operator-a"
        );
        assert!(leader(&lease("writ-operator-a", 60)).is_err());
        assert!(leader(&lease("", 3)).is_err());
        assert!(leader(&Lease::default()).is_err());
    }

    fn probe() -> Probe {
        Probe {
            namespace: "writ-system".to_owned(),
            agents: "shop".to_owned(),
            labels: vec![("app".to_owned(), "buyer".to_owned())],
            account: "buyer".to_owned(),
        }
    }

    #[test]
    fn the_pod_that_is_tried_is_opted_in_and_has_the_labels_that_were_asked_for() {
        let labels = candidate(&probe()).unwrap().metadata.labels.unwrap();
        assert_eq!(
            (labels[INJECT].as_str(), labels["app"].as_str()),
            ("true", "buyer")
        );
    }

    #[test]
    fn only_a_sidecar_or_the_lack_of_a_policy_shows_that_the_webhook_answers() {
        let bare = candidate(&probe()).unwrap();
        let mut whole = bare.clone();
        let init = ["writ-init", "writ-sidecar"].map(|name| json!({"name": name}));
        whole.spec.as_mut().unwrap().init_containers = serde_json::from_value(json!(init)).unwrap();
        assert!(outcome(Ok(whole), "shop").is_ok());
        assert!(outcome(Ok(bare), "shop").is_err());
        let no_policy = "admission webhook denied the request: [no-policy] metadata: none";
        assert!(outcome(Err(no_policy.to_owned()), "shop").is_ok());
        for refusal in [
            "failed calling webhook",
            "[not-injected] the pod is opted in",
        ] {
            assert!(
                outcome(Err(refusal.to_owned()), "shop").is_err(),
                "{refusal}"
            );
        }
    }
}
