//! Other meshes: two sidecars would each redirect the other's traffic.

use k8s_openapi::api::core::v1::Pod;

use crate::refusal::{Code, Refusals};

/// Containers by which a mesh is known.
const CONTAINERS: [(&str, &str); 14] = [
    ("istio-proxy", "Istio"),
    ("istio-init", "Istio"),
    ("istio-validation", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("linkerd-init", "Linkerd"),
    ("linkerd-network-validator", "Linkerd"),
    ("envoy-sidecar", "an Envoy-based mesh"),
    ("consul-dataplane", "Consul"),
    ("consul-connect-envoy-sidecar", "Consul"),
    ("consul-connect-inject-init", "Consul"),
    ("kuma-sidecar", "Kuma"),
    ("kuma-init", "Kuma"),
    ("osm-init", "Open Service Mesh"),
    ("dapr-envoy", "an Envoy-based mesh"),
];

/// Labels and annotations that make a mesh inject or redirect, and the value that does not.
const KEYS: [(&str, &[&str], &str); 10] = [
    ("sidecar.istio.io/status", &[], "Istio"),
    ("sidecar.istio.io/inject", &["false"], "Istio"),
    ("istio.io/dataplane-mode", &["none"], "Istio's ambient mode"),
    ("linkerd.io/inject", &["disabled"], "Linkerd"),
    ("linkerd.io/proxy-version", &[], "Linkerd"),
    ("kuma.io/sidecar-injection", &["disabled", "false"], "Kuma"),
    ("kuma.io/sidecar-injected", &["false"], "Kuma"),
    ("consul.hashicorp.com/connect-inject", &["false"], "Consul"),
    ("consul.hashicorp.com/connect-inject-status", &[], "Consul"),
    (
        "openservicemesh.io/sidecar-injection",
        &["disabled"],
        "Open Service Mesh",
    ),
];

pub(super) fn container(name: &str, field: &str, refusals: &mut Refusals) {
    if let Some((_, mesh)) = CONTAINERS.iter().find(|(known, _)| *known == name) {
        refusals.add(Code::OtherMesh, field, reason(mesh));
    }
}

pub(super) fn annotations(pod: &Pod, refusals: &mut Refusals) {
    for (kind, entries) in [
        ("labels", &pod.metadata.labels),
        ("annotations", &pod.metadata.annotations),
    ] {
        for (name, value) in entries.iter().flatten() {
            let known = KEYS.iter().find(|(known, ..)| known == name);
            if let Some((_, off, mesh)) = known
                && !off.contains(&value.as_str())
            {
                refusals.add(
                    Code::OtherMesh,
                    format!("metadata.{kind}[{name}]"),
                    reason(mesh),
                );
            }
        }
    }
}

fn reason(mesh: &str) -> String {
    format!("{mesh} redirects the pod's traffic too, and one of the two would be passed by")
}
