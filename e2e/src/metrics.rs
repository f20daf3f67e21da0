//! Metrics of our own pods, through the API server.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::{SYSTEM, Stage};

/// The largest value that the pods of a component (`operator`, `webhook`) have for a metric with these
/// labels; nothing while none has one.
pub async fn metric(
    stage: &Stage,
    component: &str,
    name: &str,
    labels: &[(&str, &str)],
) -> Option<f64> {
    let pods: Api<Pod> = Api::namespaced(stage.client(), SYSTEM);
    let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let mut largest: Option<f64> = None;
    for pod in pods.list(&of).await.ok()? {
        // A pod that is starting or ending has none.
        let Some(text) = scrape(stage, SYSTEM, &pod.name_any(), 8080).await else {
            continue;
        };
        let found = text.lines().filter_map(|line| value(line, name, labels));
        largest = found.chain(largest).reduce(f64::max);
    }
    largest
}

/// What the sidecar of a pod has for a metric without labels.
pub async fn sidecar_metric(stage: &Stage, namespace: &str, pod: &str, name: &str) -> Option<f64> {
    let text = scrape(stage, namespace, pod, 15820).await?;
    text.lines().find_map(|line| value(line, name, &[]))
}

async fn scrape(stage: &Stage, namespace: &str, pod: &str, port: u16) -> Option<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    stage.client().request_text(request).await.ok()
}

fn value(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (given, value) = rest.rsplit_once(' ')?;
    let has = |(label, value): &(&str, &str)| given.contains(&format!("{label}=\"{value}\""));
    let whole = given.is_empty() || given.starts_with('{');
    (whole && labels.iter().all(has)).then(|| value.parse().ok())?
}
