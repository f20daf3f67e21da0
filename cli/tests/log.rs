//! `writ log` on logs with real certificates and envelopes, live and at rest, whole and tampered.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod recorded;

use std::path::Path;
use std::process::{Command, Output};

use recorded::{keys, open, signer};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use sha2::{Digest, Sha256};
use writ_ledger::encoding::{from_base64url, to_base64url};
use writ_ledger::tree::{Frontier, check_inclusion, leaf_index};
use writ_ledger::{
    CheckpointKey, Decision, Enforced, Entry, Hash, Log, LogId, Mode, Names, Outcome,
    OutcomeResult, Record, record_hash,
};
use writ_sae::{Claims, Signer, issue_envelope};
use zeroize::Zeroizing;

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const NODES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("nodes");
const CHECKPOINTS: TableDefinition<u64, &[u8]> = TableDefinition::new("checkpoints");

fn bundle(folder: &Path) -> String {
    let path = folder.join("ca.pem");
    let ca = keys()["ca"].as_str().unwrap().to_owned();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{ca}\n-----END CERTIFICATE-----\n");
    std::fs::write(&path, pem).unwrap();
    format!("example.org={}", path.display())
}

fn allow(log: &LogId, seq: u64) -> Entry {
    let vectors = include_str!("../../crates/sae/tests/vectors/valid.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    let mut claims = vectors["vectors"][0]["claims"].clone();
    let action = vec![7; 672];
    claims["ctx"]["log"] = serde_json::json!({"id": log, "seq": seq});
    claims["pol"]["input"] = to_base64url(&Sha256::digest(&action)).into();
    let claims: Claims = serde_json::from_value(claims).unwrap();
    let jws = issue_envelope(&claims, &signer()).unwrap();
    Entry::Allow(Box::new(Decision {
        action: Some(action),
        budget: None,
        jws: Some(jws.into_string()),
        mode: Mode::Enforce,
        names: Names {
            agent: claims.iss,
            capability: "payments.transfer".into(),
            principal: None,
            resource: None,
            session: None,
            target: "https://payments.example.org/v1/transfers".into(),
        },
        reason: "allowed".into(),
        salt: Some([7; 16]),
        witness: None,
    }))
}

/// A start, three allows with their envelopes, one outcome.
fn fill(folder: &Path) -> Log {
    let log = open(folder, 7);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for seq in 1..=3 {
            let reservation = log.reserve().unwrap();
            assert_eq!(reservation.seq(), seq);
            log.append(reservation, allow(log.id(), seq)).await.unwrap();
        }
        let outcome = Outcome {
            enforced: Enforced::Redirect,
            error: None,
            of: 1,
            receipt: None,
            response: None,
            result: OutcomeResult::Completed,
            status: Some(201),
        };
        log.record(Entry::Outcome(Box::new(outcome))).await.unwrap();
        log.checkpoint().await.unwrap();
    });
    log
}

