//! Stock JOSE libraries read what this crate writes, and this crate reads what they sign (T-082, T-096).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use serde_json::Value;
use writ_sae::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn needed(path: &Path) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run scripts/bootstrap, which installs the JOSE libraries",
        path.display()
    );
    path.to_owned()
}

/// Invalid vectors whose only fault is the signature: every JOSE library must refuse them.
fn wrong_signatures() -> String {
    let file: Value = serde_json::from_str(include_str!("vectors/invalid.json")).unwrap();
    let wrong: Vec<_> = file["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|v| v["refusal"] == "signature-invalid" || v["refusal"] == "signature-malformed")
        .map(|v| v["compact"].as_str().unwrap().to_owned())
        .collect();
    assert!(wrong.len() >= 4);
    wrong.join("\n") + "\n"
}

/// Runs a library over the vectors and gives what it signed.
fn run(program: &Path, arguments: &[&Path]) -> Vec<Value> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!(
                "{} does not start ({e}): run scripts/bootstrap",
                program.display()
            )
        });
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(wrong_signatures().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{} failed (libraries missing? run scripts/bootstrap):\n{}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What another library signed over the same claims with the same key is accepted.
fn all_accepted(signed: &[Value]) {
    let keys = Keys::load();
    assert!(signed.len() >= 10, "it signed every vector");
    for token in signed {
        let name = token["name"].as_str().unwrap();
        let compact = token["compact"].as_str().unwrap();
        let key = match token["key"].as_str().unwrap() {
            "agent" => keys.agent_key(),
            "delegate" => keys.delegate_key(),
            _ => VerifyKey::from_svid(&keys.tool_svid).unwrap(),
        };
        match name.split('-').next().unwrap() {
            "envelope" => {
                let parsed = Unverified::<Envelope>::parse(compact).expect(name);
                parsed.verify(&key, &expect(&audience())).expect(name);
            }
            "denial" => {
                let parsed = Unverified::<Denial>::parse(compact).expect(name);
                parsed.verify(&key).expect(name);
            }
            "receipt" => {
                let parsed = Unverified::<ReceiptClaims>::parse(compact).expect(name);
                let sae = parsed.unverified_claims().sae;
                parsed.verify(&key, &sae).expect(name);
            }
            _ => {
                let parsed = Unverified::<KeyStatement>::parse(compact).expect(name);
                parsed.verify(&key, NOW, 0).expect(name);
            }
        }
    }
}

#[test]
fn python_joserfc_agrees_in_both_directions() {
    let python = needed(&root().join(".venv/bin/python"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    all_accepted(&run(
        &python,
        &[&tests.join("interop/verify.py"), &tests.join("vectors")],
    ));
}

#[test]
fn javascript_jose_agrees_in_both_directions() {
    let module = needed(&root().join("tools/node_modules/jose/dist/webapi/index.js"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let script = tests.join("interop/verify.mjs");
    all_accepted(&run(
        Path::new("node"),
        &[&script, &tests.join("vectors"), &module],
    ));
}
