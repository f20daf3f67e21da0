//! Status, events, metrics: how controllers tell what they did.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use writ_api::OPERATOR;

use crate::{Context, OperatorError};

/// What our resources have in common.
pub trait Ours:
    Resource<DynamicType = ()> + ResourceExt + Clone + Debug + DeserializeOwned + Serialize
{
}

impl<K> Ours for K where
    K: Resource<DynamicType = ()> + ResourceExt + Clone + Debug + DeserializeOwned + Serialize
{
}

/// Writes a status by server-side apply: fields that it lacks are taken out.
///
/// # Errors
/// The API server refuses or does not answer. An object that is gone is none.
pub async fn patch_status<K: Ours>(
    api: &Api<K>,
    name: &str,
    status: &impl Serialize,
) -> Result<(), OperatorError> {
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let parameters = PatchParams::apply(OPERATOR).force();
    match api
        .patch_status(name, &parameters, &Patch::Apply(&body))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// An event about an object. That it could not be written is logged and no failure.
pub async fn event<K: Ours>(
    context: &Context,
    object: &K,
    kind: EventType,
    reason: &str,
    note: &str,
) {
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context
        .recorder
        .publish(&event, &object.object_ref(&()))
        .await
    {
        tracing::warn!(%error, reason, "event not written");
    }
}

/// The conditions whose status or reason changed.
#[must_use]
pub fn changed<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let same = |a: &Condition, b: &Condition| {
        a.type_ == b.type_ && a.status == b.status && a.reason == b.reason
    };
    after
        .iter()
        .filter(|new| !before.iter().any(|old| same(old, new)))
        .collect()
}

/// An event for each condition that changed.
pub async fn transitions<K: Ours>(
    context: &Context,
    object: &K,
    before: &[Condition],
    after: &[Condition],
) {
    for condition in changed(before, after) {
        let good = condition.status == "True" && condition.type_ != "Development";
        let kind = if good {
            EventType::Normal
        } else {
            EventType::Warning
        };
        let note = format!("{}: {}", condition.type_, condition.message);
        event(context, object, kind, &condition.reason, &note).await;
        tracing::info!(
            kind = %K::kind(&()), namespace = object.namespace().unwrap_or_default(), name = object.name_any(),
            condition = condition.type_, status = condition.status, reason = condition.reason,
            message = condition.message, "condition changed"
        );
    }
}

/// Runs one reconciliation and counts it.
///
/// # Errors
/// As the reconciliation.
pub async fn counted<K: Ours>(
    context: &Context,
    controller: &str,
    object: &K,
    work: impl Future<Output = Result<Action, OperatorError>>,
) -> Result<Action, OperatorError> {
    let timer = context
        .metrics
        .reconcile_seconds
        .with_label_values(&[controller])
        .start_timer();
    let done = work.await;
    timer.observe_duration();
    let outcome = match &done {
        Ok(_) => {
            context.succeeded(&key(object));
            "Done"
        }
        Err(error) => error.cause(),
    };
    context
        .metrics
        .reconciles
        .with_label_values(&[controller, outcome])
        .inc();
    done
}

/// When a failed object is tried again, by the cause.
pub fn retry<K: Ours>(object: Arc<K>, error: &OperatorError, context: Arc<Context>) -> Action {
    let failures = context.failed(&key(object.as_ref()));
    let after = error.retry_after(failures);
    tracing::warn!(
        kind = %K::kind(&()), namespace = object.namespace().unwrap_or_default(), name = object.name_any(),
        cause = error.cause(), %error, retry_seconds = after.as_secs_f32(), "not carried out; trying again"
    );
    Action::requeue(after)
}

fn key<K: Ours>(object: &K) -> String {
    format!(
        "{}/{}/{}",
        K::kind(&()),
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use writ_api::conditions::{Said, Truth, merge};

    #[test]
    fn only_what_changed_is_told() {
        let now = Time(k8s_openapi::jiff::Timestamp::from_second(1).unwrap());
        let say = |reason, message: &str| {
            merge(
                &[],
                &[Said::new("Ready", Truth::False, reason, message)],
                1,
                &now,
            )
        };
        let before = say("A", "x");
        assert!(changed(&before, &say("A", "y")).is_empty());
        assert_eq!(changed(&before, &say("B", "x")).len(), 1);
        assert_eq!(changed(&[], &before).len(), 1);
    }
}
