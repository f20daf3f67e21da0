//! One AdmissionReview (`admission.k8s.io/v1`): what was asked, and the answer. No I/O.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::response::{StatusCause, StatusDetails};
use kube::core::{DynamicObject, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::choice::Choice;
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;
use crate::{inject, known, sidecar_uid, validate, validate_update};

/// A request about any object.
pub type Request = AdmissionRequest<DynamicObject>;

/// Annotation of the kubelet's own pods, as the API server shows them.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The group of all kubelets.
const NODES: &str = "system:nodes";
/// The API server cuts a longer warning off.
const MAX_WARNING: usize = 250;
/// Most warnings in one answer; the API server keeps 4 KiB.
const MAX_WARNINGS: usize = 12;

/// Which pods an `exec` or `attach` may be about, as the registration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Every pod of the namespace has a sidecar.
    Namespace,
    /// This pod has one.
    Pod,
    /// This pod has none, or is gone.
    No,
    /// Nobody could say.
    Unknown(String),
}

/// An answer, and what it says in numbers.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub response: AdmissionResponse,
    /// What was refused.
    pub refusals: Refusals,
}

/// Reads an AdmissionReview.
///
/// # Errors
/// What is wrong with it.
pub fn parse(body: &[u8]) -> Result<Request, String> {
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if review.types.api_version != "admission.k8s.io/v1" {
        return Err(format!(
            "{} is not served; register with admissionReviewVersions: [v1]",
            review.types.api_version
        ));
    }
    review.try_into().map_err(|_| "no request in it".to_owned())
}

/// The body of an answer.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode(answer: Answer) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&answer.response.into_review()).map_err(|error| error.to_string())
}

/// Injects a new pod. `uid` is the sidecar's, drawn for this request alone.
#[must_use]
pub fn mutate(request: &Request, settings: &Settings, uid: u32, choice: &dyn Choice) -> Answer {
    if let Err(refusals) = about(request, "pods", "", &[Operation::Create]) {
        return refused(request, refusals);
    }
    let (raw, pod) = match pod_of(request) {
        Ok(read) => read,
        Err(refusals) => return refused(request, refusals),
    };
    if is_mirror(request, &pod) {
        return not_covered(request);
    }
    let injected = chosen(request, &pod, settings, choice)
        .and_then(|settings| inject(pod.clone(), &settings.with_uid(uid)));
    let injected = match injected {
        Ok(injected) => injected,
        Err(refusals) => return refused(request, refusals),
    };
    match patch(&raw, &pod, &injected) {
        Ok(patch) => match AdmissionResponse::from(request).with_patch(patch) {
            Ok(response) => allowed(response),
            Err(error) => refused(request, malformed(error.to_string())),
        },
        Err(refusals) => refused(request, refusals),
    }
}

/// Checks the final form of a pod, or a change to one.
#[must_use]
pub fn check(request: &Request, settings: &Settings, choice: &dyn Choice) -> Answer {
    let sub = request.sub_resource.as_deref().unwrap_or_default();
    let operations = match sub {
        "ephemeralcontainers" => &[Operation::Update][..],
        _ => &[Operation::Create, Operation::Update][..],
    };
    let sub = if sub == "ephemeralcontainers" {
        sub
    } else {
        ""
    };
    if let Err(refusals) = about(request, "pods", sub, operations) {
        return refused(request, refusals);
    }
    let pod = match pod_of(request) {
        Ok((_, pod)) => pod,
        Err(refusals) => return refused(request, refusals),
    };
    if is_mirror(request, &pod) {
        return not_covered(request);
    }
    let refusals = if request.operation == Operation::Update {
        match request.old_object.as_ref().map(read::<Pod>) {
            Some(Ok((_, old))) => {
                let mut refusals = validate_update(&old, &pod);
                refusals.extend(relabelled(request, &old, &pod, choice));
                refusals
            }
            _ => malformed("an update without oldObject"),
        }
    } else {
        match chosen(request, &pod, settings, choice) {
            Ok(settings) => validate(&pod, &settings),
            Err(refusals) => refusals,
        }
    };
    decided(request, refusals)
}

