//! Volumes that an opted-in pod may not have.

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::paths;
use crate::refusal::{Code, Refusals};
use crate::settings::{Settings, SpireSocket};

pub(super) fn volumes(spec: &PodSpec, settings: &Settings, refusals: &mut Refusals) {
    for volume in spec.volumes.iter().flatten() {
        let field = format!("spec.volumes[{}]", volume.name);
        if let Some(source) = &volume.host_path {
            host_path(&source.path, &field, settings, refusals);
        }
        if let (Some(csi), SpireSocket::Csi(driver)) = (&volume.csi, &settings.spire)
            && csi.driver == *driver
        {
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
    fn other_folders_of_the_node_may_be_mounted() {
        for path in ["/data", "/var/log", "/var/lib/kubelet-cache", "/srv/models"] {
            assert!(!refused(path), "{path}");
        }
    }
}
