//! What the application's containers get.

use k8s_openapi::api::core::v1::{Container, SeccompProfile};
use writ_api::bare_capability;

use super::parts;
use crate::check::WITHDRAWN_CAPABILITIES;
use crate::names;

/// A file owned by the sidecar's uid would defeat matching by uid, and some of the runtime's own
/// capabilities would too (design, section 9). The runtime's seccomp profile, where the `pod` has
/// none, leaves no sockets that the rules do not see.
pub(super) fn lock_down(container: &mut Container, pod: Option<&SeccompProfile>) {
    let context = container.security_context.get_or_insert_default();
    if pod.is_none() {
        context
            .seccomp_profile
            .get_or_insert_with(parts::runtime_default);
    }
    context.allow_privilege_escalation.get_or_insert(false);
    let capabilities = context.capabilities.get_or_insert_default();
    let drop = capabilities.drop.get_or_insert_default();
    let dropped = |drop: &[String], name: &str| {
        drop.iter()
            .map(|dropped| bare_capability(dropped))
            .any(|dropped| dropped == "ALL" || dropped == name)
    };
    for name in WITHDRAWN_CAPABILITIES {
        if !dropped(drop, name) {
            drop.push(name.to_owned());
        }
    }
}

/// Lets the container read the trust bundle, and tells its TLS library where it is.
pub(super) fn trust(container: &mut Container) {
    let mounts = container.volume_mounts.get_or_insert_default();
    let mount = parts::trust_mount();
    if !mounts.contains(&mount) {
        mounts.push(mount);
    }
    let env = container.env.get_or_insert_default();
    for name in names::TRUST_VARIABLES {
        if !env.iter().any(|variable| variable.name == name) {
            env.push(parts::variable(name, names::TRUST_BUNDLE));
        }
    }
}
