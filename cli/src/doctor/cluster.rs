//! The cluster itself, our definitions and the operator; clocks. No I/O.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde_json::Value;

use super::finding::{Area, Finding};
use super::gather::Facts;

/// Native sidecars and ValidatingAdmissionPolicy are there from this minor version.
const OLDEST: u32 = 30;
/// Envelopes tolerate a few seconds of difference between clocks.
const SKEW_WARN: i64 = 2;
/// Most that a caller's clock may differ by configuration.
const SKEW_FAIL: i64 = 60;

pub fn check(facts: &Facts, into: &mut Vec<Finding>) {
    let mut area = Area {
        name: "cluster",
        into,
    };
    version(facts, &mut area);
    definitions(facts, &mut area);
    operator(facts, &mut area);
    let mut area = Area {
        name: "clock",
        into: area.into,
    };
    clock(facts.ahead, "the API server's clock", &mut area);
}

/// What is wrong with this version of Kubernetes, and what to do about it.
pub fn outdated(version: &str) -> Option<(String, &'static str)> {
    let minor = version.split('.').nth(1).unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let minor = digits.parse::<u32>().ok()?;
    (minor < OLDEST).then(|| {
        (
            format!(
                "Kubernetes {version} is too old for native sidecars and ValidatingAdmissionPolicy"
            ),
            "upgrade to 1.30 or newer",
        )
    })
}

fn version(facts: &Facts, area: &mut Area<'_>) {
    match outdated(&facts.version) {
        Some((says, fix)) => area.fail(says, fix),
        None => area.ok(format!("Kubernetes {} at {}", facts.version, facts.server)),
    }
}

fn definitions(facts: &Facts, area: &mut Area<'_>) {
    let Some(there) = area.seen(&facts.crds) else {
        return;
    };
    for (_, wanted) in writ_api::crds() {
        let name = wanted.name_any();
        let found = there.iter().find(|crd| crd.name_any() == name);
        let install = "install Writ: `writ init`; its definitions alone: kubectl apply --server-side -f manifests/crds";
        let Some(found) = found else {
            area.fail(format!("the definition {name} is missing"), install);
            continue;
        };
        let served = found
            .spec
            .versions
            .iter()
            .any(|v| v.name == writ_api::VERSION && v.served);
        let established = found
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let established = established
            .into_iter()
            .any(|c| c.type_ == "Established" && c.status == "True");
        // The API server writes schemas in its own way; the fields are what counts.
        let same = fields(found) == fields(&wanted);
        match (served && established, same) {
            (true, true) => area.ok(format!("{name} is installed")),
            (true, false) => area.warn(
                format!("{name} is of another release than this program"),
                "use the `writ` of the installed release, or upgrade the chart (crds are upgraded with it)",
            ),
            (false, _) => area.fail(format!("{name} is not served as {}", writ_api::VERSION), install),
        }
    }
}

/// Paths of every field of our version.
fn fields(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let versions = &crd.spec.versions;
    let ours = versions.iter().find(|v| v.name == writ_api::VERSION);
    let schema = ours.and_then(|v| serde_json::to_value(&v.schema).ok());
    walk("", &schema.unwrap_or_default(), &mut paths);
    paths
}

fn walk(path: &str, schema: &Value, paths: &mut BTreeSet<String>) {
    for inner in ["openAPIV3Schema", "items", "additionalProperties"] {
        if let Some(schema) = schema.get(inner).filter(|s| s.is_object()) {
            walk(path, schema, paths);
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        let path = format!("{path}.{name}");
        walk(&path, schema, paths);
        paths.insert(path);
    }
}

fn operator(facts: &Facts, area: &mut Area<'_>) {
    let system = &facts.system;
    let Some(deployments) = area.seen(&facts.deployments) else {
        return;
    };
    for component in ["operator", "webhook"] {
        let found = deployments.iter().find(|d| {
            let labels = d.labels();
            labels
                .get("app.kubernetes.io/component")
                .is_some_and(|c| c == component)
                || d.name_any() == format!("writ-{component}")
        });
        let Some(found) = found else {
            area.fail(
                format!("there is no {component} in {system}"),
                "install Writ (`writ init`), or name its namespace with --system-namespace",
            );
            continue;
        };
        let ready = found
            .status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .unwrap_or(0);
        let wanted = found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let name = found.name_any();
        let says = format!("{name}: {ready} of {wanted} replicas are ready");
        let fix =
            format!("kubectl describe pods -n {system} -l app.kubernetes.io/component={component}");
        match ready {
            0 => area.fail(says, fix),
            ready if ready < wanted => area.warn(says, fix),
            _ => area.ok(says),
        }
    }
    let Some(lease) = area.seen(&facts.lease) else {
        return;
    };
    let spec = lease
        .as_ref()
        .and_then(|l| l.spec.clone())
        .unwrap_or_default();
    let holder = spec.holder_identity.filter(|h| !h.is_empty());
    let renewed = spec.renew_time.map(|t| t.0.as_second());
    let length = i64::from(spec.lease_duration_seconds.unwrap_or(15));
    let now = i64::try_from(facts.now).unwrap_or(i64::MAX) + facts.ahead.unwrap_or(0);
    match (holder, renewed) {
        (Some(holder), Some(at)) if now - at <= 2 * length => {
            area.ok(format!("{holder} leads the operators"))
        }
        (Some(holder), _) => area.fail(
            format!("{holder} led the operators and no longer says so"),
            format!("look at its log: kubectl logs {holder} -n {system}"),
        ),
        (None, _) => area.fail(
            "no operator leads: nothing is reconciled, and revocations are not sent",
            format!("kubectl logs -n {system} -l app.kubernetes.io/component=operator"),
        ),
    }
}

/// A clock that is compared with ours.
pub fn clock(ahead: Option<i64>, whose: &str, area: &mut Area<'_>) {
    let fix =
        "run NTP on both: envelopes live 30 to 300 s, and callers' clocks may differ by a few";
    match ahead {
        None => area.warn(
            format!("{whose} cannot be told"),
            "a proxy in between takes out the Date header",
        ),
        Some(ahead) => {
            let way = if ahead < 0 { "behind" } else { "ahead of" };
            let says = format!("{whose} is {} s {way} this machine's", ahead.abs());
            match ahead.abs() {
                0..=SKEW_WARN => {
                    area.ok(format!("{whose} and this machine's agree to {SKEW_WARN} s"))
                }
                skew if skew < SKEW_FAIL => area.warn(says, fix),
                _ => area.fail(says, fix),
            }
        }
    }
}
