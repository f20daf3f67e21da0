//! A pod of a stage: what it says, and what is known of it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::{DeleteParams, LogParams};
use serde_json::Value;

use crate::until;

/// A pod that a test created.
pub struct Pod {
    api: Api<Object>,
    /// Its name.
    pub name: String,
    /// As it was admitted.
    pub admitted: Object,
}

impl Pod {
    pub(crate) fn new(api: Api<Object>, admitted: Object) -> Self {
        let name = admitted.metadata.name.clone().expect("a name");
        Self {
            api,
            name,
            admitted,
        }
    }

    /// The pod as it is now.
    pub async fn now(&self) -> Object {
        self.api.get(&self.name).await.expect("the pod")
    }

    /// Waits until every container is ready, and returns the pod's IPv4 address.
    pub async fn ready(&self) -> String {
        until(&format!("pod {} is ready", self.name), async || {
            let pod = self.api.get(&self.name).await.ok()?;
            is_ready(&pod).then_some(())?;
            pod.status?.pod_ip
        })
        .await
    }

    /// The pod's address of the other family.
    pub async fn ipv6(&self) -> String {
        let status = self.now().await.status.expect("a status");
        let mut all = status.pod_ips.into_iter().flatten().map(|ip| ip.ip);
        all.find(|ip| ip.contains(':'))
            .expect("an IPv6 address: the cluster's pods need both families")
    }

    /// Names of all containers, the init containers first.
    pub fn containers(&self) -> Vec<String> {
        let spec = self.admitted.spec.as_ref().expect("a spec");
        let init = spec.init_containers.iter().flatten();
        init.chain(&spec.containers)
            .map(|container| container.name.clone())
            .collect()
    }

    /// Everything that a container said so far, its JSON lines.
    pub async fn said_by(&self, container: &str) -> Vec<Value> {
        let options = LogParams {
            container: Some(container.to_owned()),
            ..LogParams::default()
        };
        let text = self
            .api
            .logs(&self.name, &options)
            .await
            .unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Everything that the peer said so far.
    pub async fn said(&self) -> Vec<Value> {
        self.said_by("peer").await
    }

    /// Waits for the result of a step that the peer follows.
    pub async fn result(&self, step: &str) -> Value {
        self.result_of("peer", step).await
    }

    /// The same for another container.
    pub async fn result_of(&self, container: &str, step: &str) -> Value {
        until(
            &format!("pod {} tells of its step {step}", self.name),
            async || {
                let said = self.said_by(container).await;
                said.into_iter().find(|line| line["step"] == step)
            },
        )
        .await
    }

    /// Waits until the pod ended, and returns its phase.
    pub async fn ended(&self) -> String {
        until(&format!("pod {} ends", self.name), async || {
            let phase = self.api.get(&self.name).await.ok()?.status?.phase?;
            ["Succeeded", "Failed"]
                .contains(&phase.as_str())
                .then_some(phase)
        })
        .await
    }

    /// Deletes the pod and waits until it is gone.
    pub async fn delete(&self) {
        let _ = self.api.delete(&self.name, &DeleteParams::default()).await;
        until(&format!("pod {} is gone", self.name), async || {
            matches!(self.api.get_opt(&self.name).await, Ok(None)).then_some(())
        })
        .await;
    }

    /// How often a container was started again.
    pub async fn restarts(&self, container: &str) -> i32 {
        let status = self.now().await.status.expect("a status");
        let init = status.init_container_statuses.into_iter().flatten();
        let mut all = init.chain(status.container_statuses.into_iter().flatten());
        all.find(|status| status.name == container)
            .map_or(0, |status| status.restart_count)
    }
}

/// The claims of the envelope that a request came with, as the target's own log has its headers.
pub fn envelope(request: &Value) -> Option<Value> {
    part(request, 1)
}

/// The protected header of that envelope.
pub fn protected_header(request: &Value) -> Option<Value> {
    part(request, 0)
}

fn part(request: &Value, index: usize) -> Option<Value> {
    let headers = request["headers"].as_object()?;
    let (_, compact) = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("sae"))?;
    let json = BASE64_URL_SAFE_NO_PAD
        .decode(compact.as_str()?.split('.').nth(index)?)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

/// Whether the API server calls the pod ready.
pub(crate) fn is_ready(pod: &Object) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
