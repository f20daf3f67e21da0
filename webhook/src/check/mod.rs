//! What an opted-in pod may not have, because the sidecar could be got around with it.

mod container;
mod mesh;
mod paths;
mod volume;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec, SeccompProfile};
use writ_api::is_reserved;

use crate::names;
use crate::probes::{self, Target};
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;

pub(crate) use container::WITHDRAWN_CAPABILITIES;

/// Settings of the kernel that a pod may choose: what Kubernetes takes for safe, of which none
/// changes where packets go.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Checks a pod without our own parts.
pub fn pod(pod: &Pod, settings: &Settings, refusals: &mut Refusals) {
    opted_in(pod, refusals);
    mesh::annotations(pod, refusals);
    let Some(spec) = &pod.spec else { return };
    namespaces(spec, refusals);
    surroundings(spec, refusals);
    if let Some(context) = &spec.security_context {
        identities(context, refusals);
    }
    volume::volumes(spec, settings, refusals);
    let inits = spec.init_containers.iter().flatten();
    let mut names = BTreeSet::new();
    for (kind, container) in inits
        .map(|container| ("initContainers", container))
        .chain(spec.containers.iter().map(|c| ("containers", c)))
    {
        let field = format!("spec.{kind}[{}]", container.name);
        if !names.insert(container.name.as_str()) {
            refusals.add(
                Code::DuplicateName,
                field.clone(),
                "another container has the name, and probes are told apart by it",
            );
        }
        mesh::container(&container.name, &field, refusals);
        container::check(container, &field, settings, refusals);
    }
    for ephemeral in spec.ephemeral_containers.iter().flatten() {
        refusals.add(
            Code::EphemeralContainers,
            format!("spec.ephemeralContainers[{}]", ephemeral.name),
            "an ephemeral container is not confined by the webhook",
        );
    }
}

/// Checks what the sidecar is to probe for the kubelet.
pub fn targets(targets: &[Target], settings: &Settings, refusals: &mut Refusals) {
    for target in targets {
        if probes::is_ours(target, |port| settings.ports.owns(port)) {
            refusals.add(
                Code::ReservedPort,
                format!(
                    "spec.containers{}",
                    target.path.trim_start_matches("/probe")
                ),
                "the probe asks a port of the sidecar's",
            );
        }
    }
}

fn opted_in(pod: &Pod, refusals: &mut Refusals) {
    let labels = pod.metadata.labels.as_ref();
    let field = format!("metadata.labels[{}]", names::INJECT);
    match labels.and_then(|labels| labels.get(names::INJECT)) {
        None => {}
        Some(value) if value == "true" => {}
        // The selectors send such a pod here only where it may not opt out.
        Some(value) if value == "false" => refusals.add(
            Code::OptOut,
            field,
            "this namespace does not let its pods go without the sidecar",
        ),
        Some(value) => refusals.add(
            Code::InjectValue,
            field,
            format!("{value:?} is neither \"true\" nor \"false\""),
        ),
    }
}

fn namespaces(spec: &PodSpec, refusals: &mut Refusals) {
    let mut refuse = |given: Option<bool>, bad: bool, code, field: &str, reason: &str| {
        if given == Some(bad) {
            refusals.add(code, format!("spec.{field}"), reason);
        }
    };
    refuse(
        spec.host_network,
        true,
        Code::HostNetwork,
        "hostNetwork",
        "the node's network cannot be redirected",
    );
    refuse(
        spec.host_pid,
        true,
        Code::HostPid,
        "hostPID",
        "the pod would see every process of the node, the sidecar's too",
    );
    refuse(
        spec.host_ipc,
        true,
        Code::HostIpc,
        "hostIPC",
        "what the pod writes there reaches other pods of the node, past the sidecar",
    );
    refuse(
        spec.share_process_namespace,
        true,
        Code::SharedProcessNamespace,
        "shareProcessNamespace",
        "the agent would see the sidecar's process and its files",
    );
    refuse(
        spec.host_users,
        false,
        Code::UserNamespace,
        "hostUsers",
        "a user namespace has the uids 0 to 65535, and the sidecar's is not among them",
    );
    let windows = |field: &str, refusals: &mut Refusals| {
        refusals.add(
            Code::Windows,
            format!("spec.{field}"),
            "traffic is redirected by the Linux kernel",
        );
    };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        windows("os.name", refusals);
    }
    let selects = spec.node_selector.as_ref();
    if selects
        .and_then(|labels| labels.get("kubernetes.io/os"))
        .is_some_and(|os| os != "linux")
    {
        windows("nodeSelector[kubernetes.io/os]", refusals);
    }
    let context = spec.security_context.as_ref();
    if context.is_some_and(|context| context.windows_options.is_some()) {
        windows("securityContext.windowsOptions", refusals);
    }
}

/// What the pod asks of its node besides namespaces.
fn surroundings(spec: &PodSpec, refusals: &mut Refusals) {
    let servers = spec.dns_config.iter().flat_map(|dns| &dns.nameservers);
    if servers.flatten().next().is_some() {
        refusals.add(
            Code::NameServers,
            "spec.dnsConfig.nameservers",
            "the sidecar would ask them too, and go where they send it",
        );
    }
    let context = spec.security_context.iter();
    for sysctl in context.flat_map(|context| &context.sysctls).flatten() {
        if !SYSCTLS.contains(&sysctl.name.as_str()) {
            refusals.add(
                Code::Sysctl,
                format!("spec.securityContext.sysctls[{}]", sysctl.name),
                "whether the redirection holds with it is not known",
            );
        }
    }
    for claim in spec.resource_claims.iter().flatten() {
        refusals.add(
            Code::Device,
            format!("spec.resourceClaims[{}]", claim.name),
            "what device it brings is not in the pod, and could reach the network by itself",
        );
    }
}

fn identities(context: &PodSecurityContext, refusals: &mut Refusals) {
    user(context.run_as_user, "spec.securityContext", refusals);
    seccomp(&context.seccomp_profile, "spec.securityContext", refusals);
    let groups = [
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ];
    for (name, id) in groups {
        group(id, name, "spec.securityContext", refusals);
    }
    for id in context.supplemental_groups.iter().flatten() {
        group(
            Some(*id),
            "supplementalGroups",
            "spec.securityContext",
            refusals,
        );
    }
}

fn user(id: Option<i64>, within: &str, refusals: &mut Refusals) {
    if let Some(id) = id.filter(|id| is_reserved(*id)) {
        refusals.add(
            Code::ReservedUser,
            format!("{within}.runAsUser"),
            format!("{id} is among the uids that sidecars run as, whose traffic is not redirected"),
        );
    }
}

fn seccomp(profile: &Option<SeccompProfile>, within: &str, refusals: &mut Refusals) {
    if profile.as_ref().is_some_and(|p| p.type_ == "Unconfined") {
        refusals.add(
            Code::Seccomp,
            format!("{within}.seccompProfile"),
            "sockets of other families than IP, such as those to the hypervisor, are not redirected",
        );
    }
}

fn group(id: Option<i64>, name: &str, within: &str, refusals: &mut Refusals) {
    if let Some(id) = id.filter(|id| is_reserved(*id)) {
        refusals.add(
            Code::ReservedGroup,
            format!("{within}.{name}"),
            format!("{id} is among the gids that sidecars run as"),
        );
    }
}
