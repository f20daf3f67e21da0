//! An earlier injection, taken out again: the API server calls the webhook once more when another
//! one changed the pod in between, and calls it for copies of injected pods.
//!
//! A container of ours is known by its name, image and arguments; it is made anew, whatever another
//! webhook put into it. Anything else with a name of ours is refused. The uid is never taken over: a
//! caller that could choose it would run as the sidecar.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use writ_api::drawn_uid;

use super::parts;
use crate::names;
use crate::overrides::Overrides;
use crate::probes::{self, Target};
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;

/// What the API server's own plugins added to our containers; it stays when they are made anew.
#[derive(Debug, Default)]
pub struct Carried {
    init: Additions,
    sidecar: Additions,
}

#[derive(Debug, Default)]
struct Additions {
    token: Vec<VolumeMount>,
    pull_policy: Option<String>,
    requests: BTreeMap<String, Quantity>,
    limits: BTreeMap<String, Quantity>,
}

impl Carried {
    /// Puts the additions on containers just made.
    pub fn onto(&self, init: &mut Container, sidecar: &mut Container) {
        self.init.onto(init);
        self.sidecar.onto(sidecar);
    }
}

impl Additions {
    /// Takes from `container` what is not in `made`: the service account's token, a LimitRange's
    /// defaults, and the pull policy of a cluster that always pulls.
    fn take(container: &mut Container, made: &Container) -> Self {
        let mut additions = Self {
            pull_policy: container
                .image_pull_policy
                .take_if(|policy| policy == "Always"),
            ..Self::default()
        };
        if let Some(mounts) = &mut container.volume_mounts {
            let is_token = |mount: &VolumeMount| {
                mount.mount_path == names::TOKEN_PATH
                    && mount.read_only == Some(true)
                    && mount.sub_path.is_none()
                    && !names::is_our_volume(&mount.name)
            };
            additions.token = mounts.extract_if(.., |mount| is_token(mount)).collect();
        }
        let Some(resources) = &mut container.resources else {
            return additions;
        };
        let made = made.resources.clone().unwrap_or_default();
        additions.requests = take_others(&mut resources.requests, made.requests);
        additions.limits = take_others(&mut resources.limits, made.limits);
        additions
    }

    fn onto(&self, container: &mut Container) {
        if let Some(policy) = &self.pull_policy {
            container.image_pull_policy = Some(policy.clone());
        }
        let mounts = container.volume_mounts.get_or_insert_default();
        mounts.extend(self.token.iter().cloned());
        let ResourceRequirements {
            requests, limits, ..
        } = container.resources.get_or_insert_default();
        for (into, from) in [(requests, &self.requests), (limits, &self.limits)] {
            let into = into.get_or_insert_default();
            for (name, quantity) in from {
                into.entry(name.clone()).or_insert_with(|| quantity.clone());
            }
        }
    }
}

fn take_others(
    quantities: &mut Option<BTreeMap<String, Quantity>>,
    made: Option<BTreeMap<String, Quantity>>,
) -> BTreeMap<String, Quantity> {
    let made = made.unwrap_or_default();
    let Some(quantities) = quantities else {
        return BTreeMap::new();
    };
    let (own, others) = std::mem::take(quantities)
        .into_iter()
        .partition(|(name, _)| made.contains_key(name));
    *quantities = own;
    others
}

/// The uid of the sidecar in `pod`, when there is one and it is from the range.
#[must_use]
pub fn sidecar_uid(pod: &Pod) -> Option<u32> {
    let containers = pod.spec.as_ref()?.init_containers.as_ref()?;
    let sidecar = containers.iter().find(|c| c.name == names::SIDECAR)?;
    drawn_uid(sidecar.security_context.as_ref()?.run_as_user?)
}

/// Takes everything of ours out of `pod`.
pub fn remove(
    pod: &mut Pod,
    settings: &Settings,
    overrides: &Overrides,
    refusals: &mut Refusals,
) -> Carried {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(names::INJECTED);
        annotations.remove(names::REDIRECT);
        if annotations.is_empty() {
            pod.metadata.annotations = None;
        }
    }
    let Some(spec) = &mut pod.spec else {
        return Carried::default();
    };
    let mut refuse = |kind: &str, name: &str| {
        refusals.add(
            Code::ReservedName,
            format!("spec.{kind}[{name}]"),
            "the name is the webhook's, and it did not make this container",
        );
    };
    for container in spec
        .containers
        .extract_if(.., |c| names::is_our_container(&c.name))
    {
        refuse("containers", &container.name);
    }
    let mut found = BTreeMap::new();
    if let Some(containers) = &mut spec.init_containers {
        for container in containers.extract_if(.., |c| names::is_our_container(&c.name)) {
            let name = container.name.clone();
            if found.insert(name.clone(), container).is_some() {
                refuse("initContainers", &name);
            }
        }
        if containers.is_empty() {
            spec.init_containers = None;
        }
    }
    let mut carried = Carried::default();
    let mut targets = Vec::new();
    for (name, mut container) in found {
        let (made, slot) = if name == names::INIT {
            (parts::init(settings), &mut carried.init)
        } else {
            let declared = probes::declared(&container);
            targets = declared.map(probes::decode).unwrap_or_default();
            (
                parts::sidecar(settings, overrides, parts::Declared::default()),
                &mut carried.sidecar,
            )
        };
        if (&container.image, &container.command, &container.args)
            != (&made.image, &made.command, &made.args)
        {
            refuse("initContainers", &name);
        }
        *slot = Additions::take(&mut container, &made);
    }
    remove_volumes(pod, settings, refusals);
    restore_probes(pod, settings, &targets, refusals);
    carried
}

fn remove_volumes(pod: &mut Pod, settings: &Settings, refusals: &mut Refusals) {
    let Some(spec) = &mut pod.spec else { return };
    let Some(volumes) = &mut spec.volumes else {
        return;
    };
    let made = parts::volumes(settings);
    for volume in volumes.extract_if(.., |volume| names::is_our_volume(&volume.name)) {
        if !made.contains(&volume) {
            refusals.add(
                Code::ReservedVolume,
                format!("spec.volumes[{}]", volume.name),
                "the name is the webhook's, and it did not make this volume",
            );
        }
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
}

fn restore_probes(pod: &mut Pod, settings: &Settings, targets: &[Target], refusals: &mut Refusals) {
    let Some(spec) = &mut pod.spec else { return };
    let inits = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(inits) {
        probes::restore(container, settings.ports.status, targets, refusals);
    }
}
