//! What a pod asks of the node agent. No I/O.
//!
//! Whoever writes a pod controls everything in it that the webhook does not make. So this reads the
//! form that the webhook makes, and takes every deviation for a refusal.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec};
use writ_api::{
    INIT, INIT_BY_NODE, INIT_UID, INJECTED, INJECTED_VERSION, REDIRECT, REDIRECT_BY_NODE, SIDECAR,
    drawn_uid, is_addable, is_reserved,
};
use writ_redirect::{Ipv6, Ports, Redirect, variables};

use crate::cgroup::{ContainerId, PodUid};

/// Most containers that are looked at; the API server takes far fewer.
const MAX_CONTAINERS: usize = 1024;

/// Where our images come from, without tags and digests: pods of the release before are served too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repositories {
    init: String,
    sidecar: String,
}

impl Repositories {
    /// The repositories of these images.
    #[must_use]
    pub fn of(init: &str, sidecar: &str) -> Self {
        Self {
            init: repository(init).to_owned(),
            sidecar: repository(sidecar).to_owned(),
        }
    }
}

/// What to install, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The pod.
    pub pod: PodUid,
    /// The container that waits.
    pub container: ContainerId,
    /// The rules.
    pub redirect: Redirect,
}

/// What to do about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is not the node agent's business.
    Other,
    /// Its init container does not run.
    Idle,
    /// Its init container runs, and waits.
    Install(Box<Task>),
    /// It is not as the webhook makes pods.
    Refused(Refusal),
}

/// What is not as the webhook makes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field} {reason}; the webhook made no such pod, so it stays unredirected and does not start"
)]
pub struct Refusal {
    /// Where in the pod.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        field: field.into(),
        reason: reason.into(),
    })
}

fn require(holds: bool, field: &str, reason: &str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { refuse(field, reason) }
}

/// What to do about `pod`, seen on `node`.
#[must_use]
pub fn decide(pod: &Pod, node: &str, repositories: &Repositories) -> Decision {
    let annotations = pod.metadata.annotations.as_ref();
    if !annotations.is_some_and(|annotations| annotations.contains_key(REDIRECT)) {
        return Decision::Other;
    }
    let Some(container) = running(pod) else {
        return Decision::Idle;
    };
    match task(pod, node, repositories, container) {
        Ok(task) => Decision::Install(Box::new(task)),
        Err(refusal) => Decision::Refused(refusal),
    }
}

/// The id of the init container, while it runs.
fn running(pod: &Pod) -> Option<&str> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == INIT)?;
    status.state.as_ref()?.running.as_ref()?;
    status.container_id.as_deref()
}

fn task(
    pod: &Pod,
    node: &str,
    repositories: &Repositories,
    container: &str,
) -> Result<Task, Refusal> {
    for (name, value) in [(REDIRECT, REDIRECT_BY_NODE), (INJECTED, INJECTED_VERSION)] {
        let annotations = pod.metadata.annotations.as_ref();
        let given = annotations.and_then(|annotations| annotations.get(name));
        let field = format!("metadata.annotations[{name}]");
        let reason = format!("must be {value:?}");
        require(given.is_some_and(|given| given == value), &field, &reason)?;
    }
    let uid = pod.metadata.uid.as_deref().and_then(PodUid::parse);
    let Some(uid) = uid else {
        return refuse("metadata.uid", "is no UUID");
    };
    let Some(container) = ContainerId::of_status(container) else {
        return refuse("status", "names the init container by no known id");
    };
    let Some(spec) = &pod.spec else {
        return refuse("spec", "is missing");
    };
    let here = spec.node_name.as_deref() == Some(node);
    require(here, "spec.nodeName", "is another node")?;
    surroundings(spec)?;
    let (init, sidecar) = ours(spec)?;
    init_container(init, repositories)?;
    let uid_of_sidecar = sidecar_container(sidecar, repositories)?;
    others(spec)?;
    Ok(Task {
        pod: uid,
        container,
        redirect: redirect(init.env.as_deref().unwrap_or_default(), uid_of_sidecar)?,
    })
}

