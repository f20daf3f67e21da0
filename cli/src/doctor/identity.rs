//! Where identities come from. No I/O.

use kube::ResourceExt;

use super::finding::{Area, Finding};
use super::gather::Facts;

const SELECTOR: &str = "k8s:container-name:writ-sidecar";

pub fn check(facts: &Facts, into: &mut Vec<Finding>) {
    let mut area = Area {
        name: "identity",
        into,
    };
    match area.seen(&facts.driver) {
        Some(Some(_)) => area.ok("SPIFFE's CSI driver is installed (csi.spiffe.io)"),
        Some(None) => area.warn(
            "SPIFFE's CSI driver is not installed (csi.spiffe.io)",
            "install spiffe-csi-driver; or let sidecars get the socket by hostPath (chart: spire.socket.kind)",
        ),
        None => {}
    }
    let Some(identities) = area.seen(&facts.identities) else {
        return;
    };
    let Some(identities) = identities else {
        area.warn(
            "spire-controller-manager is not installed: there is no kind ClusterSPIFFEID",
            "install it (chart: spire.enabled brings one for development), or make SPIRE's entries by hand with the \
             selectors k8s:ns, k8s:sa and k8s:container-name:writ-sidecar",
        );
        return;
    };
    let templates = |object: &kube::api::DynamicObject| -> Vec<String> {
        let list = object.data.pointer("/spec/workloadSelectorTemplates");
        let items = list.and_then(|l| l.as_array()).into_iter().flatten();
        items
            .filter_map(|t| t.as_str().map(str::to_owned))
            .collect()
    };
    let ours: Vec<String> = identities
        .iter()
        .filter(|o| templates(o).iter().any(|t| t == SELECTOR))
        .map(ResourceExt::name_any)
        .collect();
    if ours.is_empty() {
        area.fail(
            "no ClusterSPIFFEID selects the sidecar's container, so no sidecar gets an identity",
            format!("make one with workloadSelectorTemplates: ['{SELECTOR}'] (chart: spire.identities.enabled)"),
        );
    } else {
        area.ok(format!(
            "ClusterSPIFFEID {} gives the sidecar's container an identity",
            ours.join(", ")
        ));
    }
    for object in identities {
        let id = object
            .data
            .pointer("/spec/spiffeIDTemplate")
            .and_then(|t| t.as_str());
        let agents = id.is_some_and(|id| {
            id.contains("/ns/") && id.contains("/sa/") && id.contains("ServiceAccountName")
        });
        if agents && !ours.contains(&object.name_any()) {
            area.warn(
                format!(
                    "ClusterSPIFFEID {} gives whole pods the same kind of SPIFFE ID, agents' own containers too where \
                     they reach SPIRE's socket",
                    object.name_any()
                ),
                format!("limit it to pods without a sidecar, or to containers (workloadSelectorTemplates: ['{SELECTOR}'])"),
            );
        }
    }
}
