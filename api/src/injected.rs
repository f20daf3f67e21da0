//! The form of an injected pod: the webhook makes it, the node agent acts on it, the operator and the
//! command line find it.

/// Annotation that the webhook writes: the version of the injected form.
pub const INJECTED: &str = "writ.dev/injected";
/// The version of the injected form.
pub const INJECTED_VERSION: &str = "1";
/// Annotation that the webhook writes, where the node agent is to install the redirection.
pub const REDIRECT: &str = "writ.dev/redirect";
/// What that annotation says.
pub const REDIRECT_BY_NODE: &str = "node";

/// The init container that redirects the pod's traffic, or waits until it is redirected.
pub const INIT: &str = "writ-init";
/// The arguments of one that waits for the node agent.
pub const INIT_BY_NODE: [&str; 3] = ["init", "--by", "node"];
/// The sidecar: the injected container that decides.
pub const SIDECAR: &str = "writ-sidecar";
/// The node agent's CSI driver, by which the sidecar may get SPIRE's socket.
pub const NODE_DRIVER: &str = "workload-api.writ.dev";
/// Volume with the sidecar's configuration.
pub const CONFIG_VOLUME: &str = "writ-config";

/// The lowest uid that sidecars draw from. Above what platforms allocate, so that it is free, and
/// below 2^31-1, the highest that Kubernetes takes.
pub const FIRST_UID: u32 = 2_000_000_000;
/// The highest uid that sidecars draw from.
pub const LAST_UID: u32 = 2_147_483_646;
/// The uid and gid of the init container that waits for the node agent: the highest that Kubernetes
/// takes, which no sidecar draws, and which no other container may have either.
pub const INIT_UID: u32 = LAST_UID + 1;

/// The only capabilities that an application's container may add: with each other the kernel, the
/// node's files or the network could be reached.
const ADDABLE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETPCAP",
    "SYS_CHROOT",
    "SYS_NICE",
];

/// The uid of a sidecar, if `id` is in the range that they draw from.
#[must_use]
pub fn drawn_uid(id: i64) -> Option<u32> {
    let id = u32::try_from(id).ok()?;
    (FIRST_UID..=LAST_UID).contains(&id).then_some(id)
}

/// Whether no container of the application may have this uid or gid: it is from where sidecars draw
/// theirs, or above.
#[must_use]
pub fn is_reserved(id: i64) -> bool {
    id >= i64::from(FIRST_UID)
}

/// Whether an application's container may add this capability.
#[must_use]
pub fn is_addable(capability: &str) -> bool {
    ADDABLE_CAPABILITIES.contains(&bare_capability(capability).as_str())
}

/// A capability's name in capitals and without `CAP_`: runtimes take it in any of these forms.
#[must_use]
pub fn bare_capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_")
        .map_or(name.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_draw_below_the_uid_of_the_container_that_waits() {
        let range = [FIRST_UID, LAST_UID];
        assert_eq!(range.map(|uid| drawn_uid(uid.into())), range.map(Some));
        for id in [-1, 0, 1_999_999_999, i64::from(INIT_UID), i64::MAX] {
            assert_eq!(drawn_uid(id), None, "{id}");
        }
        assert!(is_reserved(INIT_UID.into()) && is_reserved(FIRST_UID.into()));
        assert!(!is_reserved(i64::from(FIRST_UID) - 1));
    }

    #[test]
    fn capabilities_are_known_in_every_form_and_unknown_ones_may_not_be_added() {
        for name in ["CHOWN", "cap_chown", "CAP_CHOWN"] {
            assert!(is_addable(name), "{name}");
        }
        for name in ["NET_ADMIN", "cap_net_raw", "SYS_ADMIN", "ALL", "", "CAP_"] {
            assert!(!is_addable(name), "{name}");
        }
    }
}
