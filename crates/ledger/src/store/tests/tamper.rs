//! What someone with the file can do to it, and what a verifier says.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::*;
use crate::tree::{Frontier, leaf_index};
use crate::{Finding, Hash, Record, SignedHead, record_hash};

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const NODES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("nodes");
const CHECKPOINTS: TableDefinition<u64, &[u8]> = TableDefinition::new("checkpoints");

/// A closed log of a start, ten allows and their outcomes.
async fn log_of_21(path: &Path) -> Arc<str> {
    let log = open(path);
    for _ in 0..10 {
        let done = add(&log, allow()).await;
        log.record(outcome(done.seq)).await.unwrap();
    }
    let note = log.checkpoint().await.unwrap();
    log.close();
    note
}

fn raw(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let db = Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    let table = txn.open_table(RECORDS).unwrap();
    let rows = table.iter().unwrap();
    rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec())).unwrap())
        .collect()
}

fn replace(path: &Path, seq: u64, bytes: Option<&[u8]>) {
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut table = txn.open_table(RECORDS).unwrap();
        match bytes {
            Some(bytes) => drop(table.insert(seq, bytes).unwrap()),
            None => drop(table.remove(seq).unwrap()),
        }
    }
    txn.commit().unwrap();
}

/// Writes a whole log anew so that chain and tree fit, as root on the machine could.
fn rewrite(path: &Path, change: impl Fn(&mut Record)) {
    let rows = raw(path);
    let db = Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut records = txn.open_table(RECORDS).unwrap();
        let mut nodes = txn.open_table(NODES).unwrap();
        let (mut prev, mut tree): (Hash, Frontier) = ([0; 32], Frontier::default());
        for (seq, bytes) in rows {
            let mut record = Record::decode(&bytes).unwrap();
            record.prev = prev;
            change(&mut record);
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
    std::fs::remove_file(checkpoint_path(path)).unwrap();
}

fn names(findings: &[Finding], seq: u64) -> bool {
    findings.iter().any(|f| f.first == seq && f.last == seq)
}

fn kept(note: &str) -> Kept {
    let key = CheckpointKey::from_seed(&Zeroizing::new([7; 32]));
    let key = key.verifier_key(&LogId::from_random([3; 10]));
    let head = SignedHead::parse(note.as_bytes()).unwrap();
    Kept {
        checkpoints: vec![(head, Some(key))],
        ..Kept::default()
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_any_record_names_that_record() {
    let place = place();
    log_of_21(&place.path).await;
    assert_good(&place.path);
    for (seq, bytes) in raw(&place.path) {
        for at in (0..bytes.len()).step_by(23) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            replace(&place.path, seq, Some(&changed));
            let findings = verify(&place.path).findings;
            assert!(
                names(&findings, seq),
                "record {seq} byte {at}: {findings:?}"
            );
            assert!(
                open_with(&place.path, options()).is_err(),
                "no log is built on it"
            );
        }
        replace(&place.path, seq, Some(&bytes));
    }
    assert_good(&place.path);
}

#[tokio::test]
async fn a_deleted_record_is_reported_as_a_gap() {
    let place = place();
    log_of_21(&place.path).await;
    let rows = raw(&place.path);
    for seq in [0, 7, 19] {
        replace(&place.path, seq, None);
        let findings = verify(&place.path).findings;
        let gap = findings
            .iter()
            .any(|f| f.first == seq && f.problem.contains("missing"));
        assert!(gap, "{findings:?}");
        replace(&place.path, seq, Some(&rows[seq as usize].1));
    }
    assert_good(&place.path);
}

#[tokio::test]
async fn a_deleted_newest_record_is_reported_by_the_checkpoint_beside_the_log() {
    let place = place();
    log_of_21(&place.path).await;
    replace(&place.path, 20, None);
    let findings = verify(&place.path).findings;
    assert!(names(&findings, 20), "{findings:?}");
}

#[tokio::test]
async fn a_truncation_with_all_local_checkpoints_removed_shows_only_against_a_kept_one() {
    let place = place();
    let note = log_of_21(&place.path).await;
    for seq in 15..21 {
        replace(&place.path, seq, None);
    }
    std::fs::remove_file(checkpoint_path(&place.path)).unwrap();
    let report = verify(&place.path);
    assert!(
        report.is_good(),
        "nothing on this machine can tell: {:?}",
        report.findings
    );
    assert_eq!(report.covered, 0, "and the report does not claim otherwise");
    let findings = verify_kept(&place.path, kept(&note)).findings;
    assert_eq!(
        (findings[0].first, findings[0].last),
        (15, 20),
        "{findings:?}"
    );
}

#[tokio::test]
async fn records_in_another_order_are_named() {
    let place = place();
    log_of_21(&place.path).await;
    let rows = raw(&place.path);
    replace(&place.path, 4, Some(&rows[6].1));
    replace(&place.path, 6, Some(&rows[4].1));
    let findings = verify(&place.path).findings;
    assert!(names(&findings, 4) && names(&findings, 6), "{findings:?}");
}

#[tokio::test]
async fn a_log_rewritten_to_fit_itself_does_not_fit_what_is_kept_elsewhere() {
    let place = place();
    let note = log_of_21(&place.path).await;
    let hashes = raw(&place.path)
        .iter()
        .map(|(seq, b)| (*seq, record_hash(b)))
        .collect();
    rewrite(&place.path, |record| {
        if let (7, Entry::Allow(decision)) = (record.seq, &mut record.entry) {
            decision.names.target = "https://bank.example/other".into();
        }
    });
    let report = verify(&place.path);
    assert!(report.is_good(), "it fits itself: {:?}", report.findings);
    assert_eq!(report.covered, 0);

    let findings = verify_kept(&place.path, kept(&note)).findings;
    assert_eq!(
        (findings[0].first, findings[0].last),
        (0, 20),
        "{findings:?}"
    );
    let hashes = Kept {
        hashes,
        ..Kept::default()
    };
    let findings = verify_kept(&place.path, hashes).findings;
    assert_eq!(
        findings[0].first, 7,
        "the first record that differs is named: {findings:?}"
    );
}

#[tokio::test]
async fn a_rewritten_log_with_a_key_of_its_own_is_not_vouched_for() {
    struct Svid;
    impl crate::Authority for Svid {
        fn start(
            &self,
            said: &[u8],
            by: Option<&StartSignature>,
            _: u64,
        ) -> Result<crate::Signed, String> {
            let good = by.is_some_and(|by| by.value == WitnessId::of(said).0);
            good.then(|| crate::Signed::Trusted("spiffe://example.org/agent".into()))
                .ok_or_else(|| "the SVID did not sign it".into())
        }
        fn token(
            &self,
            _: &str,
            _: crate::Whose,
            _: u64,
            _: &dyn Fn(&WitnessId) -> Option<Vec<u8>>,
        ) -> Result<crate::Signed, String> {
            Ok(crate::Signed::Unchecked("no tokens here".into()))
        }
    }
    let place = place();
    let log = Log::open(&place.path, options(), Arc::new(|| NOW), |statement| {
        Some(StartSignature {
            alg: "ES256".into(),
            chain: vec![vec![1]],
            value: WitnessId::of(statement).0.to_vec(),
        })
    })
    .unwrap();
    add(&log, denial()).await;
    log.close();
    let check = || {
        let reader = LogReader::open(&place.path).unwrap();
        reader
            .verify(Some(&Svid), Kept::default(), |_, _| {})
            .unwrap()
    };
    assert!(check().is_good());
    let own = CheckpointKey::from_seed(&Zeroizing::new([66; 32]));
    rewrite(&place.path, |record| {
        if let Entry::Start(start) = &mut record.entry {
            start.key = own.verifier_key(&record.log);
        }
    });
    let findings = check().findings;
    assert!(names(&findings, 0), "{findings:?}");
}

#[tokio::test]
async fn a_changed_witness_names_the_record_that_needs_it() {
    const WITNESSES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("witnesses");
    let place = place();
    let log = open(&place.path);
    let id = log.put_witness(b"state").unwrap();
    add(
        &log,
        Entry::Denial(Box::new(Decision {
            witness: Some(id),
            mode: Mode::Enforce,
            ..*decision()
        })),
    )
    .await;
    log.close();
    for change in [Some(b"other".as_slice()), None] {
        let db = Database::open(&place.path).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut table = txn.open_table(WITNESSES).unwrap();
            match change {
                Some(bytes) => drop(table.insert(&id.0, bytes).unwrap()),
                None => drop(table.remove(&id.0).unwrap()),
            }
        }
        txn.commit().unwrap();
        drop(db);
        assert!(names(&verify(&place.path).findings, 1));
    }
}

#[tokio::test]
async fn a_token_that_names_another_place_is_found() {
    let place = place();
    let log = open(&place.path);
    let claims = serde_json::json!({
        "iss": "spiffe://example.org/agent",
        "ctx": {"log": {"id": log.id(), "seq": 9}},
    });
    let payload = crate::encoding::to_base64url(claims.to_string().as_bytes());
    let jws = Some(format!("e30.{payload}.AA"));
    add(
        &log,
        Entry::Denial(Box::new(Decision {
            jws,
            mode: Mode::Enforce,
            ..*decision()
        })),
    )
    .await;
    log.close();
    let findings = verify(&place.path).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        findings[0].to_string(),
        "record 1: its token names another place"
    );
}

