//! What the kubelet asks of the driver. No I/O.
//!
//! The kubelet passes on what a pod's volume says. The driver has one kind of volume, without settings,
//! so every setting is refused and not passed over: who wrote it meant something by it.

use std::path::Path;

use super::v1::volume_capability::access_mode::Mode;
use super::v1::volume_capability::{AccessType, MountVolume};
use super::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};
use super::{Refused, Target, require};

/// Longest id of a volume (the interface's general limit); the kubelet's have 68 bytes.
const MAX_ID: usize = 128;
/// What the kubelet says of the pod, for drivers with `podInfoOnMount`.
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_INFO: [&str; 5] = [
    POD_UID,
    EPHEMERAL,
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/serviceAccount.name",
];

/// Where to mount.
///
/// # Errors
/// [`Refused`] unless it is a read-only, ephemeral volume without settings, in the folder of the pod that
/// the kubelet names.
pub fn publication(request: &NodePublishVolumeRequest, kubelet: &Path) -> Result<Target, Refused> {
    id(&request.volume_id)?;
    let target = Target::parse(kubelet, &request.target_path)?;
    let none = request.staging_target_path.is_empty();
    require(none, "staging_target_path", "is set; nothing is staged")?;
    require(
        request.publish_context.is_empty(),
        "publish_context",
        "is set; nothing is attached",
    )?;
    require(
        request.secrets.is_empty(),
        "secrets",
        "are set: leave nodePublishSecretRef out",
    )?;
    require(
        request.readonly,
        "readonly",
        "must be: set readOnly in the pod's volume",
    )?;
    capability(request)?;
    let context = &request.volume_context;
    let own = context.keys().all(|key| POD_INFO.contains(&key.as_str()));
    require(
        own,
        "volume_context",
        "has settings: leave volumeAttributes out",
    )?;
    let ephemeral = context.get(EPHEMERAL).is_some_and(|value| value == "true");
    require(
        ephemeral,
        "volume_context",
        "names no ephemeral volume: name the driver in the pod itself",
    )?;
    let same = context
        .get(POD_UID)
        .is_some_and(|uid| uid == target.pod().as_str());
    require(same, "volume_context", "is of another pod than target_path")?;
    Ok(target)
}

fn capability(request: &NodePublishVolumeRequest) -> Result<(), Refused> {
    let field = "volume_capability";
    let Some(capability) = &request.volume_capability else {
        return Err(Refused {
            field,
            reason: "is missing",
        });
    };
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => {
            let plain = *mount == MountVolume::default();
            require(
                plain,
                field,
                "has a file system, mount flags or a group: leave them out",
            )?;
        }
        Some(AccessType::Block(_)) => require(false, field, "is a block device")?,
        None => require(false, field, "has no access type")?,
    }
    let mode = capability
        .access_mode
        .as_ref()
        .map(super::v1::volume_capability::AccessMode::mode);
    let usual = mode == Some(Mode::SingleNodeWriter);
    require(
        usual,
        field,
        "has another access mode than an ephemeral volume's",
    )
}

/// Where to unmount.
///
/// # Errors
/// [`Refused`] when it names no place of a volume.
pub fn unpublication(
    request: &NodeUnpublishVolumeRequest,
    kubelet: &Path,
) -> Result<Target, Refused> {
    id(&request.volume_id)?;
    Target::parse(kubelet, &request.target_path)
}

