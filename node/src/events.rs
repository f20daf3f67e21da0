//! Kubernetes events about pods. Only creation is used, which is all that this program may do.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

/// Longest note; the API server takes 1024 bytes.
const MAX_NOTE: usize = 1000;

/// What happened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Its redirection is installed.
    Redirected,
    /// It cannot be now.
    Failed,
    /// It is not as the webhook makes pods.
    Refused,
}

impl Kind {
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Redirected => ("Normal", "Redirected"),
            Self::Failed => ("Warning", "RedirectFailed"),
            Self::Refused => ("Warning", "RedirectRefused"),
        }
    }
}

/// Tells people.
#[async_trait]
pub trait Tell: Send + Sync + 'static {
    /// Tells it; a failure to do so is logged and no failure.
    async fn tell(&self, regarding: &ObjectReference, kind: Kind, note: &str);
}

/// Tells by events.
pub struct Events {
    client: Client,
    node: String,
}

impl Events {
    /// In the name of this program on `node`.
    #[must_use]
    pub fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }
}

#[async_trait]
impl Tell for Events {
    async fn tell(&self, regarding: &ObjectReference, kind: Kind, note: &str) {
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let event = event(regarding, kind, note, &self.node, Timestamp::now());
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, "event not written");
        }
    }
}

/// The pod that an event is about.
#[must_use]
pub fn reference(pod: &Pod) -> ObjectReference {
    pod.object_ref(&())
}

fn event(regarding: &ObjectReference, kind: Kind, note: &str, node: &str, now: Timestamp) -> Event {
    let (type_, reason) = kind.texts();
    let name = regarding.name.as_deref().unwrap_or("pod");
    let mut note = note.to_owned();
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    Event {
        metadata: ObjectMeta {
            // A pod's name may be as long as an object's may.
            name: Some(format!("{name:.200}.{:x}", now.as_nanosecond())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Redirect".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(reason.to_owned()),
        regarding: Some(regarding.clone()),
        reporting_controller: Some("writ-node".to_owned()),
        reporting_instance: Some(format!("{node:.128}")),
        type_: Some(type_.to_owned()),
        ..Event::default()
    }
}

/// Namespace and name, for the log.
#[must_use]
pub fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_event_is_one_that_the_api_server_takes() {
        let regarding = ObjectReference {
            name: Some("a".repeat(253)),
            namespace: Some("agents".to_owned()),
            ..ObjectReference::default()
        };
        let note = "é".repeat(1000);
        let event = event(&regarding, Kind::Refused, &note, "node-1", Timestamp::now());
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert_eq!(event.metadata.namespace.as_deref(), Some("agents"));
        assert!(event.note.unwrap().len() <= 1024);
        assert_eq!(event.reason.as_deref(), Some("RedirectRefused"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