fn writ(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_writ"));
    command
        .arg("log")
        .args(args)
        .env("WRIT_LOG", folder)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text + &String::from_utf8_lossy(&output.stderr)
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = writ(folder, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(folder: &Path, args: &[&str]) -> String {
    let output = writ(folder, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
    said(&output)
}

#[test]
fn a_log_is_listed_shown_and_verified_while_its_sidecar_runs_and_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bundle = bundle(folder);
    let log = fill(folder);
    let id = format!("{}-1", log.id());
    for live in [true, false] {
        if !live {
            log.close();
        }
        let list = ok(folder, &[]);
        assert_eq!(list.lines().count(), 4, "{list}");
        assert!(
            list.contains("payments.transfer") && list.contains("redirect"),
            "{list}"
        );
        assert_eq!(
            ok(folder, &["--capability", "refunds.*"]).trim(),
            "no such records"
        );
        let newest: Value =
            serde_json::from_str(&ok(folder, &["-n", "1", "--output", "json"])).unwrap();
        assert_eq!(newest[0]["id"], format!("{}-3", log.id()));

        let shown = ok(folder, &["show", &id]);
        for part in [
            "completed, status 201",
            "redirect",
            "contract 0x",
            "block ",
            "payments.transfer",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let json: Value =
            serde_json::from_str(&ok(folder, &["show", &id, "--output", "json"])).unwrap();
        assert_eq!(json["token"]["ctx"]["log"]["seq"], 1);
        assert_eq!(json["outcome"]["entry"]["outcome"]["status"], 201);

        let verified = ok(folder, &["verify", "--bundle", &bundle]);
        assert!(
            verified.contains("tokens: 3 lead to a trust bundle"),
            "{verified}"
        );
        assert!(
            verified.contains("vouched for by spiffe://example.org/"),
            "{verified}"
        );
        assert!(
            verified.contains("covered by no checkpoint kept elsewhere"),
            "{verified}"
        );
        let unproved = ok(folder, &["verify"]);
        assert!(
            unproved.contains("3 fit a certificate in the log"),
            "{unproved}"
        );
        let source = if live {
            "read from the running sidecar"
        } else {
            "read from the file"
        };
        assert!(verified.contains(source), "{verified}");
    }
}

#[test]
fn what_cannot_be_shown_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let log = fill(folder.path());
    assert!(fails(folder.path(), &["show", "99"]).contains("has 5"));
    assert!(fails(folder.path(), &["show", "nonsense"]).contains("looks like"));
    assert!(fails(folder.path(), &["show", "aaaaaaaaaaaaaaaa-1"]).contains(log.id().as_str()));
    let nowhere = folder.path().join("nowhere.redb");
    assert!(fails(&nowhere, &[]).contains("cannot open the log"));
}

#[test]
fn a_proof_of_a_record_holds_under_the_signed_root() {
    let folder = tempfile::tempdir().unwrap();
    let log = fill(folder.path());
    let hash = |value: &Value| -> Hash {
        from_base64url(value.as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    };
    let proof: Value = serde_json::from_str(&ok(folder.path(), &["prove", "2"])).unwrap();
    let path: Vec<Hash> = proof["path"].as_array().unwrap().iter().map(hash).collect();
    let record = from_base64url(proof["record"].as_str().unwrap()).unwrap();
    let (size, root) = (proof["size"].as_u64().unwrap(), hash(&proof["root"]));
    check_inclusion(&path, 2, record_hash(&record), size, root).unwrap();
    let note = proof["checkpoint"].as_str().unwrap();
    let head = writ_ledger::SignedHead::parse(note.as_bytes()).unwrap();
    assert_eq!(
        (head.unverified().size, head.unverified().root),
        (size, root)
    );
    assert_eq!(ok(folder.path(), &["checkpoint"]).trim(), note.trim());
    ok(folder.path(), &["prove", "--from", "2"]);
    log.close();
}

/// What the forger has of the agent's SVID.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Svid {
    /// Nothing: the old signature stays.
    Absent,
    /// Nothing: the signature is left out.
    LeftOut,
    /// Its key.
    Held,
}

/// Changes record 2 and makes everything fit again, as root on the machine can, with a checkpoint
/// key of its own.
fn forge(folder: &Path, svid: Svid) {
    let db = Database::open(folder.join("log.redb")).unwrap();
    let own = CheckpointKey::from_seed(&Zeroizing::new([66; 32]));
    let rows: Vec<(u64, Vec<u8>)> = {
        let txn = db.begin_read().unwrap();
        let table = txn.open_table(RECORDS).unwrap();
        let rows = table.iter().unwrap();
        rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec())).unwrap())
            .collect()
    };
    let txn = db.begin_write().unwrap();
    {
        let mut records = txn.open_table(RECORDS).unwrap();
        let mut nodes = txn.open_table(NODES).unwrap();
        let (mut prev, mut tree): (Hash, Frontier) = ([0; 32], Frontier::default());
        for (seq, bytes) in rows {
            let mut record = Record::decode(&bytes).unwrap();
            record.prev = prev;
            if let Entry::Start(start) = &mut record.entry {
                start.key = own.verifier_key(&record.log);
                let statement = writ_ledger::start_statement(&record.log, seq, &prev, &start.key);
                match (svid, &mut start.signature) {
                    (Svid::Held, Some(signature)) => {
                        signature.value = signer().sign(&statement).unwrap().to_vec();
                    }
                    (Svid::LeftOut, signature) => *signature = None,
                    _ => {}
                }
            }
            if let (2, Entry::Allow(decision)) = (seq, &mut record.entry) {
                decision.names.target = "https://payments.example.org/other".into();
            }
            let bytes = record.encode().unwrap();
            prev = record_hash(&bytes);
            for (index, node) in (leaf_index(seq)..).zip(tree.push(prev).unwrap()) {
                nodes.insert(index, &node).unwrap();
            }
            records.insert(seq, bytes.as_slice()).unwrap();
        }
    }
    txn.delete_table(CHECKPOINTS).unwrap();
    txn.open_table(CHECKPOINTS).unwrap();
    txn.commit().unwrap();
    std::fs::remove_file(folder.join("log.redb.checkpoint")).unwrap();
}

#[test]
fn a_decision_edited_without_the_svids_key_is_found_by_the_bundle() {
    for (svid, problem) in [
        (
            Svid::Absent,
            "record 0: its signature: it is not the SVID's",
        ),
        (
            Svid::LeftOut,
            "record 0: its signature: no SVID vouches for its key",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let bundle = bundle(folder);
        fill(folder).close();
        forge(folder, svid);
        let found = fails(folder, &["verify", "--bundle", &bundle]);
        assert!(found.contains(problem), "{found}");
    }
}

#[test]
fn a_decision_edited_with_every_key_of_the_machine_is_found_by_what_is_kept_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bundle = bundle(folder);
    let log = fill(folder);
    let (kept, hashes) = (folder.join("kept.txt"), folder.join("hashes.txt"));
    std::fs::write(&kept, ok(folder, &["checkpoint"])).unwrap();
    std::fs::write(&hashes, ok(folder, &["checkpoint", "--hashes"])).unwrap();
    let (kept, hashes) = (kept.to_str().unwrap(), hashes.to_str().unwrap());
    log.close();
    let covered = ok(
        folder,
        &["verify", "--bundle", &bundle, "--checkpoint", kept],
    );
    assert!(covered.contains("nothing after record 4"), "{covered}");

    forge(folder, Svid::Held);
    let alone = ok(folder, &["verify", "--bundle", &bundle]);
    assert!(
        alone.contains("could have rewritten or cut them"),
        "{alone}"
    );
    let found = fails(
        folder,
        &["verify", "--bundle", &bundle, "--checkpoint", kept],
    );
    assert!(found.contains("records 0 to 4"), "{found}");
    let found = fails(folder, &["verify", "--hashes", hashes]);
    assert!(
        found.contains("record 2: is not the record whose hash is kept elsewhere"),
        "{found}"
    );
}

#[test]
fn help_has_examples() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        ["--help"].as_slice(),
        &["verify", "--help"],
        &["prove", "--help"],
    ] {
        assert!(ok(folder.path(), args).contains("Example"), "{args:?}");
    }
}
