//! Admission: our webhooks, their certificates and their back-up. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use kube::ResourceExt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::finding::{Area, Finding, Level};
use super::gather::Facts;

/// What the names of our webhooks end in.
const SUFFIX: &str = ".writ.dev";
/// The webhook renews its authority after two thirds of its life, cert-manager about then: in the last
/// tenth something keeps them from it.
const DUE: u64 = 10;

/// One webhook of ours.
struct Hook<'a> {
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
        let mut problems: BTreeMap<(&str, Problem), Vec<&str>> = BTreeMap::new();
        for hook in &hooks {
            for problem in examine(hook, facts.now, &facts.system) {
                let place = (hook.configuration.as_str(), problem);
                problems.entry(place).or_default().push(hook.name);
            }
            if let Some(service) = &hook.client.service {
                services.push((service.namespace.clone(), service.name.clone()));
            }
        }
        if problems.is_empty() && !hooks.is_empty() {
            area.ok(format!(
                "{kind}: {} webhooks, each with its failurePolicy and a valid caBundle",
                hooks.len()
            ));
        }
        for ((configuration, problem), names) in problems {
            let says = format!(
                "{kind} {configuration}: {} ({})",
                problem.says,
                names.join(", ")
            );
            match problem.level {
                Level::Fail => area.fail(says, problem.fix),
                _ => area.warn(says, problem.fix),
            }
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

/// What is wrong with webhooks, said once for all that have it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    level: Level,
    says: String,
    fix: String,
}

fn examine(hook: &Hook<'_>, now: u64, system: &str) -> Vec<Problem> {
    let problem = |level, says: &str, fix: String| Problem {
        level,
        says: says.to_owned(),
        fix,
    };
    let mut problems = Vec::new();
    // The API server's own default is Fail.
    let policy = hook.policy.unwrap_or("Fail");
    if policy != "Fail" && !may_be_ignored(hook.name) {
        problems.push(problem(
            Level::Fail,
            &format!("failurePolicy is {policy}: pods come up without a check while it is away"),
            "set failurePolicy: Fail (helm upgrade restores it)".to_owned(),
        ));
    }
    let logs = format!("kubectl logs -n {system} -l app.kubernetes.io/component=webhook");
    let wait = format!(
        "the webhook writes caBundle itself within seconds: see {logs}; with cert-manager see its Certificate"
    );
    let bundle = hook.client.ca_bundle.as_ref().filter(|b| !b.0.is_empty());
    match bundle.map(last_validity) {
        None => problems.push(problem(
            Level::Fail,
            "caBundle is empty, so opted-in pods are refused",
            wait,
        )),
        Some(None) => problems.push(problem(
            Level::Fail,
            "caBundle holds no certificate, so opted-in pods are refused",
            wait,
        )),
        Some(Some((_, end))) if end <= now => problems.push(problem(
            Level::Fail,
            "every certificate of caBundle has expired, so opted-in pods are refused",
            format!("restart the webhook, and see why it did not rotate: {logs}"),
        )),
        Some(Some((begin, end))) if end - now < end.saturating_sub(begin) / DUE => {
            problems.push(problem(
                Level::Warn,
                &format!(
                    "caBundle ends in {}, and should have been renewed",
                    humantime::format_duration(Duration::from_secs((end - now) / 60 * 60))
                ),
                format!("see why the webhook did not rotate it: {logs}; with cert-manager see its Certificate"),
            ));
        }
        Some(Some(_)) => {}
    }
    problems
}

/// From when to when the certificate of a bundle holds that ends last, unix seconds.
fn last_validity(bundle: &ByteString) -> Option<(u64, u64)> {
    let certificates = CertificateDer::pem_slice_iter(&bundle.0);
    certificates
        .filter_map(|der| {
            let certificate = Certificate::from_der(&der.ok()?).ok()?;
            let validity = certificate.tbs_certificate().validity();
            let begin = validity.not_before.to_unix_duration().as_secs();
            Some((begin, validity.not_after.to_unix_duration().as_secs()))
        })
        .max_by_key(|(_, end)| *end)
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

    fn bundle() -> ByteString {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 11);
        ByteString(params.self_signed(&key).unwrap().pem().into_bytes())
    }

    #[test]
    fn a_bundle_is_wrong_when_it_is_empty_no_certificate_overdue_or_over() {
        const BEGIN: u64 = 1_767_225_600;
        const DAY: u64 = 24 * 3600;
        let says = |bundle: ByteString, now: u64| {
            let client = WebhookClientConfig {
                ca_bundle: Some(bundle),
                ..Default::default()
            };
            let hook = Hook {
                configuration: "writ".to_owned(),
                name: "namespace.inject.writ.dev",
                policy: None,
                client: &client,
            };
            let problems = examine(&hook, now, "writ-system");
            let all: Vec<(Level, String)> =
                problems.into_iter().map(|p| (p.level, p.says)).collect();
            all
        };
        assert_eq!(says(bundle(), BEGIN + 89 * DAY), []);
        let late = says(bundle(), BEGIN + 91 * DAY);
        assert_eq!(
            late,
            [(
                Level::Warn,
                "caBundle ends in 9days, and should have been renewed".to_owned()
            )]
        );
        for (bundle, now, part) in [
            (bundle(), BEGIN + 100 * DAY, "has expired"),
            (ByteString(Vec::new()), BEGIN, "is empty"),
            (
                ByteString(b"no pem".to_vec()),
                BEGIN,
                "holds no certificate",
            ),
        ] {
            let said = says(bundle, now);
            assert!(
                said.len() == 1 && said[0].0 == Level::Fail && said[0].1.contains(part),
                "{part}: {said:?}"
            );
        }
    }

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
