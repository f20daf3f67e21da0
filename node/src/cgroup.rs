//! Which container of which pod a process belongs to, from `/proc/PID/cgroup` (cgroups(7)).
//!
//! The kubelet and the runtimes name cgroups in two ways:
//!
//! ```text
//! cgroupfs  /kubepods/burstable/pod1a2b…-…/64 hexadecimal digits
//! systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b…_….slice/cri-containerd-64 digits.scope
//! ```
//!
//! Inside a cgroup namespace the path begins with `/..`, and common parents are left out. A container
//! can make cgroups below its own at most, so the first part that names a pod is the runtime's.

use std::fmt;

/// Longest text that is read; the longest real ones are below 4 KiB.
pub const MAX_BYTES: u64 = 64 << 10;

/// The uid of a pod, as the API server writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(String);

impl PodUid {
    /// A UUID in lower case (RFC 9562), or the 32 digits that the kubelet gives to static pods.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let shaped = lengths == [8, 4, 4, 4, 12] || lengths == [32];
        (shaped && parts.iter().all(|part| is_hex(part))).then(|| Self(text.to_owned()))
    }

    /// As the API server writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The runtime's id of a container: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Only the digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64 && is_hex(text)).then(|| Self(text.to_owned()))
    }

    /// As in a pod's status: `containerd://…`.
    #[must_use]
    pub fn of_status(text: &str) -> Option<Self> {
        Self::parse(text.split_once("://")?.1)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a process belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To no pod.
    Elsewhere,
    /// To a pod, and to this container of it; to none when it is a helper of the runtime's.
    Pod(PodUid, Option<ContainerId>),
    /// Its hierarchies say different things.
    Contradictory,
}

/// Reads the text of `/proc/PID/cgroup`.
#[must_use]
pub fn place(text: &str) -> Place {
    let mut found = Place::Elsewhere;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(_), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((pod, container)) = in_path(path) else {
            continue;
        };
        match &found {
            Place::Elsewhere => found = Place::Pod(pod, container),
            Place::Pod(known, same) if *known == pod && *same == container => {}
            _ => return Place::Contradictory,
        }
    }
    found
}

