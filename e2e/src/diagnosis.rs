//! What a person would look at when a test fails: pods, events, and what sidecars said last.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{ListParams, LogParams};

use crate::Stage;

/// Lines of each container's log.
const LINES: i64 = 25;

/// The state of everything on the stage.
pub(crate) async fn tell(stage: &Stage) -> String {
    let mut told = String::new();
    for namespace in [&stage.agents, &stage.tools, &stage.outside] {
        let _ = writeln!(told, "--- namespace {namespace}, which is left as it is");
        events(stage, namespace, &mut told).await;
        pods(stage, namespace, &mut told).await;
    }
    told
}

async fn events(stage: &Stage, namespace: &str, told: &mut String) {
    let api: Api<Event> = Api::namespaced(stage.client(), namespace);
    let Ok(list) = api.list(&ListParams::default()).await else {
        return;
    };
    for event in list
        .items
        .iter()
        .filter(|e| e.type_.as_deref() == Some("Warning"))
    {
        let name = event.involved_object.name.as_deref().unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default();
        let _ = writeln!(told, "event {name}: {message}");
    }
}

async fn pods(stage: &Stage, namespace: &str, told: &mut String) {
    let api: Api<Pod> = Api::namespaced(stage.client(), namespace);
    let Ok(list) = api.list(&ListParams::default()).await else {
        return;
    };
    for pod in list.items {
        let name = pod.metadata.name.unwrap_or_default();
        let phase = pod
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default();
        let _ = writeln!(told, "pod {name}: {phase}");
        let Some(spec) = pod.spec else { continue };
        let init = spec.init_containers.into_iter().flatten();
        for container in init.chain(spec.containers) {
            let options = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(LINES),
                ..LogParams::default()
            };
            let log = api.logs(&name, &options).await.unwrap_or_default();
            let _ = writeln!(told, "  {}:\n{log}", container.name);
        }
    }
}