/// The pod has a network namespace of its own, and no user namespace.
fn surroundings(spec: &PodSpec) -> Result<(), Refusal> {
    for (field, given, bad) in [
        ("hostNetwork", spec.host_network, true),
        ("hostPID", spec.host_pid, true),
        ("hostIPC", spec.host_ipc, true),
        ("shareProcessNamespace", spec.share_process_namespace, true),
        ("hostUsers", spec.host_users, false),
    ] {
        require(given != Some(bad), &format!("spec.{field}"), "is set")?;
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().next();
    require(ephemeral.is_none(), "spec.ephemeralContainers", "are set")
}

/// The two containers of ours: the first, and no others.
fn ours(spec: &PodSpec) -> Result<(&Container, &Container), Refusal> {
    let field = "spec.initContainers";
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let total = inits.len() + spec.containers.len();
    require(total <= MAX_CONTAINERS, "spec", "has too many containers")?;
    let [init, sidecar, ..] = inits else {
        return refuse(field, "lack writ-init and writ-sidecar");
    };
    let first = init.name == INIT && sidecar.name == SIDECAR;
    require(first, field, "do not begin with writ-init and writ-sidecar")?;
    let named = all(spec).filter(|c| c.name == INIT || c.name == SIDECAR);
    require(
        named.count() == 2,
        "spec",
        "has containers with names of ours twice",
    )?;
    Ok((init, sidecar))
}

fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers)
}

fn init_container(init: &Container, repositories: &Repositories) -> Result<(), Refusal> {
    let field = |name: &str| format!("spec.initContainers[{INIT}].{name}");
    let image = init.image.as_deref().map(repository);
    let known = image == Some(repositories.init.as_str());
    require(known, &field("image"), "is not Writ's")?;
    let given = init.args.iter().flatten().map(String::as_str);
    let args = given.eq(INIT_BY_NODE) && init.command.is_none();
    require(
        args,
        &field("args"),
        "are not those of a container that waits",
    )?;
    let plain = init.env_from.iter().flatten().next().is_none()
        && init.restart_policy.is_none()
        && init.lifecycle.is_none();
    require(
        plain,
        &field("env"),
        "comes from elsewhere, or the container has a life of its own",
    )?;
    confined(init, INIT_UID, &field("securityContext"))
}

/// Returns the sidecar's uid.
fn sidecar_container(sidecar: &Container, repositories: &Repositories) -> Result<u32, Refusal> {
    let field = |name: &str| format!("spec.initContainers[{SIDECAR}].{name}");
    let image = sidecar.image.as_deref().map(repository);
    let known = image == Some(repositories.sidecar.as_str());
    require(known, &field("image"), "is not Writ's")?;
    let runs = sidecar.args.iter().flatten().next().map(String::as_str) == Some("run")
        && sidecar.command.is_none()
        && sidecar.restart_policy.as_deref() == Some("Always");
    require(runs, &field("args"), "are not those of a sidecar")?;
    let context = sidecar.security_context.as_ref();
    let uid = context.and_then(|context| context.run_as_user);
    let uid = uid.and_then(drawn_uid);
    let Some(uid) = uid else {
        return refuse(
            field("securityContext.runAsUser"),
            "is not drawn by the webhook",
        );
    };
    confined(sidecar, uid, &field("securityContext"))?;
    Ok(uid)
}

/// As the webhook confines our own containers.
fn confined(container: &Container, uid: u32, field: &str) -> Result<(), Refusal> {
    let uid = i64::from(uid);
    let Some(context) = &container.security_context else {
        return refuse(field, "is missing");
    };
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let dropped = capabilities.drop.unwrap_or_default() == ["ALL"];
    let added = capabilities.add.unwrap_or_default();
    let holds = context.run_as_user == Some(uid)
        && context.run_as_group == Some(uid)
        && context.run_as_non_root == Some(true)
        && context.allow_privilege_escalation == Some(false)
        && context.privileged != Some(true)
        && context.read_only_root_filesystem == Some(true)
        && dropped
        && added.is_empty();
    require(holds, field, "is not the webhook's")
}

/// No other container runs as one of ours, or could change what is installed.
fn others(spec: &PodSpec) -> Result<(), Refusal> {
    let reserved = |uid: Option<i64>| uid.is_some_and(is_reserved);
    let whole = spec.security_context.as_ref();
    let whole = whole.and_then(|context| context.run_as_user);
    require(
        !reserved(whole),
        "spec.securityContext.runAsUser",
        "is reserved",
    )?;
    for container in all(spec).filter(|c| c.name != INIT && c.name != SIDECAR) {
        let field = format!("spec.containers[{}].securityContext", container.name);
        let Some(context) = &container.security_context else {
            return refuse(field, "is missing");
        };
        let capabilities = context.capabilities.clone().unwrap_or_default();
        let added = capabilities.add.unwrap_or_default();
        let holds = !reserved(context.run_as_user)
            && context.privileged != Some(true)
            && context.allow_privilege_escalation == Some(false)
            && added.iter().all(|name| is_addable(name));
        require(holds, &field, "is not confined as the webhook would")?;
    }
    Ok(())
}