fn in_path(path: &str) -> Option<(PodUid, Option<ContainerId>)> {
    let mut parts = path.split('/');
    loop {
        let part = parts.next()?;
        if let Some(pod) = pod_of(part) {
            return Some((pod, parts.next().and_then(container_of)));
        }
        // What containerd makes of a systemd name where it was told to use cgroupfs.
        let mut fields = part.split(':');
        if let (Some(slice), Some("cri-containerd"), Some(id), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
            && let Some(pod) = pod_of(slice)
        {
            return Some((pod, ContainerId::parse(id)));
        }
    }
}

/// The pod that a part of the path names.
fn pod_of(part: &str) -> Option<PodUid> {
    if let Some(uid) = part.strip_prefix("pod") {
        return PodUid::parse(uid);
    }
    let (parents, uid) = part.strip_suffix(".slice")?.rsplit_once("-pod")?;
    // The kubelet's own slice may be below others: `kubelet-kubepods-burstable`.
    let classes = ["-besteffort", "-burstable"];
    let parents = classes
        .iter()
        .find_map(|class| parents.strip_suffix(class))
        .unwrap_or(parents);
    if parents != "kubepods" && !parents.ends_with("-kubepods") {
        return None;
    }
    // systemd takes a hyphen for a level of its own.
    if uid.contains('-') {
        return None;
    }
    PodUid::parse(&uid.replace('_', "-"))
}

/// The container that the next part names. Other things in a pod's cgroup, as CRI-O's monitor
/// `crio-conmon-…`, which is in the node's network namespace, are no container.
fn container_of(part: &str) -> Option<ContainerId> {
    match part.strip_suffix(".scope") {
        None => ContainerId::parse(part),
        Some(scope) => ["cri-containerd-", "crio-", "docker-"]
            .iter()
            .find_map(|runtime| ContainerId::parse(scope.strip_prefix(runtime)?)),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";
    const UNDERSCORED: &str = "1a2b3c4d_0000_4000_8000_0123456789ab";
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn of(container: Option<&str>) -> Place {
        let container = container.map(|id| ContainerId::parse(id).unwrap());
        Place::Pod(PodUid::parse(UID).unwrap(), container)
    }

    #[test]
    fn both_drivers_and_every_class_and_runtime_are_read() {
        for path in [
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/kubelet/kubepods/pod{UID}/{ID}"),
            format!("/docker/{ID}/kubelet/kubepods/pod{UID}/{ID}"),
            format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope"
            ),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/docker-{ID}.scope"
            ),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"
            ),
            format!(
                "/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}"
            ),
            // Below its own scope, where a container may have a cgroup namespace of its own.
            format!("/kubepods/pod{UID}/{ID}/container/app"),
        ] {
            assert_eq!(place(&format!("0::{path}\n")), of(Some(ID)), "{path}");
        }
    }

    #[test]
    fn a_path_seen_from_another_cgroup_namespace_is_read() {
        for path in [
            format!("/../../pod{UID}/{ID}"),
            format!("/../../../besteffort/pod{UID}/{ID}"),
            format!("/../../kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"),
        ] {
            assert_eq!(place(&format!("0::{path}\n")), of(Some(ID)), "{path}");
        }
    }

    #[test]
    fn every_hierarchy_of_the_first_version_must_say_the_same() {
        let text = format!(
            "12:pids:/kubepods/pod{UID}/{ID}\n2:cpu,cpuacct:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}\n0::/\n"
        );
        assert_eq!(place(&text), of(Some(ID)));
        let other = UID.replace('1', "2");
        let text = format!("2:cpu:/kubepods/pod{UID}/{ID}\n1:pids:/kubepods/pod{other}/{ID}\n");
        assert_eq!(place(&text), Place::Contradictory);
        let text = format!("2:cpu:/kubepods/pod{UID}/{ID}\n1:pids:/kubepods/pod{UID}\n");
        assert_eq!(place(&text), Place::Contradictory);
    }

    #[test]
    fn helpers_of_the_runtime_are_in_no_container() {
        for part in [
            format!("crio-conmon-{ID}.scope"),
            format!("other-{ID}.scope"),
            format!("{ID}.service"),
            "container".to_owned(),
        ] {
            let slice = format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/{part}");
            assert_eq!(place(&format!("0::{slice}")), of(None), "{part}");
        }
    }

    #[test]
    fn the_first_pod_of_a_path_counts_since_a_container_makes_cgroups_below_its_own_only() {
        let other = UID.replace('1', "2");
        let text = format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{other}/{ID}\n");
        assert_eq!(place(&text), of(Some(ID)));
    }

    #[test]
    fn what_only_looks_like_a_pod_is_none() {
        for path in [
            "/".to_owned(),
            "/init.scope".to_owned(),
            "/system.slice/kubelet.service".to_owned(),
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/kubepods/pod{}/{ID}", UID.to_uppercase()),
            format!("/kubepods/pod{UID}x/{ID}"),
            format!("/kubepods/pod{}/{ID}", &UID[1..]),
            format!("/kubepods/xpod{UID}/{ID}"),
            format!("/other-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope"),
            format!("/xkubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods-pod{UNDERSCORED}.scope/cri-containerd-{ID}.scope"),
        ] {
            assert_eq!(place(&format!("0::{path}\n")), Place::Elsewhere, "{path}");
        }
        assert_eq!(place(&format!("kubepods/pod{UID}/{ID}")), Place::Elsewhere);
    }

    #[test]
    fn an_id_of_a_status_names_its_runtime() {
        let id = ContainerId::parse(ID);
        assert_eq!(ContainerId::of_status(&format!("containerd://{ID}")), id);
        assert_eq!(ContainerId::of_status(&format!("cri-o://{ID}")), id);
        for text in [
            "",
            ID,
            "containerd://",
            "containerd://abc",
            "containerd:///x",
        ] {
            assert_eq!(ContainerId::of_status(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_container_appends_to_its_path_changes_nothing(tail in "[a-z0-9._:-]{0,40}(/[a-z0-9._:-]{0,80}){0,4}") {
            let path = format!("0::/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope/{tail}");
            prop_assert_eq!(place(&path), of(Some(ID)));
        }

        #[test]
        fn a_pod_is_found_only_where_its_uid_stands(text in "[ -~\n]{0,300}") {
            if let Place::Pod(pod, _) = place(&text) {
                let written = pod.as_str().to_owned();
                prop_assert!(text.contains(&written) || text.contains(&written.replace('-', "_")));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = place(&text);
            let _ = ContainerId::of_status(&text);
        }
    }
}
