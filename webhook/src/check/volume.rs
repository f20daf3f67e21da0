//! Volumes that an opted-in pod may not have.

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::paths;
use crate::refusal::{Code, Refusals};
use crate::settings::{SPIFFE_DRIVER, Settings, SpireSocket};

pub(super) fn volumes(spec: &PodSpec, settings: &Settings, refusals: &mut Refusals) {
    for volume in spec.volumes.iter().flatten() {
        let field = format!("spec.volumes[{}]", volume.name);
        if let Some(source) = &volume.host_path {
            host_path(&source.path, &field, settings, refusals);
        }
        if let Some(csi) = &volume.csi
            && mounts_workload_api(&csi.driver, settings)
        {
            let driver = &csi.driver;
            refusals.add(
                Code::IdentitySocket,
                format!("{field}.csi"),
                format!("{driver} mounts the Workload API, which only the sidecar may speak to"),
            );
        }
        if config_maps(volume).contains(&settings.config.as_str()) {
            refusals.add(
                Code::SidecarConfig,
                field,
                format!("the ConfigMap {} is the sidecar's", settings.config),
            );
        }
    }
}

/// SPIFFE's own driver may be in the cluster also where sidecars get the socket another way.
fn mounts_workload_api(driver: &str, settings: &Settings) -> bool {
    let ours = matches!(&settings.spire, SpireSocket::Csi(ours) if ours == driver);
    ours || driver == SPIFFE_DRIVER
}

/// Names of the ConfigMaps in a volume, mounted directly or projected.
fn config_maps(volume: &Volume) -> Vec<&str> {
    let direct = volume.config_map.iter().map(|source| &source.name);
    let projected = volume.projected.iter().flat_map(|p| &p.sources).flatten();
    let projected = projected.filter_map(|source| Some(&source.config_map.as_ref()?.name));
    direct.chain(projected).map(String::as_str).collect()
}

fn host_path(path: &str, field: &str, settings: &Settings, refusals: &mut Refusals) {
    let mut protected: Vec<&str> = settings
        .protected_paths
        .iter()
        .map(String::as_str)
        .collect();
    if let SpireSocket::HostPath(path) = &settings.spire {
        protected.push(path);
    }
    if paths::parts(path).contains(&"..") {
        refusals.add(
            Code::HostPath,
            format!("{field}.hostPath"),
            format!("{path:?} goes up"),
        );
    }
    if let Some(place) = protected
        .into_iter()
        .find(|place| paths::within(path, place) || paths::within(place, path))
    {
        refusals.add(
            Code::HostPath,
            format!("{field}.hostPath"),
            format!("{path:?} reaches {place}, where files of sidecars or of the node are"),
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(path: &str) -> bool {
        let mut refusals = Refusals::default();
        host_path(path, "v", &Settings::default(), &mut refusals);
        !refusals.is_empty()
    }

    #[test]
    fn parents_children_and_other_spellings_of_a_protected_folder_are_refused() {
        for path in [
            "/",
            "/var",
            "/var/lib",
            "/var/lib/kubelet",
            "/var/lib//kubelet/pods/",
            "/run",
            "/var/run",
            "/var/run/spire/sockets",
            "/var/./run/containerd/containerd.sock",
            "/run/spire/sockets/agent.sock",
            "/proc/1/root",
            "/data/../var/lib/kubelet",
        ] {
            assert!(refused(path), "{path}");
        }
    }

    #[test]
    fn the_workload_api_is_refused_also_where_sidecars_get_it_from_the_node() {
        let from_node = Settings {
            spire: SpireSocket::HostPath("/run/spire/sockets".to_owned()),
            ..Settings::default()
        };
        let pod: PodSpec = serde_json::from_value(serde_json::json!({
            "containers": [],
            "volumes": [{"name": "v", "csi": {"driver": "csi.spiffe.io"}}],
        }))
        .unwrap();
        for settings in [from_node, Settings::default()] {
            let mut refusals = Refusals::default();
            volumes(&pod, &settings, &mut refusals);
            assert!(
                refusals.to_string().contains("[identity-socket]"),
                "{refusals}"
            );
        }
    }

    #[test]
    fn other_folders_of_the_node_may_be_mounted() {
        for path in ["/data", "/var/log", "/var/lib/kubelet-cache", "/srv/models"] {
            assert!(!refused(path), "{path}");
        }
    }
}
