//! `writ policy simulate` and `suggest` on a record with real envelopes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod recorded;

use std::path::Path;
use std::process::Command;

use alloy_primitives::U256;
use recorded::{NOW, open, signer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use writ_ledger::encoding::to_base64url;
use writ_ledger::{Decision, Entry, LogId, Mode, Names};
use writ_policy::Action;
use writ_sae::{Claims, issue_envelope};

const AGENT: &str = "spiffe://example.org/ns/demo/sa/agent";
const TARGET: &str = "https://payments.example.org/v1/transfers";

/// A transfer of so many cents after so many that were spent in the window.
fn action(amount: u64, spent: u64, calls: u64) -> Vec<u8> {
    let action = Action {
        version: 1,
        amount: U256::from(amount),
        spent: U256::from(spent),
        calls,
        window: 3600,
        classification: 1,
        time: NOW,
        ..Action::default()
    };
    action.to_abi()
}

fn made(action: Vec<u8>, reason: &str, jws: Option<String>) -> Box<Decision> {
    Box::new(Decision {
        action: Some(action),
        budget: None,
        jws,
        mode: Mode::Enforce,
        names: Names {
            agent: AGENT.into(),
            capability: "payments.transfer".into(),
            principal: None,
            resource: None,
            session: None,
            target: TARGET.into(),
        },
        reason: reason.into(),
        salt: Some([7; 16]),
        witness: None,
    })
}

/// An allow with its envelope.
fn allow(log: &LogId, seq: u64, action: Vec<u8>) -> Entry {
    let vectors = include_str!("../../crates/sae/tests/vectors/valid.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let mut claims = vectors["vectors"][0]["claims"].clone();
    claims["ctx"]["log"] = json!({"id": log, "seq": seq});
    claims["pol"]["input"] = to_base64url(&Sha256::digest(&action)).into();
    let claims: Claims = serde_json::from_value(claims).unwrap();
    let jws = issue_envelope(&claims, &signer()).unwrap();
    Entry::Allow(made(action, "allowed", Some(jws.into_string())))
}

/// Yesterday: transfers of 12.50 and 80.00 were allowed, one of 120.00 was denied.
fn yesterday(folder: &Path) {
    let log = open(folder, 7);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let id = log.id().clone();
        let entries = [
            allow(&id, 1, action(1_250, 0, 0)),
            allow(&id, 2, action(8_000, 1_250, 1)),
            Entry::Denial(made(action(12_000, 9_250, 2), "amount-over-limit", None)),
        ];
        for entry in entries {
            let reservation = log.reserve().unwrap();
            log.append(reservation, entry).await.unwrap();
        }
    });
    log.close();
}

fn policy(folder: &Path, max_amount: &str, budget: &str) -> String {
    let path = folder.join(format!("policy-{max_amount}-{}.json", budget.len()));
    let policy = json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy", "metadata": {"name": "p", "namespace": "demo"},
        "spec": {
            "selector": {},
            "catalog": {"version": 1, "name": "bank",
                "destinations": [{"name": "bank", "host": "payments.example.org", "port": 443, "peer": {"ca": "webpki"},
                    "upstream": {"mode": "tls"}, "agent_tls": "intercept", "envelope": "withhold", "pep": "none"}],
                "entries": [{"name": "transfer", "destination": "bank", "protocol": "http", "method": "POST",
                    "path": "/v1/transfers", "capability": "payments.transfer", "class": "internal", "window": 3600,
                    "amount": {"pointer": "/amount", "scale": 2, "unit": "EUR"}}]},
            "rules": {"version": 1, "scale": 2, "unit": "EUR", "rules": [{"name": "pay", "agent": AGENT,
                "capability": "payments.transfer", "effect": "allow", "max_class": "internal",
                "max_amount": max_amount, "budget": budget}]},
        },
    });
    std::fs::write(&path, policy.to_string()).unwrap();
    path.display().to_string()
}

fn simulated(folder: &Path, policy: &str) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_writ"))
        .args([
            "policy",
            "simulate",
            "--policy",
            policy,
            "--fail-on",
            "denial",
            "-o",
            "json",
            "--log",
        ])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|e| panic!("{e}: {said}")),
    )
}

#[test]
fn a_policy_change_is_decided_on_yesterdays_envelopes_before_it_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    yesterday(folder);

    let (code, same) = simulated(folder, &policy(folder, "100.00", "500.00 per 1h"));
    assert_eq!(code, Some(0), "{same}");
    assert_eq!(
        (
            &same["stillAllowed"]["actions"],
            &same["stillDenied"]["examples"][0]["why"]
        ),
        (&json!(2), &json!("amount-over-limit"))
    );

    let (code, lower) = simulated(folder, &policy(folder, "50.00", "500.00 per 1h"));
    assert_eq!(code, Some(1), "{lower}");
    let denied = &lower["nowDenied"];
    assert_eq!(denied["actions"], 1, "{lower}");
    assert_eq!(denied["examples"][0]["why"], "amount-over-limit");
    assert_eq!(denied["examples"][0]["rule"], "pay");
    assert_eq!(
        denied["examples"][0]["action"],
        "POST payments.example.org:443/v1/transfers, internal"
    );

    // What was spent before counts as the record says.
    let (_, budget) = simulated(folder, &policy(folder, "100.00", "90.00 per 1h"));
    assert_eq!(
        budget["nowDenied"]["examples"][0]["why"], "budget-spent",
        "{budget}"
    );

    let (code, higher) = simulated(folder, &policy(folder, "150.00", "500.00 per 1h"));
    assert_eq!(
        (code, &higher["nowAllowed"]["actions"]),
        (Some(0), &json!(1)),
        "{higher}"
    );
}

#[test]
fn a_policy_is_suggested_from_a_record_and_allows_what_it_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    yesterday(folder);
    let base = policy(folder, "100.00", "500.00 per 1h");
    let output = Command::new(env!("CARGO_BIN_EXE_writ"))
        .args(["policy", "suggest", "--base", &base, "--log"])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let yaml = String::from_utf8(output.stdout).unwrap();
    assert!(yaml.contains("max_amount: \"120.00\""), "{yaml}");
    let suggested = folder.join("suggested.yaml");
    std::fs::write(&suggested, yaml).unwrap();
    let (code, report) = simulated(folder, &suggested.display().to_string());
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["stillAllowed"]["actions"], 2, "{report}");
}