#[tokio::test]
async fn a_refused_envelope_need_not_be_one() {
    struct Nobody;
    impl crate::Authority for Nobody {
        fn start(
            &self,
            _: &[u8],
            _: Option<&StartSignature>,
            _: u64,
        ) -> Result<crate::Signed, String> {
            Ok(crate::Signed::Unchecked("not asked".into()))
        }
        fn token(
            &self,
            _: &str,
            whose: crate::Whose,
            _: u64,
            _: &dyn Fn(&WitnessId) -> Option<Vec<u8>>,
        ) -> Result<crate::Signed, String> {
            Err(format!("{whose:?}"))
        }
    }
    let place = place();
    let log = open(&place.path);
    for admitted in [false, true] {
        let verdict = crate::Verdict {
            admitted,
            observed: false,
            capability: None,
            peer: None,
            reason: "signature-invalid".into(),
            receipt: None,
            sae: Some("a.b.c".into()),
            target: "https://bank.example/".into(),
            witness: None,
        };
        add(&log, Entry::Verdict(Box::new(verdict))).await;
    }
    let report = log
        .reader()
        .verify(Some(&Nobody), Kept::default(), |_, _| {})
        .unwrap();
    assert_eq!(report.found, 1, "{:?}", report.findings);
    assert_eq!(
        report.findings[0].to_string(),
        "record 2: its token: Caller"
    );
}
