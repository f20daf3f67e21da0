//! Where identities come from. No I/O.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use writ_api::{INJECTED, NODE_DRIVER};

use super::finding::{Area, Finding};
use super::gather::{Facts, Looked};

/// A CSI driver that brings the Workload API's socket.
pub struct Driver {
    /// Its name in pods' volumes.
    pub name: &'static str,
    whose: &'static str,
    fix: &'static str,
}

/// Those that sidecars may get it by.
pub const DRIVERS: [Driver; 2] = [
    Driver {
        name: "csi.spiffe.io",
        whose: "SPIFFE's CSI driver",
        fix: "install spiffe-csi-driver; or let sidecars get the socket by hostPath (chart: spire.socket.kind)",
    },
    Driver {
        name: NODE_DRIVER,
        whose: "the node agent's CSI driver",
        fix: "install the node agent again until those pods are gone (chart: spire.socket.kind node)",
    },
];
const SELECTOR: &str = "k8s:container-name:writ-sidecar";

pub fn check(facts: &Facts, into: &mut Vec<Finding>) {
    let mut area = Area {
        name: "identity",
        into,
    };
    if let Some(found) = area.seen(&facts.drivers) {
        for driver in &DRIVERS {
            if found.contains(&driver.name) {
                area.ok(format!("{} is installed ({})", driver.whose, driver.name));
            } else {
                without_driver(driver, !found.is_empty(), facts, &mut area);
            }
        }
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
        // Of one container, as those of our own relay and witnesses.
        let whole = !templates(object)
            .iter()
            .any(|t| t.starts_with("k8s:container-name:"));
        if agents && whole {
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

/// Sidecars may get the Workload API's socket by hostPath, or by another driver.
fn without_driver(driver: &Driver, another: bool, facts: &Facts, area: &mut Area<'_>) {
    let Looked::Seen(pods) = &facts.pods else {
        return;
    };
    let sidecars = || {
        pods.iter()
            .filter(|p| p.annotations().contains_key(INJECTED))
    };
    let by_driver = |pod: &&Pod| {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let mut drivers = volumes.filter_map(|v| Some(v.csi.as_ref()?.driver.as_str()));
        drivers.any(|name| name == driver.name)
    };
    let Driver { name, whose, fix } = driver;
    let first = DRIVERS.first().is_some_and(|first| first.name == *name);
    match (sidecars().filter(by_driver).count(), sidecars().count()) {
        // Nobody misses a driver where there is another one, and one word on it is enough.
        (0, _) if another || !first => {}
        (0, 0) => area.warn(format!("{whose} is not installed ({name})"), *fix),
        (0, _) => area.ok(format!(
            "{whose} is not installed ({name}), and sidecars get the socket without it"
        )),
        (waiting, _) => area.fail(
            format!("{whose} is not installed ({name}), and {waiting} pods wait for it"),
            *fix,
        ),
    }
}
