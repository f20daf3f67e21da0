//! Injection: a pod and the settings in, the pod with the sidecar or all its refusals out.

mod apps;
mod parts;
mod previous;

use k8s_openapi::api::core::v1::Pod;

use crate::check;
use crate::names;
use crate::overrides::Overrides;
use crate::probes;
use crate::refusal::{Code, Refusals};
use crate::scrapes;
use crate::settings::{RedirectBy, Settings, Trust};

use parts::Declared;
pub(crate) use parts::trust_mount;
pub use previous::sidecar_uid;

/// Puts the sidecar and the redirection into `pod`.
///
/// An earlier injection is replaced, so that the result is the same however often it is done, and
/// whatever another webhook added in between is covered too.
///
/// # Errors
/// Every reason why the sidecar could be got around, or could not work; all at once.
pub fn inject(mut pod: Pod, settings: &Settings) -> Result<Pod, Refusals> {
    let (overrides, mut refusals) = Overrides::read(&pod);
    let carried = previous::remove(&mut pod, settings, &overrides, &mut refusals);
    check::pod(&pod, settings, &mut refusals);
    let scrapes = scrapes::declared(&pod, settings, &mut refusals);

    let Some(spec) = &mut pod.spec else {
        refusals.add(Code::Malformed, "spec", "the pod has none");
        return Err(refusals);
    };
    let context = spec.security_context.as_ref();
    let seccomp = context.and_then(|context| context.seccomp_profile.clone());
    let mut targets = Vec::new();
    let admin = settings.ports.status;
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers) {
        apps::lock_down(container, seccomp.as_ref());
        if settings.trust == Trust::Bundle {
            apps::trust(container);
        }
        probes::rewrite(container, admin, &mut targets, &mut refusals);
    }
    check::targets(&targets, settings, &mut refusals);
    let declared = Declared {
        probes: probes::encode(&targets, &mut refusals),
        scrapes,
    };

    let mut init = parts::init(settings);
    let mut sidecar = parts::sidecar(settings, &overrides, declared);
    carried.onto(&mut init, &mut sidecar);
    let mut inits = vec![init, sidecar];
    inits.extend(spec.init_containers.take().into_iter().flatten());
    spec.init_containers = Some(inits);
    let mut volumes = parts::volumes(settings);
    volumes.extend(spec.volumes.take().into_iter().flatten());
    spec.volumes = Some(volumes);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(
        names::INJECTED.to_owned(),
        names::INJECTED_VERSION.to_owned(),
    );
    if settings.redirect == RedirectBy::Node {
        annotations.insert(
            names::REDIRECT.to_owned(),
            names::REDIRECT_BY_NODE.to_owned(),
        );
    }
    refusals.or(pod)
}
