//! Every AgentPolicy, and what counts of every pod, kept by watching.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Service, ServiceSpec};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;
use writ_api::{AgentPolicy, INJECT};

use super::inventory;
use super::select::PodSeen;
use crate::OperatorError;

/// How long the first listing of the cluster may take.
const FIRST: Duration = Duration::from_secs(60);

/// What is known of the cluster.
#[derive(Clone)]
pub struct Stores {
    /// Every AgentPolicy.
    pub policies: Store<AgentPolicy>,
    /// Every pod, without most of what it says.
    pub pods: Store<Pod>,
    /// Every Service: its selector.
    pub services: Store<Service>,
    /// Namespaces that opt their pods in.
    pub opted_in: Store<PartialObjectMeta<Namespace>>,
}

impl Stores {
    /// The AgentPolicies of a namespace.
    #[must_use]
    pub fn policies_in(&self, namespace: &str) -> Vec<Arc<AgentPolicy>> {
        self.policies
            .state()
            .into_iter()
            .filter(|p| p.namespace().as_deref() == Some(namespace))
            .collect()
    }

    /// One AgentPolicy.
    #[must_use]
    pub fn policy(&self, namespace: &str, name: &str) -> Option<Arc<AgentPolicy>> {
        self.policies.get(&ObjectRef::new(name).within(namespace))
    }

    /// The pods of a namespace that have not ended.
    #[must_use]
    pub fn pods_in(&self, namespace: &str) -> Vec<PodSeen> {
        self.pods
            .state()
            .iter()
            .filter(|p| p.namespace().as_deref() == Some(namespace))
            .filter_map(|p| PodSeen::of(p))
            .collect()
    }

    /// Opted-in pods without a sidecar, by namespace.
    #[must_use]
    pub fn unprotected(&self) -> BTreeMap<String, i64> {
        let namespaces = self.opted_in.state();
        let namespaces = namespaces
            .iter()
            .map(|namespace| {
                (
                    namespace.name_any(),
                    inventory::is_lenient(namespace.labels()),
                )
            })
            .collect();
        let pods = self.pods.state();
        inventory::unprotected(&namespaces, pods.iter().map(Arc::as_ref))
    }

    /// Waits until all have seen the cluster once.
    ///
    /// # Errors
    /// It took too long, or a watch ended.
    pub async fn ready(&self) -> Result<(), OperatorError> {
        let all = async {
            self.policies.wait_until_ready().await?;
            self.services.wait_until_ready().await?;
            self.opted_in.wait_until_ready().await?;
            self.pods.wait_until_ready().await
        };
        let late = |what: &str| {
            OperatorError::ChainNotReady(format!(
                "watching pods, Services, namespaces and AgentPolicies: {what}"
            ))
        };
        match tokio::time::timeout(FIRST, all).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(late("the watch ended")),
            Err(_) => Err(late(
                "no answer in a minute; are the CRDs installed, and the ClusterRole bound?",
            )),
        }
    }
}

