//! What a pod may say about its sidecar: a closed list of annotations.

use k8s_openapi::api::core::v1::Pod;

use crate::names;
use crate::refusal::{Code, Refusals};

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// CPU in thousandths, between 10m and 8.
const CPU: std::ops::RangeInclusive<u64> = 10..=8_000;
/// Memory in MiB, between what a sidecar needs and 8 GiB.
const MEMORY: std::ops::RangeInclusive<u64> = 32..=8_192;

/// What a pod said about its sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Log level.
    pub log_level: Option<String>,
    /// CPU request.
    pub cpu: Option<String>,
    /// Memory request and limit.
    pub memory: Option<String>,
    /// The AgentPolicy, or the static configuration.
    pub policy: Option<String>,
}

impl Overrides {
    /// Reads the annotations; what cannot be used is refused and left out.
    #[must_use]
    pub fn read(pod: &Pod) -> (Self, Refusals) {
        let mut refusals = Refusals::default();
        let mut overrides = Self::default();
        let annotations = pod.metadata.annotations.iter().flatten();
        for (name, value) in annotations.filter(|(name, _)| name.starts_with(names::PREFIX)) {
            let taken = match name.as_str() {
                names::LOG_LEVEL => check(
                    LEVELS.contains(&value.as_str()),
                    value,
                    &mut overrides.log_level,
                    "one of error, warn, info, debug, trace",
                ),
                names::CPU => check(
                    cpu(value).is_some_and(|milli| CPU.contains(&milli)),
                    value,
                    &mut overrides.cpu,
                    "between 10m and 8, as `250m` or `2`",
                ),
                names::MEMORY => check(
                    memory(value).is_some_and(|mebi| MEMORY.contains(&mebi)),
                    value,
                    &mut overrides.memory,
                    "between 32Mi and 8Gi, as `256Mi` or `1Gi`",
                ),
                names::POLICY => check(
                    is_name(value),
                    value,
                    &mut overrides.policy,
                    "a name of lower-case letters, digits, `-` and `.`, at most 253",
                ),
                // Read beside Prometheus' own annotations, see `scrapes`.
                names::SCRAPE => Ok(()),
                names::INJECTED if value == names::INJECTED_VERSION => Ok(()),
                names::REDIRECT if value == names::REDIRECT_BY_NODE => Ok(()),
                names::INJECTED | names::REDIRECT => Err("left to the webhook"),
                _ => {
                    refusals.add(
                        Code::UnknownAnnotation,
                        format!("metadata.annotations[{name}]"),
                        "no such annotation; a misspelt one would have no effect",
                    );
                    continue;
                }
            };
            if let Err(expected) = taken {
                refusals.add(
                    Code::AnnotationValue,
                    format!("metadata.annotations[{name}]"),
                    format!("{value:?} must be {expected}"),
                );
            }
        }
        (overrides, refusals)
    }
}

fn check(
    good: bool,
    value: &str,
    slot: &mut Option<String>,
    expected: &'static str,
) -> Result<(), &'static str> {
    if !good {
        return Err(expected);
    }
    *slot = Some(value.to_owned());
    Ok(())
}

/// Thousandths of a CPU.
fn cpu(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(milli) => number(milli),
        None => number(text)?.checked_mul(1000),
    }
}

/// MiB.
fn memory(text: &str) -> Option<u64> {
    match text.strip_suffix("Gi") {
        Some(gibi) => number(gibi)?.checked_mul(1024),
        None => number(text.strip_suffix("Mi")?),
    }
}

/// Digits only: `parse` would take a sign, and the API server another form of the same number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whether this may be the name of a Kubernetes object (RFC 1123 subdomain).
#[must_use]
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<Overrides, Refusals> {
        let mut pod = Pod::default();
        pod.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
        let (overrides, refusals) = Overrides::read(&pod);
        refusals.or(overrides)
    }

    #[test]
    fn a_pod_may_set_what_is_on_the_list() {
        assert_eq!(
            read(names::LOG_LEVEL, "debug").unwrap().log_level,
            Some("debug".to_owned())
        );
        for cpu in ["10m", "250m", "8"] {
            assert_eq!(read(names::CPU, cpu).unwrap().cpu, Some(cpu.to_owned()));
        }
        for memory in ["32Mi", "8Gi"] {
            assert_eq!(
                read(names::MEMORY, memory).unwrap().memory,
                Some(memory.to_owned())
            );
        }
        assert_eq!(
            read(names::POLICY, "a.b-c").unwrap().policy,
            Some("a.b-c".to_owned())
        );
        assert_eq!(
            read("example.com/x", "y").unwrap(),
            Overrides::default(),
            "others' annotations are theirs"
        );
    }

    #[test]
    fn any_other_value_is_refused() {
        for (name, value) in [
            (names::LOG_LEVEL, "loud"),
            (names::LOG_LEVEL, "info,writ=trace"),
            (names::CPU, "9"),
            (names::CPU, "9m"),
            (names::CPU, "+100m"),
            (names::CPU, "0.5"),
            (names::CPU, "010m"),
            (names::CPU, ""),
            (names::MEMORY, "31Mi"),
            (names::MEMORY, "9Gi"),
            (names::MEMORY, "128"),
            (names::MEMORY, "18446744073709551615Gi"),
            (names::POLICY, "../x"),
            (names::POLICY, "-a"),
            (names::POLICY, ""),
            (names::INJECTED, "0"),
            (names::REDIRECT, "init"),
        ] {
            let refusals = read(name, value).unwrap_err();
            let codes: Vec<Code> = refusals.iter().map(|refusal| refusal.code).collect();
            assert_eq!(codes, [Code::AnnotationValue], "{name}={value}");
        }
    }

    #[test]
    fn an_annotation_of_ours_that_does_not_exist_is_refused_with_the_list() {
        let refusals = read("writ.dev/inject", "true").unwrap_err().to_string();
        assert!(refusals.contains("unknown-annotation"), "{refusals}");
        assert!(refusals.contains("writ.dev/log-level"), "{refusals}");
    }
}
