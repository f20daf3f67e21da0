//! Before an uninstallation: agents must not be left open without anybody saying so (M-53), and what has
//! volumes of the node agent's ends while that is still there.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use writ_api::{AgentPolicy, INJECT, INJECTED};

use super::{HookError, failed};

/// Objects asked for at a time, and names told.
const PAGE: u32 = 500;
const TOLD: usize = 20;
/// How long relays and witnesses may take to end, and how often they are looked at.
const PATIENCE: Duration = Duration::from_secs(80);
const PAUSE: Duration = Duration::from_secs(1);

/// The release that is to go.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its revision.
    pub revision: u32,
    /// Go on although agents are left.
    pub force: bool,
}

/// What an uninstallation would leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Left {
    /// Pods with a sidecar that have not ended: `namespace/name`.
    pods: Vec<String>,
    /// AgentPolicies: `namespace/name`.
    policies: Vec<String>,
    /// Namespaces that are opted in.
    namespaces: Vec<String>,
}

/// Looks whether the release can go, and says what is left.
///
/// # Errors
/// [`HookError::AgentsLeft`] says what to do first; or the API server does not answer.
pub async fn check(client: &Client, release: &Release) -> Result<String, HookError> {
    let left = look(client).await?;
    say(&left, release)
}

/// Ends the relay and the witnesses in `namespace`. Where the node agent brings SPIRE's socket, no pod with
/// it ends once the node agent is gone: the kubelet unmounts by it.
///
/// # Errors
/// [`HookError::NotEnded`], or the API server does not answer.
pub async fn stop(client: &Client, namespace: &str, witnesses: u32) -> Result<(), HookError> {
    let relays: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    delete(&relays, "writ-relay").await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    for index in 0..witnesses {
        delete(&deployments, &format!("writ-witness-{index}")).await?;
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default()
        .labels("app.kubernetes.io/name=writ,app.kubernetes.io/component in (relay,witness)");
    let gone = async {
        loop {
            let left = pods.list(&ours).await.map_err(failed("listing pods"))?;
            if left.items.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let late = |_| Err(HookError::NotEnded(namespace.to_owned()));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .unwrap_or_else(late)
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), HookError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failed(format!("deleting {name}"))(error)),
    }
}

async fn look(client: &Client) -> Result<Left, HookError> {
    let mut left = Left::default();
    let pods: Api<Pod> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = pods
            .list(&parameters)
            .await
            .map_err(failed("listing pods"))?;
        let agents = page.items.iter().filter(|pod| is_running_agent(pod));
        left.pods.extend(agents.map(full_name));
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => parameters = parameters.continue_token(&next),
            None => break,
        }
    }
    let policies: Api<AgentPolicy> = Api::all(client.clone());
    left.policies = match policies.list(&ListParams::default()).await {
        Ok(list) => list.iter().map(full_name).collect(),
        // The definition is gone, and every AgentPolicy with it.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(failed("listing AgentPolicies")(error)),
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let opted_in = ListParams::default().labels(&format!("{INJECT}=enabled"));
    let list = namespaces
        .list(&opted_in)
        .await
        .map_err(failed("listing namespaces"))?;
    left.namespaces = list.iter().map(ResourceExt::name_any).collect();
    Ok(left)
}

fn is_running_agent(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.annotations().contains_key(INJECTED) && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn full_name<K: ResourceExt>(object: &K) -> String {
    format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}

fn say(left: &Left, release: &Release) -> Result<String, HookError> {
    let Release {
        name,
        namespace,
        revision,
        force,
    } = release;
    if left.pods.is_empty() && left.policies.is_empty() {
        let mut text = "no agent runs with a sidecar".to_owned();
        if !left.namespaces.is_empty() {
            text += &format!(
                ". Still opted in: {}: pods there are refused until the label {INJECT} is removed",
                told(&left.namespaces)
            );
        }
        return Ok(text);
    }
    let mut text = String::new();
    if !left.pods.is_empty() {
        text += &format!(
            "{} pods run with Writ's sidecar: {}. They would go on until the chain's state is too old, \
             and what replaces them would be refused.\n",
            left.pods.len(),
            told(&left.pods)
        );
    }
    if !left.policies.is_empty() {
        text += &format!(
            "{} AgentPolicies are there: {}. Only the operator can pause them and let them go.\n",
            left.policies.len(),
            told(&left.policies)
        );
    }
    if *force {
        return Ok(format!("uninstalled by force, although\n{text}"));
    }
    Err(HookError::AgentsLeft(format!(
        "not uninstalled:\n{text}\
         Either remove those workloads, and then\n  \
           kubectl delete agentpolicies -A --all\n  \
           helm uninstall {name} -n {namespace}\n\
         or leave them:\n  \
           helm rollback {name} {revision} -n {namespace}\n  \
           helm upgrade {name} <chart> -n {namespace} --reuse-values --set uninstall.force=true\n  \
           helm uninstall {name} -n {namespace}\n\
         Helm calls the release `uninstalling` from now on; the rollback makes it `deployed` again."
    )))
}

fn told(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(TOLD).map(String::as_str).collect();
    match names.len().saturating_sub(TOLD) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn release(force: bool) -> Release {
        Release {
            name: "writ".to_owned(),
            namespace: "writ-system".to_owned(),
            revision: 7,
            force,
        }
    }

    fn pod(annotated: bool, phase: &str) -> Pod {
        let annotations = if annotated {
            json!({INJECTED: "1"})
        } else {
            json!({})
        };
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "namespace": "shop", "annotations": annotations},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_with_a_sidecar_counts_until_it_ended() {
        for (annotated, phase, counts) in [
            (true, "Running", true),
            (true, "Pending", true),
            (true, "Unknown", true),
            (true, "Succeeded", false),
            (true, "Failed", false),
            (false, "Running", false),
        ] {
            let seen = is_running_agent(&pod(annotated, phase));
            assert_eq!(seen, counts, "{annotated} {phase}");
        }
    }

    #[test]
    fn without_agents_it_goes_and_names_what_stays_refused() {
        let left = Left {
            namespaces: vec!["shop".to_owned()],
            ..Left::default()
        };
        let said = say(&left, &release(false)).unwrap();
        assert!(said.contains("shop"), "{said}");
    }

    #[test]
    fn with_agents_it_is_refused_with_their_names_and_the_way_on() {
        let left = Left {
            pods: vec!["shop/agent".to_owned()],
            ..Left::default()
        };
        let refused = say(&left, &release(false)).unwrap_err().to_string();
        for word in [
            "shop/agent",
            "uninstall.force=true",
            "helm rollback writ 7",
            "helm uninstall writ",
        ] {
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_policy_that_only_the_operator_can_let_go_refuses_too() {
        let left = Left {
            policies: vec!["shop/buyers".to_owned()],
            ..Left::default()
        };
        let refused = say(&left, &release(false)).unwrap_err().to_string();
        assert!(
            refused.contains("kubectl delete agentpolicies"),
            "{refused}"
        );
    }

    #[test]
    fn by_force_it_goes_and_still_says_what_is_left() {
        let left = Left {
            pods: (0..50).map(|n| format!("shop/agent-{n}")).collect(),
            ..Left::default()
        };
        let said = say(&left, &release(true)).unwrap();
        assert!(said.contains("50 pods"), "{said}");
        assert!(said.contains("and 30 more"), "{said}");
    }
}
