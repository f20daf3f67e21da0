//! What a monitoring system asks the application for: the sidecar lets those requests through.
//!
//! Captured inbound connections need an SVID, which a scraper has not. The sidecar learns from
//! `WRIT_SCRAPES` which ports and paths the pod declares, and lets `GET` of just these through. They
//! are declared by the annotations that Prometheus' own discovery reads, or by `writ.dev/scrape`,
//! for a monitoring system that is told in another way.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::names;
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;

/// Most paths of one pod; as in the sidecar.
const MAX_TARGETS: usize = 32;
/// Longest path, in bytes; as in the sidecar.
const MAX_PATH: usize = 256;

/// Whether the pod is scraped; only `true` says so.
const SCRAPE: &str = "prometheus.io/scrape";
/// The port. Without it, the one that the pod's containers declare.
const PORT: &str = "prometheus.io/port";
/// The path.
const PATH: &str = "prometheus.io/path";
/// `http` or `https`.
const SCHEME: &str = "prometheus.io/scheme";
/// Start of the parameters' names.
const PARAMETER: &str = "prometheus.io/param";
/// The path where nothing says another, and the one of the sidecar's own metrics.
const USUAL_PATH: &str = "/metrics";

/// One path at one port. The form is the sidecar's, see `sidecar/src/scrapes.rs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// The port that is dialled.
    pub port: u16,
    /// The path, which is asked for in just this way.
    pub path: String,
}

/// What the pod declares, as the sidecar reads it; `None` when it declares nothing.
pub fn declared(pod: &Pod, settings: &Settings, refusals: &mut Refusals) -> Option<String> {
    let mut targets = BTreeSet::new();
    for (field, target) in [discovered(pod), listed(pod)].into_iter().flatten() {
        match target.and_then(|target| checked(target, settings)) {
            Ok(Some(target)) => {
                targets.insert(target);
            }
            Ok(None) => {}
            Err((code, reason)) => refusals.add(code, field, reason),
        }
    }
    if targets.len() > MAX_TARGETS {
        refusals.add(
            Code::Scrape,
            field(names::SCRAPE),
            format!("{} paths; a sidecar knows {MAX_TARGETS}", targets.len()),
        );
    }
    if targets.is_empty() {
        return None;
    }
    // These types have no map with keys other than strings, so this cannot fail.
    Some(serde_json::to_string(&targets).unwrap_or_default())
}

type Found = (String, Result<Target, (Code, String)>);

/// By Prometheus' annotations.
fn discovered(pod: &Pod) -> Vec<Found> {
    let annotation = |name: &str| {
        let annotations = pod.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    };
    if annotation(SCRAPE) != Some("true") {
        return Vec::new();
    }
    let refused = |name: &str, reason: String| vec![(field(name), Err((Code::Scrape, reason)))];
    if let Some(scheme) = annotation(SCHEME).filter(|scheme| *scheme != "http") {
        return refused(
            SCHEME,
            format!("{scheme:?}: the sidecar answers plain HTTP alone"),
        );
    }
    let names = pod.metadata.annotations.iter().flatten();
    if let Some((name, _)) = names.into_iter().find(|(n, _)| n.starts_with(PARAMETER)) {
        return refused(
            name,
            "a path with parameters could ask for anything".to_owned(),
        );
    }
    let port = match annotation(PORT) {
        Some(text) => port(text).ok_or_else(|| format!("{text:?} is no port")),
        None => only_port(pod),
    };
    match port {
        Err(reason) => refused(PORT, reason),
        Ok(port) => {
            let path = annotation(PATH).unwrap_or(USUAL_PATH).to_owned();
            vec![(field(PATH), Ok(Target { port, path }))]
        }
    }
}

/// By our own annotation: `9090/metrics, 9091/stats`.
fn listed(pod: &Pod) -> Vec<Found> {
    let annotations = pod.metadata.annotations.as_ref();
    let list = annotations.and_then(|annotations| annotations.get(names::SCRAPE));
    let entry = |entry: &str| {
        let target = entry.split_once('/').and_then(|(number, path)| {
            let path = format!("/{path}");
            Some(Target {
                port: port(number)?,
                path,
            })
        });
        let wrong = || (Code::Scrape, format!("{entry:?} is not as `9090/metrics`"));
        (field(names::SCRAPE), target.ok_or_else(wrong))
    };
    let entries = list.iter().flat_map(|list| list.split(','));
    // A list that is much too long is refused for its length, not entry by entry.
    entries
        .take(MAX_TARGETS + 1)
        .map(|text| entry(text.trim()))
        .collect()
}

/// The port that the application's containers declare, when it is one.
fn only_port(pod: &Pod) -> Result<u16, String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports: BTreeSet<i32> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.protocol.as_deref().is_none_or(|p| p == "TCP"))
        .map(|port| port.container_port)
        .collect();
    let mut ports = ports.into_iter();
    match (ports.next(), ports.next()) {
        (Some(port), None) => u16::try_from(port).map_err(|_| format!("{port} is no port")),
        (None, _) => Err("the pod's containers declare no port".to_owned()),
        _ => Err("the pod's containers declare several ports".to_owned()),
    }
}

