//! What is looked at, for `writ doctor`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::client::Body;
use serde_json::Value;
use writ_api::{AgentPolicy, Chain, SIDECAR};

use super::identity::DRIVERS;
use crate::cluster::{Ask, Cluster};
use crate::error::CliError;
use crate::status::config_map;

/// Where the sidecar answers.
const ADMIN_PORT: u16 = 15820;
/// Most bytes of an answer of a sidecar.
const MAX_ANSWER: usize = 1 << 20;

/// Something that may not be visible to whoever asks.
#[derive(Debug, Clone)]
pub enum Looked<T> {
    Seen(T),
    Hidden { what: String, fix: String },
}

/// What is looked at.
#[derive(Debug)]
pub struct Facts {
    pub server: String,
    pub system: String,
    /// `1.34`.
    pub version: String,
    /// Seconds that the API server's clock is ahead of ours.
    pub ahead: Option<i64>,
    pub now: u64,
    /// The only namespace that policies and pods are of.
    pub only: Option<String>,
    pub crds: Looked<Vec<CustomResourceDefinition>>,
    /// Which of the drivers are there that bring the Workload API's socket.
    pub drivers: Looked<Vec<&'static str>>,
    /// `None`: the kind is not there.
    pub identities: Looked<Option<Vec<DynamicObject>>>,
    pub mutating: Looked<Vec<MutatingWebhookConfiguration>>,
    pub validating: Looked<Vec<ValidatingWebhookConfiguration>>,
    pub policies_of_admission: Looked<Vec<ValidatingAdmissionPolicy>>,
    pub bindings: Looked<Vec<ValidatingAdmissionPolicyBinding>>,
    pub slices: Looked<Vec<EndpointSlice>>,
    pub deployments: Looked<Vec<Deployment>>,
    pub lease: Looked<Option<Lease>>,
    pub chains: Looked<Vec<Chain>>,
    pub policies: Looked<Vec<AgentPolicy>>,
    pub namespaces: Looked<Vec<Namespace>>,
    pub pods: Looked<Vec<Pod>>,
    /// ConfigMaps of sidecars by namespace and name.
    pub configs: BTreeMap<(String, String), Looked<Option<ConfigMap>>>,
    pub pod: Option<PodFacts>,
}

/// One pod.
#[derive(Debug)]
pub struct PodFacts {
    pub pod: Pod,
    pub events: Looked<Vec<Event>>,
    /// What its sidecar answers to `/readyz`.
    pub ready: Looked<Answer>,
}

/// An answer of a sidecar.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub text: String,
    /// Seconds that its clock is ahead of ours.
    pub ahead: Option<i64>,
}

/// Looks at everything.
pub async fn gather(cluster: &Cluster, system: &str, pod: Option<&str>) -> Result<Facts, CliError> {
    let (version, ahead) = version(cluster).await?;
    let pod = match pod {
        Some(name) => Some(one_pod(cluster, name).await?),
        None => None,
    };
    // With a pod, its namespace is enough; without, all of them are looked at.
    let only = pod
        .as_ref()
        .and_then(|p| p.pod.namespace())
        .or_else(|| cluster.named_namespace().map(str::to_owned));
    let only = only.as_deref();
    let policies = looked(cluster.list::<AgentPolicy>(only).await)?;
    let mut facts = Facts {
        server: cluster.server().to_owned(),
        system: system.to_owned(),
        version,
        ahead,
        now: now(),
        only: only.map(str::to_owned),
        crds: looked(cluster.list_cluster().await)?,
        drivers: looked(drivers(cluster).await)?,
        identities: looked(identities(cluster).await)?,
        mutating: looked(cluster.list_cluster().await)?,
        validating: looked(cluster.list_cluster().await)?,
        policies_of_admission: looked(cluster.list_cluster().await)?,
        bindings: looked(cluster.list_cluster().await)?,
        slices: looked(cluster.list(Some(system)).await)?,
        deployments: looked(cluster.list(Some(system)).await)?,
        lease: looked(cluster.get(system, "writ-operator").await)?,
        chains: looked(cluster.list_cluster().await)?,
        configs: BTreeMap::new(),
        policies,
        namespaces: match only {
            Some(name) => looked(
                cluster
                    .get_cluster(name)
                    .await
                    .map(|n| n.into_iter().collect()),
            )?,
            None => looked(cluster.list_cluster().await)?,
        },
        pods: looked(cluster.list(only).await)?,
        pod,
    };
    facts.configs = configs(cluster, &facts).await?;
    Ok(facts)
}

