//! Admission: our webhooks, their certificates and their back-up. No I/O.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use kube::ResourceExt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::finding::{Area, Finding};
use super::gather::Facts;

/// What the names of our webhooks end in.
const SUFFIX: &str = ".writ.dev";
/// A CA that ends sooner than this is told.
const SOON: u64 = 24 * 3600;

/// One webhook of ours.
struct Hook<'a> {
    kind: &'static str,
    configuration: String,
    name: &'a str,
    policy: Option<&'a str>,
    client: &'a WebhookClientConfig,
}

pub fn check(facts: &Facts, into: &mut Vec<Finding>) {
    let mut area = Area {
        name: "webhook",
        into,
    };
    let mut services = Vec::new();
    for (kind, hooks) in [
        ("MutatingWebhookConfiguration", mutating(facts, &mut area)),
        (
            "ValidatingWebhookConfiguration",
            validating(facts, &mut area),
        ),
    ] {
        let Some(hooks) = hooks else { continue };
        if hooks.is_empty() {
            area.fail(
                format!("no {kind} has webhooks of Writ"),
                "install Writ again: `writ init`, or helm upgrade",
            );
        }
        let mut fine = 0;
        for hook in &hooks {
            if examine(hook, facts, &mut area) {
                fine += 1;
            }
            if let Some(service) = &hook.client.service {
                services.push((service.namespace.clone(), service.name.clone()));
            }
        }
        if fine > 0 && fine == hooks.len() {
            area.ok(format!(
                "{kind}: {fine} webhooks, each with its failurePolicy and a valid caBundle"
            ));
        }
    }
    services.sort();
    services.dedup();
    for (namespace, name) in services {
        endpoints(facts, &namespace, &name, &mut area);
    }
    admission(facts, &mut area);
}

fn mutating<'f>(facts: &'f Facts, area: &mut Area<'_>) -> Option<Vec<Hook<'f>>> {
    let all = area.seen(&facts.mutating)?;
    let hooks = all.iter().flat_map(|c| {
        let configuration = c.name_any();
        c.webhooks.iter().flatten().map(move |w| Hook {
            kind: "MutatingWebhookConfiguration",
            configuration: configuration.clone(),
            name: &w.name,
            policy: w.failure_policy.as_deref(),
            client: &w.client_config,
        })
    });
    Some(hooks.filter(|h| h.name.ends_with(SUFFIX)).collect())
}

fn validating<'f>(facts: &'f Facts, area: &mut Area<'_>) -> Option<Vec<Hook<'f>>> {
    let all = area.seen(&facts.validating)?;
    let hooks = all.iter().flat_map(|c| {
        let configuration = c.name_any();
        c.webhooks.iter().flatten().map(move |w| Hook {
            kind: "ValidatingWebhookConfiguration",
            configuration: configuration.clone(),
            name: &w.name,
            policy: w.failure_policy.as_deref(),
            client: &w.client_config,
        })
    });
    Some(hooks.filter(|h| h.name.ends_with(SUFFIX)).collect())
}

/// Webhooks that warn, and the one that is asked for every exec in namespaces that are not opted in: the
/// chart lets these go when the webhook is away.
fn may_be_ignored(name: &str) -> bool {
    name.ends_with(".warn.writ.dev") || name == "pod.connect.writ.dev"
}

/// Whether nothing is wrong with a webhook.
fn examine(hook: &Hook<'_>, facts: &Facts, area: &mut Area<'_>) -> bool {
    let now = facts.now;
    let place = format!(
        "{} {}, webhook {}",
        hook.kind, hook.configuration, hook.name
    );
    let before = area.into.len();
    // The API server's own default is Fail.
    if !may_be_ignored(hook.name) && hook.policy.is_some_and(|policy| policy != "Fail") {
        area.fail(
            format!(
                "{place}: failurePolicy is {}: pods come up without a check while it is away",
                hook.policy.unwrap_or_default()
            ),
            "set failurePolicy: Fail (helm upgrade restores it)",
        );
    }
    let wait = "the webhook writes caBundle itself within seconds: see its log; with cert-manager see its Certificate";
    match hook.client.ca_bundle.as_ref().filter(|b| !b.0.is_empty()) {
        None => area.fail(format!("{place}: caBundle is empty, so opted-in pods are refused"), wait),
        Some(bundle) => match last_day(bundle) {
            None => area.fail(format!("{place}: caBundle holds no certificate"), wait),
            Some(end) if end <= now => area.fail(
                format!("{place}: every certificate of caBundle has expired, so opted-in pods are refused"),
                format!(
                    "restart the webhook, and see why it did not rotate: kubectl logs -n {} -l \
                     app.kubernetes.io/component=webhook",
                    facts.system
                ),
            ),
            Some(end) if end <= now + SOON => area.warn(
                format!("{place}: caBundle ends within a day"),
                "the webhook rotates it by itself; see its log if it does not",
            ),
            Some(_) => {}
        },
    }
    area.into.len() == before
}