/// Stores, and the task that keeps them. Policies whose agents may have changed are sent to `touched`.
pub fn watch(
    client: &Client,
    touched: mpsc::UnboundedSender<ObjectRef<AgentPolicy>>,
) -> (Stores, impl Future<Output = ()> + Send + 'static) {
    let (policies, policy_writer) = reflector::store();
    let (pods, pod_writer) = reflector::store();
    let (services, service_writer) = reflector::store();
    let (opted_in, namespace_writer) = reflector::store();
    let stores = Stores {
        policies,
        pods,
        services,
        opted_in,
    };
    let by_service = watcher(
        Api::<Service>::all(client.clone()),
        watcher::Config::default(),
    )
    .default_backoff()
    .modify(only_selector)
    .reflect(service_writer)
    .for_each(|seen| {
        told("services", seen);
        futures::future::ready(())
    });
    let by_namespace = watcher(
        Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
        watcher::Config::default().labels(&format!("{INJECT}=enabled")),
    )
    .default_backoff()
    .reflect(namespace_writer)
    .for_each(|seen| {
        told("namespaces", seen);
        futures::future::ready(())
    });
    let by_policy = {
        let (stores, touched) = (stores.clone(), touched.clone());
        let mut known = std::collections::HashMap::new();
        watcher(
            Api::<AgentPolicy>::all(client.clone()),
            watcher::Config::default(),
        )
        .default_backoff()
        .reflect(policy_writer)
        .touched_objects()
        .for_each(move |policy| {
            let Some(policy) = told("AgentPolicies", policy) else {
                return futures::future::ready(());
            };
            // A status that says nothing new to others must not wake them.
            let shape = shape(&policy);
            let key = (policy.namespace(), policy.name_any());
            if known.insert(key, shape.clone()) != Some(shape) {
                concerned(&stores, &policy)
                    .into_iter()
                    .for_each(|p| drop(touched.send(p)));
            }
            futures::future::ready(())
        })
    };
    let by_pod = {
        let stores = stores.clone();
        watcher(Api::<Pod>::all(client.clone()), watcher::Config::default())
            .default_backoff()
            .modify(strip)
            .reflect(pod_writer)
            .touched_objects()
            .for_each(move |pod| {
                let Some(pod) = told("pods", pod) else {
                    return futures::future::ready(());
                };
                let namespace = pod.namespace().unwrap_or_default();
                for policy in stores.policies_in(&namespace) {
                    drop(touched.send(ObjectRef::from_obj(policy.as_ref())));
                }
                futures::future::ready(())
            })
    };
    let task = async move {
        futures::join!(by_policy, by_pod, by_service, by_namespace);
    };
    (stores, task)
}

/// What a watch saw. A watch that fails goes on by itself, ever more slowly.
fn told<K>(what: &str, seen: Result<K, watcher::Error>) -> Option<K> {
    seen.inspect_err(|error| tracing::warn!(%error, what, "a watch failed; trying again"))
        .ok()
}

type Shape = (Option<i64>, bool, BTreeSet<(String, String)>, Option<bool>);

/// What of a policy concerns other policies.
fn shape(policy: &AgentPolicy) -> Shape {
    let status = policy.status.clone().unwrap_or_default();
    let agents = status
        .agents
        .into_iter()
        .map(|a| (a.spiffe_id, a.key))
        .collect();
    let accepted = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Accepted")
        .map(|c| c.status == "True");
    (
        policy.metadata.generation,
        policy.metadata.deletion_timestamp.is_some(),
        agents,
        accepted,
    )
}

/// Policies of the same namespace, and those that admit this one's agents.
fn concerned(stores: &Stores, policy: &AgentPolicy) -> Vec<ObjectRef<AgentPolicy>> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let admits = |other: &AgentPolicy| {
        other.spec.callers.policies.iter().any(|caller| {
            let home = other.namespace().unwrap_or_default();
            caller.name == name && caller.namespace.as_deref().unwrap_or(&home) == namespace
        })
    };
    stores
        .policies
        .state()
        .iter()
        .filter(|other| other.namespace().as_deref() == Some(&namespace) || admits(other))
        .map(|other| ObjectRef::from_obj(other.as_ref()))
        .collect()
}

/// Keeps of a pod what [`PodSeen`] reads: a cluster has many.
fn strip(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.owner_references = None;
    if let Some(annotations) = pod.metadata.annotations.as_mut() {
        annotations.retain(|name, _| name == writ_api::POLICY || name == writ_api::INJECTED);
    }
    pod.spec = pod
        .spec
        .take()
        .map(|spec| k8s_openapi::api::core::v1::PodSpec {
            service_account_name: spec.service_account_name,
            init_containers: spec.init_containers.map(only_names),
            ..Default::default()
        });
    pod.status = pod
        .status
        .take()
        .map(|status| k8s_openapi::api::core::v1::PodStatus {
            phase: status.phase,
            ..Default::default()
        });
}

fn only_selector(service: &mut Service) {
    service.metadata.managed_fields = None;
    service.metadata.annotations = None;
    service.status = None;
    service.spec = service.spec.take().map(|spec| ServiceSpec {
        selector: spec.selector,
        ..Default::default()
    });
}

fn only_names(containers: Vec<Container>) -> Vec<Container> {
    let bare = |container: Container| Container {
        name: container.name,
        ..Default::default()
    };
    containers.into_iter().map(bare).collect()
}
