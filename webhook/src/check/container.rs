//! What one container may not have.

use k8s_openapi::api::core::v1::{Container, SecurityContext};
use writ_api::is_addable;

use super::volume::is_sidecars;
use super::{group, paths, seccomp, user};
use crate::inject::trust_mount;
use crate::names;
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;

/// Taken from every container of the application: to become the sidecar's uid, to change the
/// rules, to send past them, to read the sidecar's memory.
pub(crate) const WITHDRAWN_CAPABILITIES: [&str; 5] =
    ["SETUID", "SETGID", "NET_ADMIN", "NET_RAW", "SYS_PTRACE"];

pub(super) fn check(
    container: &Container,
    field: &str,
    settings: &Settings,
    refusals: &mut Refusals,
) {
    if let Some(context) = &container.security_context {
        security(context, &format!("{field}.securityContext"), refusals);
    }
    for port in container.ports.iter().flatten() {
        if u16::try_from(port.container_port).is_ok_and(|port| settings.ports.owns(port)) {
            refusals.add(
                Code::ReservedPort,
                format!("{field}.ports"),
                format!("{} is the sidecar's", port.container_port),
            );
        }
    }
    mounts(container, field, refusals);
    devices(container, field, settings, refusals);
    configuration(container, field, settings, refusals);
}

fn security(context: &SecurityContext, field: &str, refusals: &mut Refusals) {
    if context.privileged == Some(true) {
        refusals.add(
            Code::Privileged,
            format!("{field}.privileged"),
            "a privileged container can change the redirection and read the sidecar",
        );
    }
    if context.allow_privilege_escalation == Some(true) {
        refusals.add(
            Code::PrivilegeEscalation,
            format!("{field}.allowPrivilegeEscalation"),
            "a set-user-ID file could take the sidecar's uid",
        );
    }
    if context
        .proc_mount
        .as_deref()
        .is_some_and(|m| m != "Default")
    {
        refusals.add(
            Code::ProcMount,
            format!("{field}.procMount"),
            "the kernel's settings would be writable",
        );
    }
    if context.windows_options.is_some() {
        refusals.add(
            Code::Windows,
            format!("{field}.windowsOptions"),
            "traffic is redirected by the Linux kernel",
        );
    }
    let capabilities = context.capabilities.iter().flat_map(|c| &c.add).flatten();
    for capability in capabilities {
        if !is_addable(capability) {
            refusals.add(
                Code::Capability,
                format!("{field}.capabilities.add[{capability}]"),
                "with it the redirection can be changed or got around",
            );
        }
    }
    seccomp(&context.seccomp_profile, field, refusals);
    user(context.run_as_user, field, refusals);
    group(context.run_as_group, "runAsGroup", field, refusals);
}

fn mounts(container: &Container, field: &str, refusals: &mut Refusals) {
    let trust = trust_mount();
    for mount in container.volume_mounts.iter().flatten() {
        if *mount == trust {
            continue;
        }
        if names::is_our_volume(&mount.name) {
            refusals.add(
                Code::ReservedVolume,
                format!("{field}.volumeMounts[{}]", mount.name),
                "the volume is the sidecar's",
            );
        } else if paths::within(&mount.mount_path, names::TRUST_PATH) {
            // A volume at /run is usual, and ours is mounted onto it; one at the very place is not.
            refusals.add(
                Code::ReservedPath,
                format!("{field}.volumeMounts[{}].mountPath", mount.name),
                format!("{} is where the trust bundle stands", names::TRUST_PATH),
            );
        }
    }
    for device in container.volume_devices.iter().flatten() {
        if names::is_our_volume(&device.name) {
            refusals.add(
                Code::ReservedVolume,
                format!("{field}.volumeDevices[{}]", device.name),
                "the volume is the sidecar's",
            );
        }
    }
}

/// The sidecar's configuration holds the salts that hide names on the chain.
fn configuration(container: &Container, field: &str, settings: &Settings, refusals: &mut Refusals) {
    let from = container.env_from.iter().flatten();
    let whole = from.filter_map(|from| Some(from.config_map_ref.as_ref()?.name.as_str()));
    let single = container.env.iter().flatten().filter_map(|variable| {
        let source = variable.value_from.as_ref()?;
        Some(source.config_map_key_ref.as_ref()?.name.as_str())
    });
    if let Some(name) = whole.chain(single).find(|name| is_sidecars(name, settings)) {
        refusals.add(
            Code::SidecarConfig,
            format!("{field}.env"),
            format!("the ConfigMap {name} is a sidecar's"),
        );
    }
}

/// A device plugin mounts devices, and some network devices are driven past the kernel.
fn devices(container: &Container, field: &str, settings: &Settings, refusals: &mut Refusals) {
    let Some(resources) = &container.resources else {
        return;
    };
    let asked = resources.limits.iter().chain(&resources.requests).flatten();
    for (name, _) in asked.filter(|(name, _)| name.contains('/')) {
        if !settings.devices.iter().any(|known| name.starts_with(known)) {
            refusals.add(
                Code::Device,
                format!("{field}.resources[{name}]"),
                "such a device could reach the network by itself, past the redirection",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_inside_our_place_is_found_in_any_spelling() {
        for path in [
            "/run/writ/trust",
            "/run//writ/./trust/",
            "/var/run/writ/trust",
            "/run/writ/trust/x",
        ] {
            assert!(paths::within(path, names::TRUST_PATH), "{path}");
        }
        for path in ["/run", "/run/writ", "/run/writ/trusted", "/etc"] {
            assert!(!paths::within(path, names::TRUST_PATH), "{path}");
        }
    }
}