/// Warns of a workload whose pods will be refused; it is never refused itself.
#[must_use]
pub fn warn(request: &Request, settings: &Settings, choice: &dyn Choice) -> Answer {
    let mut response = AdmissionResponse::from(request);
    let Some(Ok(template)) = request.object.as_ref().map(template) else {
        return allowed(response);
    };
    let pod = Pod {
        metadata: template.metadata.unwrap_or_default(),
        spec: template.spec,
        status: None,
    };
    let refusals = match chosen(request, &pod, settings, choice) {
        Ok(settings) => inject(pod, &settings).err().unwrap_or_default(),
        Err(refusals) => refusals,
    };
    let warnings: Vec<String> = refusals
        .iter()
        .take(MAX_WARNINGS)
        .map(|refusal| {
            let mut text = format!("its pods will be refused: {refusal}");
            text.truncate(text.floor_char_boundary(MAX_WARNING));
            text
        })
        .collect();
    if !warnings.is_empty() {
        response.warnings = Some(warnings);
    }
    allowed(response)
}

/// Labels decide by which policy a pod is held, while it keeps the configuration that it got.
fn relabelled(request: &Request, old: &Pod, new: &Pod, choice: &dyn Choice) -> Refusals {
    if old.metadata.labels == new.metadata.labels {
        return Refusals::default();
    }
    let namespace = request.namespace.as_deref().unwrap_or_default();
    // A pod whose policy went since then may change.
    let Ok(before) = choice.choose(namespace, old) else {
        return Refusals::default();
    };
    match choice.choose(namespace, new) {
        Ok(after) if after.config == before.config => Refusals::default(),
        _ => Refusals::one(
            Code::Immutable,
            "metadata.labels",
            "another AgentPolicy, or none, would select the pod",
        ),
    }
}

/// Refuses `kubectl exec`, `attach` and `port-forward` where there is a sidecar.
#[must_use]
pub fn connect(request: &Request, covered: Covered) -> Answer {
    let sub = request.sub_resource.as_deref().unwrap_or_default();
    if let Err(refusals) = about(request, "pods", sub, &[Operation::Connect]) {
        return refused(request, refusals);
    }
    let code = match sub {
        "exec" => Code::Exec,
        "attach" => Code::Attach,
        "portforward" => Code::PortForward,
        _ => return refused(request, malformed(format!("pods/{sub} is not served"))),
    };
    let field = format!("pods/{sub}");
    let reason = match covered {
        Covered::No => return allowed(AdmissionResponse::from(request)),
        Covered::Pod | Covered::Namespace if code == Code::PortForward => {
            "who comes in this way is taken for the agent by its sidecar".to_owned()
        }
        Covered::Pod | Covered::Namespace => {
            "a process started from outside would act in the agent's name".to_owned()
        }
        Covered::Unknown(why) => format!("whether the pod has a sidecar is not known: {why}"),
    };
    refused(request, Refusals::one(code, field, reason))
}

/// The settings for this pod.
fn chosen(
    request: &Request,
    pod: &Pod,
    settings: &Settings,
    choice: &dyn Choice,
) -> Result<Settings, Refusals> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let chosen = choice.choose(namespace, pod).map_err(|mut refusals| {
        // What else is wrong with the pod is told at once.
        let uid = sidecar_uid(pod).unwrap_or(settings.uid);
        if let Err(others) = inject(pod.clone(), &settings.with_uid(uid)) {
            refusals.extend(others);
        }
        refusals
    })?;
    Ok(Settings {
        config: chosen.config,
        local_ports: chosen.local_ports,
        trust: chosen.trust,
        ..settings.clone()
    })
}

/// Refuses requests that this path was not registered for.
fn about(
    request: &Request,
    resource: &str,
    sub: &str,
    operations: &[Operation],
) -> Result<(), Refusals> {
    let asked = &request.resource;
    let given = request.sub_resource.as_deref().unwrap_or_default();
    if asked.group.is_empty()
        && asked.version == "v1"
        && asked.resource == resource
        && given == sub
        && operations.contains(&request.operation)
    {
        return Ok(());
    }
    Err(malformed(format!(
        "{:?} of {}/{} {given} is not what this path is for",
        request.operation, asked.version, asked.resource
    )))
}