/// When the last certificate of a bundle ends, unix seconds.
fn last_day(bundle: &ByteString) -> Option<u64> {
    let certificates = CertificateDer::pem_slice_iter(&bundle.0);
    certificates
        .filter_map(|der| {
            let certificate = Certificate::from_der(&der.ok()?).ok()?;
            let validity = certificate.tbs_certificate().validity();
            Some(validity.not_after.to_unix_duration().as_secs())
        })
        .max()
}

fn endpoints(facts: &Facts, namespace: &str, service: &str, area: &mut Area<'_>) {
    if namespace != facts.system {
        area.warn(
            format!(
                "the webhooks are served by {namespace}/{service}, not in {}",
                facts.system
            ),
            format!("name its namespace: --system-namespace {namespace}"),
        );
        return;
    }
    let Some(slices) = area.seen(&facts.slices) else {
        return;
    };
    let of_service = slices.iter().filter(|s| {
        s.labels()
            .get("kubernetes.io/service-name")
            .is_some_and(|name| name == service)
    });
    let ready = of_service
        .flat_map(|s| &s.endpoints)
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false))
        .count();
    if ready == 0 {
        area.fail(
            format!(
                "Service {namespace}/{service} has no ready endpoint, so opted-in pods are refused"
            ),
            format!("kubectl get pods -n {namespace} -l app.kubernetes.io/component=webhook"),
        );
    } else {
        area.ok(format!(
            "Service {namespace}/{service} has {ready} ready endpoints"
        ));
    }
}

fn admission(facts: &Facts, area: &mut Area<'_>) {
    let Some(all) = area.seen(&facts.policies_of_admission) else {
        return;
    };
    let ours: Vec<_> = all
        .iter()
        .filter(|p| p.name_any().starts_with("writ-"))
        .collect();
    if !ours.iter().any(|p| p.name_any() == "writ-pods") {
        area.fail(
            "the ValidatingAdmissionPolicy writ-pods is missing: without the webhook, opted-in pods come up bare",
            "install Writ again: `writ init`, or helm upgrade",
        );
    }
    for policy in ours {
        let name = policy.name_any();
        let fails = policy
            .spec
            .as_ref()
            .and_then(|s| s.failure_policy.as_deref());
        if fails.is_some_and(|f| f != "Fail") {
            area.fail(
                format!("ValidatingAdmissionPolicy {name} has another failurePolicy than Fail"),
                "helm upgrade restores it",
            );
        }
        let Some(bindings) = area.seen(&facts.bindings) else {
            return;
        };
        let bound = bindings.iter().filter_map(|b| b.spec.as_ref()).filter(|b| {
            b.policy_name.as_deref() == Some(name.as_str())
                && b.validation_actions.iter().flatten().any(|a| a == "Deny")
        });
        match bound.count() {
            0 => area.fail(
                format!("ValidatingAdmissionPolicy {name} is bound nowhere with Deny, so it refuses nothing"),
                "helm upgrade restores its binding",
            ),
            _ => area.ok(format!("ValidatingAdmissionPolicy {name} is bound, and denies")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_may_be_ignored_where_the_chart_says_so_and_nowhere_else() {
        let mut seen = 0;
        for file in ["mutating", "validating"] {
            let path = format!(
                "{}/../charts/writ/templates/webhook/{file}.yaml",
                env!("CARGO_MANIFEST_DIR")
            );
            let chart = std::fs::read_to_string(path).unwrap();
            let mut name = "";
            for line in chart.lines() {
                if let Some(named) = line.strip_prefix("  - name: ") {
                    name = named;
                }
                if let Some(policy) = line.trim().strip_prefix("failurePolicy: ") {
                    assert_eq!(policy == "Ignore", may_be_ignored(name), "{name}");
                    seen += 1;
                }
            }
        }
        assert!(seen >= 9, "the chart's webhooks are gone");
    }
}
