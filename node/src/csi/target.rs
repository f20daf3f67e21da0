//! Where the kubelet has a volume of a pod's mounted. No I/O.

use std::path::{Path, PathBuf};

use super::{Refused, require};
use crate::cgroup::PodUid;

/// The kubelet's name for CSI volumes in a pod's folder.
const VOLUMES: &str = "kubernetes.io~csi";
/// The folder that is mounted on, in the volume's.
pub(super) const MOUNT: &str = "mount";
const MAX_PATH: usize = 4096;

/// `<kubelet>/pods/UID/volumes/kubernetes.io~csi/NAME/mount`, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pod: PodUid,
    volume: String,
}

impl Target {
    /// Reads a target path, where `kubelet` is the kubelet's own folder.
    ///
    /// # Errors
    /// [`Refused`] for every other path, also one that would lead to the same folder: `..`, `.`, `//`.
    pub fn parse(kubelet: &Path, path: &str) -> Result<Self, Refused> {
        let refused = Refused {
            field: "target_path",
            reason: "is not <kubelet>/pods/UID/volumes/kubernetes.io~csi/NAME/mount: check the chart's \
                     spire.socket.kubelet against the kubelet's --root-dir",
        };
        require(path.len() <= MAX_PATH, refused.field, "is too long")?;
        let below = kubelet
            .to_str()
            .and_then(|kubelet| path.strip_prefix(kubelet))
            .and_then(|path| path.strip_prefix("/pods/"));
        let parts: Vec<&str> = below.into_iter().flat_map(|path| path.split('/')).collect();
        let [uid, "volumes", VOLUMES, volume, MOUNT] = parts.as_slice() else {
            return Err(refused);
        };
        let pod = PodUid::parse(uid).ok_or(refused)?;
        require(is_label(volume), refused.field, "names no volume")?;
        Ok(Self {
            pod,
            volume: (*volume).to_owned(),
        })
    }

    /// The pod.
    #[must_use]
    pub fn pod(&self) -> &PodUid {
        &self.pod
    }

    /// The volume's folder, below `<kubelet>/pods`; `mount` is in it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(self.pod.as_str())
            .join("volumes")
            .join(VOLUMES)
            .join(&self.volume)
    }
}

/// As a volume of a pod is named (RFC 1123).
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";

    fn parse(path: &str) -> Result<Target, Refused> {
        Target::parse(Path::new("/var/lib/kubelet"), path)
    }

    #[test]
    fn the_kubelets_own_form_is_read_and_only_below_its_own_folder() {
        let path =
            format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/writ-spire/mount");
        let target = parse(&path).unwrap();
        assert_eq!(target.pod().as_str(), UID);
        let folder = format!("{UID}/volumes/kubernetes.io~csi/writ-spire");
        assert_eq!(target.folder(), PathBuf::from(folder));
        assert!(Target::parse(Path::new("/data/kubelet"), &path).is_err());
        assert!(
            Target::parse(
                Path::new("/data/kubelet"),
                &path.replace("/var/lib", "/data")
            )
            .is_ok()
        );
    }

    #[test]
    fn every_other_path_is_refused() {
        let good = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/v/mount");
        parse(&good).unwrap();
        let other = UID.replace('1', "G");
        for path in [
            String::new(),
            "/".to_owned(),
            "/etc".to_owned(),
            good.replacen('/', "", 1),
            good.replace("/kubelet/", "/kubelet-2/"),
            good.replace("/kubelet/", "//kubelet/"),
            good.replace("/pods/", "/pods//"),
            good.replace("/pods/", "/pods/./"),
            good.replace("/pods/", "/pods/../pods/"),
            good.replace("/pods/", "/plugins/"),
            good.replace(UID, ".."),
            good.replace(UID, "."),
            good.replace(UID, ""),
            good.replace(UID, &other),
            good.replace(UID, &UID.to_uppercase()),
            good.replace("kubernetes.io~csi", "kubernetes.io~empty-dir"),
            good.replace("kubernetes.io~csi", ".."),
            good.replace("/v/", "/../"),
            good.replace("/v/", "/./"),
            good.replace("/v/", "//"),
            good.replace("/v/", "/"),
            good.replace("/v/", "/v/v/"),
            good.replace("/v/", "/-v/"),
            good.replace("/v/", "/V/"),
            good.replace("/v/", "/v.d/"),
            good.replace("/v/", "/v\0/"),
            good.replace("/v/", "/v\n/"),
            good.replace("/v/", &format!("/{}/", "v".repeat(64))),
            good.replace("/mount", "/vol_data.json"),
            good.replace("/mount", ""),
            format!("{good}/"),
            format!("{good}/.."),
            format!("{good}/../../../../../../../etc"),
            format!("{good}\0"),
            "/".repeat(5000),
        ] {
            assert!(parse(&path).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_the_same_again(path in "(/var/lib/kubelet/pods/)?[a-f0-9/.-]{0,40}(/volumes/kubernetes.io~csi/)?[a-z0-9./-]{0,70}(/mount)?") {
            if let Ok(target) = parse(&path) {
                let again = Path::new("/var/lib/kubelet/pods").join(target.folder()).join(MOUNT);
                prop_assert_eq!(again, PathBuf::from(&path));
                prop_assert!(!path.contains(".."));
            }
        }

        #[test]
        fn no_text_panics(path in any::<String>()) {
            let _ = parse(&path);
        }
    }
}