fn malformed(reason: impl Into<String>) -> Refusals {
    Refusals::one(Code::Malformed, "request", reason)
}

fn pod_of(request: &Request) -> Result<(Value, Pod), Refusals> {
    let object = request.object.as_ref();
    let object = object.ok_or_else(|| malformed("no object in it"))?;
    let (raw, pod) = read::<Pod>(object)?;
    if request.operation == Operation::Create {
        let mut refusals = Refusals::default();
        let read = serde_json::to_value(&pod).map_err(|error| malformed(error.to_string()))?;
        if let (Some(given), Some(read)) = (raw.get("spec"), read.get("spec")) {
            known::all(given, read, &mut refusals);
        }
        refusals.or(())?;
    }
    Ok((raw, pod))
}

fn read<T: DeserializeOwned>(object: &DynamicObject) -> Result<(Value, T), Refusals> {
    let raw = serde_json::to_value(object).map_err(|error| malformed(error.to_string()))?;
    let typed = T::deserialize(&raw).map_err(|error| malformed(error.to_string()))?;
    Ok((raw, typed))
}

/// The pod template of any workload.
fn template(object: &DynamicObject) -> Result<PodTemplateSpec, serde_json::Error> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let template = spec
        .pointer("/jobTemplate/spec/template")
        .or_else(|| spec.get("template"));
    serde::Deserialize::deserialize(template.unwrap_or(&Value::Null))
}

/// Only a kubelet's word counts: others could write the annotation too.
fn is_mirror(request: &Request, pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let groups = request.user_info.groups.iter().flatten();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR))
        && groups.into_iter().any(|group| group == NODES)
}

/// The kubelet runs a static pod whatever is answered; the object only shows it.
fn not_covered(request: &Request) -> Answer {
    let mut response = AdmissionResponse::from(request);
    response.warnings = Some(vec![
        "a static pod gets no sidecar; run the agent as an ordinary pod".to_owned(),
    ]);
    allowed(response)
}

/// What turns `pod` into `injected`, proved on the very object that was sent.
fn patch(raw: &Value, pod: &Pod, injected: &Pod) -> Result<json_patch::Patch, Refusals> {
    let failed = |error: &dyn std::fmt::Display| malformed(format!("no patch: {error}"));
    let value = |pod: &Pod| serde_json::to_value(pod).map_err(|error| failed(&error));
    let patch = json_patch::diff(&value(pod)?, &value(injected)?);
    let mut patched = raw.clone();
    json_patch::patch(&mut patched, &patch).map_err(|error| failed(&error))?;
    let patched: Pod = serde_json::from_value(patched).map_err(|error| failed(&error))?;
    if patched != *injected {
        return Err(failed(&"it does not lead to the injected pod"));
    }
    Ok(patch)
}

fn allowed(response: AdmissionResponse) -> Answer {
    Answer {
        response,
        refusals: Refusals::default(),
    }
}

fn decided(request: &Request, refusals: Refusals) -> Answer {
    if refusals.is_empty() {
        allowed(AdmissionResponse::from(request))
    } else {
        refused(request, refusals)
    }
}

/// A denial that a person can act on, and a program too: each refusal is a cause of its own.
fn refused(request: &Request, refusals: Refusals) -> Answer {
    let mut response = AdmissionResponse::from(request);
    response.allowed = false;
    let causes = refusals
        .iter()
        .map(|refusal| StatusCause {
            reason: refusal.code.to_string(),
            message: format!("{}. Fix: {}", refusal.reason, refusal.code.fix()),
            field: refusal.field.clone(),
        })
        .collect();
    response.result = Status::failure(&format!("\n{refusals}"), "Forbidden")
        .with_code(403)
        .with_details(StatusDetails {
            kind: request.kind.kind.clone(),
            name: request.name.clone(),
            causes,
            group: request.kind.group.clone(),
            uid: String::new(),
            retry_after_seconds: 0,
        });
    let codes: Vec<&str> = refusals
        .iter()
        .map(|refusal| refusal.code.as_str())
        .collect();
    response
        .audit_annotations
        .insert("refused".to_owned(), codes.join(","));
    Answer { response, refusals }
}