/// The rules, of a closed list of variables with plain values, each at most once.
fn redirect(env: &[EnvVar], sidecar: u32) -> Result<Redirect, Refusal> {
    let mut values = Values::read(env)?;
    let uid: u32 = number(values.take(variables::SIDECAR_UID)?)?;
    let field = variable(variables::SIDECAR_UID);
    require(uid == sidecar, &field, "is not the sidecar's runAsUser")?;
    let ipv6 = match values.take(variables::IPV6)? {
        (_, "on") => Ipv6::On,
        (_, "off") => Ipv6::Off,
        (field, _) => return refuse(field, "is neither on nor off"),
    };
    let ports = Ports {
        outbound: number(values.take(variables::OUTBOUND_PORT)?)?,
        inbound: number(values.take(variables::INBOUND_PORT)?)?,
        status: number(values.take(variables::ADMIN_PORT)?)?,
        local_api: number(values.take(variables::API_PORT)?)?,
        dns: number(values.take(variables::DNS_PORT)?)?,
    };
    values.take(variables::NAMES)?;
    let local = match values.take_if_any(variables::LOCAL_PORTS) {
        None => Vec::new(),
        Some((field, list)) => list
            .split(',')
            .map(|port| number((field.clone(), port)))
            .collect::<Result<Vec<u16>, _>>()?,
    };
    values.nothing_left()?;
    Redirect::new(uid)
        .and_then(|redirect| redirect.with_ports(ports))
        .and_then(|redirect| redirect.with_local_ports(local))
        .map(|redirect| redirect.with_ipv6(ipv6))
        .or_else(|error| {
            refuse(
                format!("spec.initContainers[{INIT}].env"),
                error.to_string(),
            )
        })
}

fn variable(name: &str) -> String {
    format!("spec.initContainers[{INIT}].env[{name}]")
}

/// Variables that were not read yet.
struct Values<'a>(std::collections::BTreeMap<&'a str, &'a str>);

impl<'a> Values<'a> {
    fn read(env: &'a [EnvVar]) -> Result<Self, Refusal> {
        let mut values = std::collections::BTreeMap::new();
        for EnvVar {
            name,
            value,
            value_from,
        } in env
        {
            let (Some(value), None) = (value, value_from) else {
                return refuse(variable(name), "has no plain value");
            };
            if values.insert(name.as_str(), value.as_str()).is_some() {
                return refuse(variable(name), "is there twice");
            }
        }
        Ok(Self(values))
    }

    fn take(&mut self, name: &str) -> Result<(String, &'a str), Refusal> {
        let found = self.take_if_any(name);
        found.map_or_else(|| refuse(variable(name), "is missing"), Ok)
    }

    fn take_if_any(&mut self, name: &str) -> Option<(String, &'a str)> {
        self.0.remove(name).map(|value| (variable(name), value))
    }

    fn nothing_left(&self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => refuse(variable(name), "is not the webhook's"),
        }
    }
}

/// A number as the webhook writes it: digits, no sign, no leading zero.
fn number<T: std::str::FromStr>((field, text): (String, &str)) -> Result<T, Refusal> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse().ok()).flatten();
    number.map_or_else(
        || refuse(field, format!("{text:?} is no number that fits")),
        Ok,
    )
}

/// An image's name without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let last = image.rfind('/').map_or(0, |slash| slash + 1);
    let tag = image.get(last..).and_then(|name| name.find(':'));
    tag.and_then(|colon| image.get(..last + colon))
        .unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_repository_is_its_name_without_tag_and_digest() {
        for image in [
            "localhost:5000/writ/writ-init",
            "localhost:5000/writ/writ-init:0.1.0",
            "localhost:5000/writ/writ-init@sha256:00",
            "localhost:5000/writ/writ-init:0.1.0@sha256:00",
        ] {
            assert_eq!(
                repository(image),
                "localhost:5000/writ/writ-init",
                "{image}"
            );
        }
        assert_eq!(repository("writ-init:1"), "writ-init");
        assert_ne!(repository("evil/writ-init:1"), "writ-init");
    }
}
