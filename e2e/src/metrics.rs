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
        let path = format!(
            "/api/v1/namespaces/{SYSTEM}/pods/{}:8080/proxy/metrics",
            pod.name_any()
        );
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        // A pod that is starting or ending has none.
        let Ok(text) = stage.client().request_text(request).await else {
            continue;
        };
        let found = text.lines().filter_map(|line| value(line, name, labels));
        largest = found.chain(largest).reduce(f64::max);
    }
    largest
}

fn value(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (given, value) = rest.rsplit_once(' ')?;
    let has = |(label, value): &(&str, &str)| given.contains(&format!("{label}=\"{value}\""));
    let whole = given.is_empty() || given.starts_with('{');
    (whole && labels.iter().all(has)).then(|| value.parse().ok())?
}