fn id(id: &str) -> Result<(), Refused> {
    require(!id.is_empty(), "volume_id", "is missing")?;
    require(id.len() <= MAX_ID, "volume_id", "is too long")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::csi::v1::VolumeCapability;
    use crate::csi::v1::volume_capability::{AccessMode, BlockVolume};

    const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";
    const KUBELET: &str = "/var/lib/kubelet";

    /// As Kubernetes 1.34 asks for a pod's volume.
    fn usual() -> NodePublishVolumeRequest {
        let info = [
            (POD_UID, UID),
            (EPHEMERAL, "true"),
            ("csi.storage.k8s.io/pod.name", "agent"),
            ("csi.storage.k8s.io/pod.namespace", "agents"),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ];
        NodePublishVolumeRequest {
            volume_id: format!("csi-{}", "0".repeat(64)),
            target_path: format!("{KUBELET}/pods/{UID}/volumes/kubernetes.io~csi/writ-spire/mount"),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode {
                    mode: Mode::SingleNodeWriter.into(),
                }),
            }),
            readonly: true,
            volume_context: info
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    fn with_mount(
        change: impl FnOnce(&mut MountVolume),
    ) -> impl FnOnce(&mut NodePublishVolumeRequest) {
        let mut mount = MountVolume::default();
        change(&mut mount);
        move |request| {
            request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount))
        }
    }

    fn with_mode(mode: Mode) -> impl FnOnce(&mut NodePublishVolumeRequest) {
        move |request| {
            let mode = Some(AccessMode { mode: mode.into() });
            request.volume_capability.as_mut().unwrap().access_mode = mode;
        }
    }

    fn with(key: &str, value: &str) -> impl FnOnce(&mut NodePublishVolumeRequest) {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |request| drop(request.volume_context.insert(key, value))
    }

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut NodePublishVolumeRequest)) {
        let mut request = usual();
        change(&mut request);
        let refused = publication(&request, Path::new(KUBELET)).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
    }

    #[test]
    fn the_volume_of_a_pod_is_published_in_that_pods_folder() {
        let target = publication(&usual(), Path::new(KUBELET)).unwrap();
        assert_eq!(target.pod().as_str(), UID);
    }

    #[test]
    fn a_volume_must_be_read_only_and_ephemeral() {
        refused("readonly", |request| request.readonly = false);
        refused("volume_context", with(EPHEMERAL, "false"));
        refused("volume_context", |request| {
            drop(request.volume_context.remove(EPHEMERAL))
        });
        refused("volume_context", |request| request.volume_context.clear());
    }

    #[test]
    fn settings_are_refused_and_not_passed_over() {
        refused("volume_context", with("path", "/etc"));
        refused(
            "volume_context",
            with("csi.storage.k8s.io/serviceAccount.tokens", "{}"),
        );
        refused("secrets", |request| {
            drop(request.secrets.insert("key".into(), "value".into()))
        });
        refused("publish_context", |request| {
            drop(
                request
                    .publish_context
                    .insert("device".into(), "/dev/sda".into()),
            );
        });
        refused("staging_target_path", |request| {
            request.staging_target_path = "/staging".into()
        });
        refused(
            "volume_capability",
            with_mount(|mount| mount.fs_type = "ext4".into()),
        );
        refused(
            "volume_capability",
            with_mount(|mount| mount.mount_flags = vec!["exec".into()]),
        );
        refused(
            "volume_capability",
            with_mount(|mount| mount.volume_mount_group = "0".into()),
        );
    }

    #[test]
    fn a_volume_is_mounted_by_one_pod_and_is_no_block_device() {
        refused("volume_capability", |request| {
            request.volume_capability = None
        });
        refused("volume_capability", |request| {
            request.volume_capability.as_mut().unwrap().access_type = None;
        });
        refused("volume_capability", |request| {
            let block = Some(AccessType::Block(BlockVolume {}));
            request.volume_capability.as_mut().unwrap().access_type = block;
        });
        refused("volume_capability", |request| {
            request.volume_capability.as_mut().unwrap().access_mode = None;
        });
        refused("volume_capability", |request| {
            let unknown = Some(AccessMode { mode: 99 });
            request.volume_capability.as_mut().unwrap().access_mode = unknown;
        });
        for mode in [
            Mode::Unknown,
            Mode::SingleNodeReaderOnly,
            Mode::MultiNodeReaderOnly,
            Mode::MultiNodeSingleWriter,
            Mode::MultiNodeMultiWriter,
            Mode::SingleNodeSingleWriter,
            Mode::SingleNodeMultiWriter,
        ] {
            refused("volume_capability", with_mode(mode));
        }
    }

    #[test]
    fn the_place_must_be_that_of_the_pod_that_the_kubelet_names() {
        let other = UID.replace('1', "2");
        refused("volume_context", with(POD_UID, &other));
        refused("volume_context", |request| {
            drop(request.volume_context.remove(POD_UID))
        });
        refused("target_path", |request| request.target_path = String::new());
        refused("target_path", |request| request.target_path = "/etc".into());
        refused("target_path", |request| {
            request.target_path += "/../../../../../../etc"
        });
    }

    #[test]
    fn a_volume_has_an_id_of_bounded_length() {
        refused("volume_id", |request| request.volume_id.clear());
        refused("volume_id", |request| request.volume_id = "v".repeat(129));
        let mut request = NodeUnpublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: usual().target_path,
        };
        let place = unpublication(&request, Path::new(KUBELET)).unwrap();
        assert_eq!(place, publication(&usual(), Path::new(KUBELET)).unwrap());
        request.target_path = "/var/lib/kubelet".into();
        assert_eq!(
            unpublication(&request, Path::new(KUBELET))
                .unwrap_err()
                .field,
            "target_path"
        );
        request.volume_id.clear();
        assert_eq!(
            unpublication(&request, Path::new(KUBELET))
                .unwrap_err()
                .field,
            "volume_id"
        );
    }
}
