//! Our own parts, made to go away and to come back.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::pods::is_ready;
use crate::{SYSTEM, until};

/// Where the chart puts the relay where SPIRE's socket is a folder of the node.
const RELAYS: &str = "writ-relay";

/// A part of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Admission.
    Webhook,
    /// The controllers.
    Operator,
    /// What carries the chain's state to sidecars.
    Relay,
}

impl Part {
    /// Gives it another number of pods, waits until there are just so many and all of them ready, and
    /// returns how many it had.
    pub async fn scale(self, client: Client, replicas: i32) -> i32 {
        match self {
            Self::Webhook => scale::<Deployment>(client, SYSTEM, "webhook", replicas).await,
            Self::Operator => scale::<Deployment>(client, SYSTEM, "operator", replicas).await,
            Self::Relay => scale::<StatefulSet>(client, RELAYS, "relay", replicas).await,
        }
    }
}

async fn scale<K>(client: Client, namespace: &str, component: &str, replicas: i32) -> i32
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned,
{
    let name = format!("writ-{component}");
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let usual = api.get_scale(&name).await.expect("a scale").spec;
    let change = json!({"spec": {"replicas": replicas}});
    api.patch_scale(&name, &PatchParams::default(), &Patch::Merge(&change))
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    // Pods that are ending still answer for a while: they are waited for too.
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let its = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    until(&format!("{name} has {replicas} pods"), async || {
        let there = pods.list(&its).await.ok()?.items;
        let ready = there.iter().filter(|pod| is_ready(pod)).count();
        let all = i32::try_from(there.len()) == Ok(replicas);
        (all && ready == there.len()).then_some(())
    })
    .await;
    usual.and_then(|spec| spec.replicas).unwrap_or(1)
}