/// What may not be seen is told; what cannot be reached ends the command.
fn looked<T>(result: Result<T, CliError>) -> Result<Looked<T>, CliError> {
    match result {
        Ok(value) => Ok(Looked::Seen(value)),
        Err(CliError::Cluster { what, fix }) => Ok(Looked::Hidden { what, fix }),
        Err(error) => Err(error),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

async fn version(cluster: &Cluster) -> Result<(String, Option<i64>), CliError> {
    let ask = Ask::plain("get", "/version", None);
    let answer = get(cluster, "/version", &ask).await?;
    let info: Value = serde_json::from_str(&answer.text).unwrap_or(Value::Null);
    let text = |name: &str| {
        info.get(name)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    Ok((format!("{}.{}", text("major"), text("minor")), answer.ahead))
}

/// A plain GET, with the clock of whoever answers.
async fn get(cluster: &Cluster, path: &str, ask: &Ask) -> Result<Answer, CliError> {
    let request = http::Request::get(path)
        .body(Body::empty())
        .map_err(|e| CliError::Argument(e.to_string()))?;
    let response = crate::progress::shown(&ask.doing(), cluster.client().send(request))
        .await
        .map_err(|e| cluster.explain(ask, e))?;
    let (head, body) = response.into_parts();
    let date = head
        .headers
        .get(http::header::DATE)
        .and_then(|d| d.to_str().ok());
    let date = date.and_then(|date| rfc2822::parse(date).ok());
    let ahead = date.and_then(|date| {
        date.timestamp()
            .as_second()
            .checked_sub(i64::try_from(now()).ok()?)
    });
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
    Ok(Answer {
        status: head.status.as_u16(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
        ahead,
    })
}

async fn drivers(cluster: &Cluster) -> Result<Vec<&'static str>, CliError> {
    let mut found = Vec::new();
    for driver in DRIVERS {
        let object: Option<CSIDriver> = cluster.get_cluster(driver.name).await?;
        found.extend(object.map(|_| driver.name));
    }
    Ok(found)
}

async fn identities(cluster: &Cluster) -> Result<Option<Vec<DynamicObject>>, CliError> {
    let kind = ApiResource {
        group: "spire.spiffe.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "spire.spiffe.io/v1alpha1".to_owned(),
        kind: "ClusterSPIFFEID".to_owned(),
        plural: "clusterspiffeids".to_owned(),
    };
    let api = kube::Api::<DynamicObject>::all_with(cluster.client().clone(), &kind);
    let ask = Ask::plain("list", "clusterspiffeids.spire.spiffe.io", None);
    match api.list(&ListParams::default().limit(500)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(cluster.explain(&ask, error)),
    }
}

/// The ConfigMaps that policies say their sidecars have, and that the pod mounts.
async fn configs(
    cluster: &Cluster,
    facts: &Facts,
) -> Result<BTreeMap<(String, String), Looked<Option<ConfigMap>>>, CliError> {
    let mut wanted: Vec<(String, String)> = Vec::new();
    if let Looked::Seen(policies) = &facts.policies {
        for policy in policies {
            let namespace = policy.namespace().unwrap_or_default();
            let agents = policy.status.iter().flat_map(|s| &s.agents);
            wanted.extend(agents.map(|a| (namespace.clone(), a.config_map.clone())));
        }
    }
    if let Some(pod) = &facts.pod
        && let Some(map) = config_map(&pod.pod)
    {
        wanted.push((pod.pod.namespace().unwrap_or_default(), map.to_owned()));
    }
    let mut configs = BTreeMap::new();
    for (namespace, name) in wanted {
        let map = looked(cluster.get(&namespace, &name).await)?;
        configs.insert((namespace, name), map);
    }
    Ok(configs)
}

async fn one_pod(cluster: &Cluster, name: &str) -> Result<PodFacts, CliError> {
    let namespace = cluster.namespace();
    let pod: Pod = cluster.get(namespace, name).await?.ok_or_else(|| {
        CliError::Argument(format!(
            "there is no pod {name} in namespace {namespace}: name its namespace with -n"
        ))
    })?;
    let events = looked(cluster.list::<Event>(Some(namespace)).await)?;
    let events = match events {
        Looked::Seen(all) => Looked::Seen(
            all.into_iter()
                .filter(|e| e.involved_object.name.as_deref() == Some(name))
                .filter(|e| e.type_.as_deref() == Some("Warning"))
                .collect(),
        ),
        hidden => hidden,
    };
    let ask = Ask::plain("get", "pods/proxy", Some(namespace));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{ADMIN_PORT}/proxy/readyz");
    let has_sidecar = pod.spec.as_ref().is_some_and(|s| {
        s.init_containers
            .iter()
            .flatten()
            .any(|c| c.name == SIDECAR)
    });
    let ready = if has_sidecar {
        match looked(get(cluster, &path, &ask).await)? {
            // The API server's own refusal comes as an answer too.
            Looked::Seen(answer) if answer.status == 403 => {
                looked(Err(cluster.forbidden(&ask, &answer.text)))?
            }
            other => other,
        }
    } else {
        Looked::Hidden {
            what: "the pod has no sidecar to ask".to_owned(),
            fix: "make the pod anew once its namespace or itself is opted in".to_owned(),
        }
    };
    Ok(PodFacts { pod, events, ready })
}