fn checked(target: Target, settings: &Settings) -> Result<Option<Target>, (Code, String)> {
    let Target { port, path } = &target;
    if *port == settings.ports.status && path == USUAL_PATH {
        // The sidecar's own metrics, which it serves at a port that is not captured.
        return Ok(None);
    }
    if settings.ports.owns(*port) {
        let why = format!("{port} is the sidecar's");
        return Err((Code::ReservedPort, why));
    }
    if !is_plain(path) {
        let why = format!(
            "{path:?} is not a path that starts with `/` and has letters, digits, `-._~` and single \
             slashes, at most {MAX_PATH}"
        );
        return Err((Code::Scrape, why));
    }
    Ok(Some(target))
}

/// A path that nobody reads in two ways; as in the sidecar.
fn is_plain(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    path.len() <= MAX_PATH
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.is_empty() || rest.split('/').all(part))
}

/// Digits only: `parse` would take a sign.
fn port(text: &str) -> Option<u16> {
    let digits = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn declare(annotations: Value, ports: &[i32]) -> Result<Option<String>, Vec<Code>> {
        let ports: Vec<Value> = ports.iter().map(|p| json!({"containerPort": p})).collect();
        let pod = serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [{"name": "a", "ports": ports}]},
        }))
        .unwrap();
        let mut refusals = Refusals::default();
        let declared = declared(&pod, &Settings::default(), &mut refusals);
        let codes = |refusals: Refusals| refusals.iter().map(|r| r.code).collect();
        refusals.or(declared).map_err(codes)
    }

    fn targets(text: &str) -> Result<Option<String>, Vec<Code>> {
        Ok(Some(text.to_owned()))
    }

    #[test]
    fn what_is_not_asked_for_is_not_declared() {
        for annotations in [
            json!({}),
            json!({"prometheus.io/scrape": "false", "prometheus.io/port": "80"}),
            json!({"prometheus.io/port": "80", "prometheus.io/path": "//"}),
        ] {
            assert_eq!(declare(annotations, &[80]), Ok(None));
        }
    }

    #[test]
    fn prometheus_annotations_declare_one_path() {
        let annotations = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9102",
            "prometheus.io/path": "/internal/metrics", "prometheus.io/scheme": "http"});
        assert_eq!(
            declare(annotations, &[80, 81]),
            targets(r#"[{"port":9102,"path":"/internal/metrics"}]"#)
        );
        let short = json!({"prometheus.io/scrape": "true"});
        assert_eq!(
            declare(short, &[8080]),
            targets(r#"[{"port":8080,"path":"/metrics"}]"#)
        );
    }

    #[test]
    fn our_annotation_lists_paths_for_other_monitoring() {
        let annotations = json!({"writ.dev/scrape": "9091/b, 9090/metrics,9090/metrics,80/"});
        assert_eq!(
            declare(annotations, &[]),
            targets(
                r#"[{"port":80,"path":"/"},{"port":9090,"path":"/metrics"},{"port":9091,"path":"/b"}]"#
            )
        );
    }

    #[test]
    fn the_sidecars_own_metrics_need_no_rule() {
        for annotations in [
            json!({"prometheus.io/scrape": "true", "prometheus.io/port": "15820"}),
            json!({"writ.dev/scrape": "15820/metrics"}),
        ] {
            assert_eq!(declare(annotations, &[]), Ok(None));
        }
    }

    #[test]
    fn what_would_let_more_through_is_refused() {
        let asked = |name: &str, value: &str| json!({"prometheus.io/scrape": "true", name: value});
        for (annotations, ports) in [
            (json!({"prometheus.io/scrape": "true"}), &[][..]),
            (json!({"prometheus.io/scrape": "true"}), &[80, 81]),
            (asked("prometheus.io/port", "0"), &[80]),
            (asked("prometheus.io/port", "+80"), &[80]),
            (asked("prometheus.io/port", "http"), &[80]),
            (asked("prometheus.io/port", "65536"), &[80]),
            (asked("prometheus.io/scheme", "https"), &[80]),
            (asked("prometheus.io/param_to", "me"), &[80]),
            (asked("prometheus.io/path", "metrics"), &[80]),
            (asked("prometheus.io/path", ""), &[80]),
            (asked("prometheus.io/path", "/metrics?x=1"), &[80]),
            (asked("prometheus.io/path", "/a/../b"), &[80]),
            (asked("prometheus.io/path", "/a//b"), &[80]),
            (asked("prometheus.io/path", "/%2e"), &[80]),
            (asked("prometheus.io/path", &"/a".repeat(200)), &[80]),
            (json!({"writ.dev/scrape": ""}), &[80]),
            (json!({"writ.dev/scrape": "/metrics"}), &[80]),
            (json!({"writ.dev/scrape": "9090"}), &[80]),
            (json!({"writ.dev/scrape": "9090/metrics,"}), &[80]),
            (json!({"writ.dev/scrape": "9090/a b"}), &[80]),
        ] {
            let shown = annotations.to_string();
            assert_eq!(
                declare(annotations, ports),
                Err(vec![Code::Scrape]),
                "{shown}"
            );
        }
        for port in ["15801", "15806", "15821", "15853"] {
            let annotations = json!({"writ.dev/scrape": format!("{port}/metrics")});
            assert_eq!(declare(annotations, &[]), Err(vec![Code::ReservedPort]));
        }
        let other = json!({"writ.dev/scrape": "15820/readyz"});
        assert_eq!(declare(other, &[]), Err(vec![Code::ReservedPort]));
        let many: Vec<String> = (0..40).map(|n| format!("9090/{n}")).collect();
        let many = json!({"writ.dev/scrape": many.join(",")});
        assert_eq!(declare(many, &[]), Err(vec![Code::Scrape]));
    }
}
