//! An earlier injection, taken out again: the API server calls the webhook once more when another
//! one changed the pod in between, and calls it for copies of injected pods.
//!
//! Only what the webhook itself would have made is taken out; anything else with a name of ours is
//! refused. The uid is never taken over: a caller that could choose it would run as the sidecar.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::parts;
use crate::names;
use crate::overrides::Overrides;
use crate::probes::{self, Target};
use crate::refusal::{Code, Refusals};
use crate::settings::{Settings, is_reserved};

/// What the API server's own plugins added to our containers; it stays when they are made anew.
#[derive(Debug, Default)]
pub struct Carried {
    init: Additions,
    sidecar: Additions,
}

#[derive(Debug, Default)]
struct Additions {
    token: Vec<VolumeMount>,
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
    /// Takes the service account's token and defaults of a LimitRange out of `container`.
    fn take(container: &mut Container, made: &Container) -> Self {
        let mut additions = Self::default();
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
    let uid = sidecar.security_context.as_ref()?.run_as_user?;
    u32::try_from(uid).ok().filter(|_| is_reserved(uid))
}

/// Takes everything of ours out of `pod`.
pub fn remove(
    pod: &mut Pod,
    settings: &Settings,
    overrides: &Overrides,
    refusals: &mut Refusals,
) -> Carried {
    let uid = sidecar_uid(pod);
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(names::INJECTED);
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
    // As they were made then: with the uid of then, and the probes that were known then.
    let then = settings.with_uid(uid.unwrap_or(settings.uid));
    for (name, mut container) in found {
        let (made, slot) = if name == names::INIT {
            (parts::init(&then), &mut carried.init)
        } else {
            let declared = probes::declared(&container).map(str::to_owned);
            targets = declared.as_deref().map(probes::decode).unwrap_or_default();
            (
                parts::sidecar(&then, overrides, declared),
                &mut carried.sidecar,
            )
        };
        *slot = Additions::take(&mut container, &made);
        if uid.is_none() || container != made {
            refuse("initContainers", &name);
        }
    }
    remove_volumes(pod, &then, refusals);
    restore_probes(pod, settings, &targets, refusals);
    carried
}

fn remove_volumes(pod: &mut Pod, then: &Settings, refusals: &mut Refusals) {
    let Some(spec) = &mut pod.spec else { return };
    let Some(volumes) = &mut spec.volumes else {
        return;
    };
    let made = parts::volumes(then);
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
