//! Pods and what becomes of them, found by folder: `golden/<case>/in.yaml` with `out.yaml` or
//! `refused.txt`.
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
use writ_webhook::{Code, Settings, inject, validate};

/// The defaults, but images that do not change with the version.
fn settings() -> Settings {
    Settings {
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
        let settings = settings();
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
