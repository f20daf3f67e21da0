//! Volumes that an opted-in pod may not have.

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use serde_json::Value;
use writ_api::NODE_DRIVER;

use super::paths;
use crate::names;
use crate::refusal::{Code, Refusals};
use crate::settings::{SPIFFE_DRIVER, Settings, SpireSocket};

/// Kinds of volumes that a pod may have. Claims, and the drivers of a claim, are the cluster's.
const KINDS: [&str; 10] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "hostPath",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Drivers that hand out SPIFFE identities, or the socket where they are to be had.
const IDENTITY_DRIVERS: [&str; 3] = [SPIFFE_DRIVER, NODE_DRIVER, "spiffe.csi.cert-manager.io"];

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
        let sources = volume.projected.iter().flat_map(|p| &p.sources).flatten();
        if sources.into_iter().any(|s| s.pod_certificate.is_some()) {
            refusals.add(
                Code::IdentitySocket,
                format!("{field}.projected.sources"),
                "the container would hold a key and a certificate of its own",
            );
        }
        kind(volume, &field, refusals);
        if let Some(name) = config_maps(volume)
            .into_iter()
            .find(|name| is_sidecars(name, settings))
        {
            refusals.add(
                Code::SidecarConfig,
                field,
                format!("the ConfigMap {name} is a sidecar's"),
            );
        }
    }
}

/// Refuses what is not on the list. The others make the node mount from, or read, a server that the
/// pod names, and so carry what the sidecar never sees.
fn kind(volume: &Volume, field: &str, refusals: &mut Refusals) {
    let Ok(Value::Object(fields)) = serde_json::to_value(volume) else {
        return;
    };
    for (name, _) in fields.iter().filter(|(name, _)| *name != "name") {
        if !KINDS.contains(&name.as_str()) {
            refusals.add(
                Code::VolumeKind,
                format!("{field}.{name}"),
                "the node would reach the server that it names, past the sidecar",
            );
        }
    }
}

/// Whether a ConfigMap of this name holds the configuration of a sidecar, this pod's or another's.
pub(super) fn is_sidecars(name: &str, settings: &Settings) -> bool {
    name == settings.config || name.starts_with(names::CONFIG_PREFIX)
}

/// SPIFFE's driver and ours may be in the cluster also where sidecars get the socket another way.
fn mounts_workload_api(driver: &str, settings: &Settings) -> bool {
    let ours = matches!(&settings.spire, SpireSocket::Csi(ours) if ours == driver);
    ours || IDENTITY_DRIVERS.contains(&driver)
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
            "/etc/cron.d",
            "/sys/fs/cgroup",
            "/var/log",
            "/var/run/dbus/system_bus_socket",
            "/root/.ssh",
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
        let by_own_driver = Settings {
            spire: SpireSocket::Csi("workload-api.writ.dev".to_owned()),
            ..Settings::default()
        };
        for settings in [from_node, by_own_driver, Settings::default()] {
            for driver in ["csi.spiffe.io", "workload-api.writ.dev"] {
                let pod: PodSpec = serde_json::from_value(serde_json::json!({
                    "containers": [],
                    "volumes": [{"name": "v", "csi": {"driver": driver}}],
                }))
                .unwrap();
                let mut refusals = Refusals::default();
                volumes(&pod, &settings, &mut refusals);
                assert!(
                    refusals.to_string().contains("[identity-socket]"),
                    "{driver}: {refusals}"
                );
            }
        }
    }

    #[test]
    fn other_folders_of_the_node_may_be_mounted() {
        for path in [
            "/data",
            "/mnt/cache",
            "/var/lib/kubelet-cache",
            "/srv/models",
        ] {
            assert!(!refused(path), "{path}");
        }
    }
}
