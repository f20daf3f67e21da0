//! Pods and what becomes of them, found by folder: `golden/<case>/in.yaml` with `out.yaml` or
//! `refused.txt`. In those that start with `by-node-` the node agent installs the redirection.
//!
//! `WRIT_GOLDEN=write cargo test -p writ-webhook --test golden` writes what is missing or stale.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use writ_webhook::settings::RedirectBy;
use writ_webhook::{Code, Settings, inject, validate};

/// The defaults, but images that do not change with the version.
fn settings(case: &Path) -> Settings {
    let name = case.file_name().unwrap().to_string_lossy();
    Settings {
        redirect: if name.starts_with("by-node-") {
            RedirectBy::Node
        } else {
            RedirectBy::Init
        },
        init_image: "writ-init:test".to_owned(),
        sidecar_image: "writ-sidecar:test".to_owned(),
        ..Settings::default()
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 30, "the cases are gone");
    cases
}

fn pod(path: &Path) -> Pod {
    let text = fs::read_to_string(path).unwrap();
    // Through a value of our own, so that a misspelt field of a case is found.
    let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let pod: Pod = serde_json::from_value(value.clone()).unwrap();
    let mut refusals = writ_webhook::Refusals::default();
    let read = serde_json::to_value(&pod).unwrap();
    writ_webhook::known::all(&value, &read, &mut refusals);
    assert!(refusals.is_empty(), "{}: {refusals}", path.display());
    pod
}

fn compare(path: &Path, now: &str, stale: &mut Vec<String>) {
    let golden = fs::read_to_string(path).unwrap_or_default();
    if golden == now {
        return;
    }
    if std::env::var("WRIT_GOLDEN").as_deref() == Ok("write") {
        fs::write(path, now).unwrap();
        return;
    }
    stale.push(format!("{}\n{now}", path.display()));
}

#[test]
fn every_golden_pod_becomes_what_its_folder_says() {
    let mut stale = Vec::new();
    for case in cases() {
        let settings = settings(&case);
        let (out, refused) = (case.join("out.yaml"), case.join("refused.txt"));
        match inject(pod(&case.join("in.yaml")), &settings) {
            Ok(injected) => {
                assert!(!refused.exists(), "{} is no longer refused", case.display());
                let text = serde_saphyr::to_string(&serde_json::to_value(&injected).unwrap());
                compare(&out, &text.unwrap(), &mut stale);
                assert_eq!(
                    pod(&out),
                    injected,
                    "{}: YAML says something else",
                    case.display()
                );
                let again = inject(injected.clone(), &settings).unwrap();
                assert_eq!(again, injected, "{}", case.display());
                let refusals = validate(&injected, &settings);
                assert!(refusals.is_empty(), "{}: {refusals}", case.display());
            }
            Err(refusals) => {
                assert!(!out.exists(), "{} is refused: {refusals}", case.display());
                compare(&refused, &format!("{refusals}\n"), &mut stale);
            }
        }
    }
    assert!(stale.is_empty(), "stale:\n{}", stale.join("\n"));
}

/// Refusals that do not come from injection alone; they have tests of their own.
const ELSEWHERE: [Code; 12] = [
    Code::Exec,
    Code::Attach,
    Code::PortForward,
    Code::UnknownField,
    Code::NotInjected,
    Code::NotAsInjected,
    Code::Immutable,
    Code::NoPolicy,
    Code::PolicyChoice,
    Code::PoliciesUnknown,
    Code::Malformed,
    Code::TooManyProbes,
];

#[test]
fn every_refusal_of_a_pod_has_a_golden_case() {
    let mut shown = BTreeSet::new();
    for case in cases() {
        let text = fs::read_to_string(case.join("refused.txt")).unwrap_or_default();
        for code in Code::ALL {
            if text.contains(&format!("[{code}]")) {
                shown.insert(code);
            }
        }
    }
    for code in Code::ALL {
        assert!(
            shown.contains(&code) || ELSEWHERE.contains(&code),
            "no case shows {code}"
        );
    }
}

/// What the Pod Security Standard `restricted` refuses in `pod`, as Kubernetes documents it.
fn unrestricted(pod: &Pod) -> Vec<String> {
    const VOLUMES: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut found = Vec::new();
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            found.push(field.to_owned());
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys();
        for kind in kinds.filter(|kind| *kind != "name" && !VOLUMES.contains(&kind.as_str())) {
            found.push(format!("volume {} {kind}", volume["name"]));
        }
    }
    let whole = &spec["securityContext"];
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let own = &container["securityContext"];
            let either = |field: &str| match &own[field] {
                serde_json::Value::Null => whole[field].clone(),
                own => own.clone(),
            };
            let capabilities = &own["capabilities"];
            let dropped = capabilities["drop"].as_array().into_iter().flatten();
            let added = capabilities["add"].as_array().into_iter().flatten();
            let seccomp = either("seccompProfile")["type"].clone();
            let ports = container["ports"].as_array().into_iter().flatten();
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
            for (rule, holds) in [
                ("privileged", own["privileged"] != true),
                (
                    "allowPrivilegeEscalation",
                    own["allowPrivilegeEscalation"] == false,
                ),
                ("runAsNonRoot", either("runAsNonRoot") == true),
                ("runAsUser", either("runAsUser") != 0),
                (
                    "seccompProfile",
                    seccomp == "RuntimeDefault" || seccomp == "Localhost",
                ),
                ("drop ALL", dropped.into_iter().any(|name| name == "ALL")),
                (
                    "add",
                    added.into_iter().all(|name| name == "NET_BIND_SERVICE"),
                ),
                (
                    "procMount",
                    own["procMount"].is_null() || own["procMount"] == "Default",
                ),
                (
                    "hostPort",
                    ports.into_iter().all(|port| port["hostPort"].is_null()),
                ),
                (
                    "host of a probe",
                    probes.iter().all(|probe| {
                        container[*probe]["httpGet"]["host"].is_null()
                            && container[*probe]["tcpSocket"]["host"].is_null()
                    }),
                ),
            ] {
                if !holds {
                    found.push(format!("{} {rule}", container["name"]));
                }
            }
        }
    }
    found
}

#[test]
fn a_restricted_pod_stays_one_where_the_node_agent_redirects_and_the_driver_brings_the_socket() {
    let mut seen = 0;
    for case in cases() {
        let given = pod(&case.join("in.yaml"));
        if !unrestricted(&given).is_empty() {
            continue;
        }
        let settings = Settings {
            redirect: RedirectBy::Node,
            ..settings(&case)
        };
        let Ok(injected) = inject(given.clone(), &settings) else {
            continue;
        };
        assert_eq!(
            unrestricted(&injected),
            Vec::<String>::new(),
            "{}",
            case.display()
        );
        seen += 1;
        let by_init = Settings {
            redirect: RedirectBy::Init,
            ..settings
        };
        let found = unrestricted(&inject(given, &by_init).unwrap());
        let init = ["runAsNonRoot", "runAsUser", "add"].map(|rule| format!("\"writ-init\" {rule}"));
        assert_eq!(found, init, "the test sees what does not fit");
    }
    assert!(seen > 0, "no case is restricted");
}
