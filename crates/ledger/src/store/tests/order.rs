use super::*;
use crate::{UnknownCause, VoidCause};

#[tokio::test]
async fn what_was_appended_reads_back_after_closing() {
    let place = place();
    let log = open(&place.path);
    let id = log.id().clone();
    let first = add(&log, allow()).await;
    let second = log.record(outcome(first.seq)).await.unwrap();
    assert_eq!((first.seq, second.seq), (1, 2));
    assert_eq!(log.decision_id(1).to_string(), format!("{id}-1"));
    log.close();
    assert!(matches!(
        log.record(denial()).await,
        Err(LedgerError::Closed)
    ));

    let reader = LogReader::open(&place.path).unwrap();
    assert_eq!((reader.access(), reader.id()), (Access::File, &id));
    let record = reader.record(1).unwrap().unwrap();
    assert_eq!((record.entry, record.time), (allow(), NOW));
    let report = assert_good(&place.path);
    assert_eq!((report.records, report.awaiting.len()), (3, 0));
}

#[tokio::test]
async fn records_stand_in_the_order_of_their_places_whatever_the_order_of_arrival() {
    let place = place();
    let log = open(&place.path);
    let mut places: Vec<_> = (0..50).map(|_| log.reserve().unwrap()).collect();
    places.reverse();
    let expected: Vec<u64> = places.iter().map(Reservation::seq).collect();
    let appends: Vec<_> = places
        .into_iter()
        .map(|place| log.append(place, denial()))
        .collect();
    for (append, seq) in appends.into_iter().zip(expected) {
        assert_eq!(append.await.unwrap().seq, seq);
    }
    log.close();
    assert_eq!(assert_good(&place.path).records, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_appends_share_commits_and_all_verify() {
    let place = place();
    let log = open(&place.path);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                for _ in 0..8 {
                    let done = add(&log, allow()).await;
                    log.record(outcome(done.seq)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    log.close();
    let report = assert_good(&place.path);
    assert_eq!((report.records, report.awaiting.len()), (1 + 2 * 512, 0));
}

#[tokio::test]
async fn a_reservation_that_is_dropped_becomes_a_void_record() {
    let place = place();
    let log = open(&place.path);
    let unused = log.reserve().unwrap();
    let after = log.append(log.reserve().unwrap(), denial());
    drop(unused);
    assert_eq!(after.await.unwrap().seq, 2);
    let void = Entry::Void(Box::new(crate::Void {
        budget: None,
        cause: VoidCause::Dropped,
    }));
    assert_eq!(entries(&log.reader())[1], void);
}

#[tokio::test]
async fn a_reservation_that_is_not_filled_in_time_is_voided_and_holds_nobody_up() {
    let place = place();
    let mut options = options();
    options.reservation_timeout = Duration::from_millis(30);
    let log = open_with(&place.path, options).unwrap();
    let slow = log.reserve().unwrap();
    assert_eq!(add(&log, denial()).await.seq, 2);
    let late = log.append(slow, allow()).await;
    assert!(
        matches!(late, Err(LedgerError::Expired { seq: 1 })),
        "{late:?}"
    );
    log.close();
    let report = assert_good(&place.path);
    assert_eq!(report.kinds[&crate::EntryKind::Void], 1);
}

#[tokio::test]
async fn the_number_of_appends_under_way_is_bounded() {
    let place = place();
    let mut options = options();
    options.max_in_flight = 3;
    let log = open_with(&place.path, options).unwrap();
    let held: Vec<_> = (0..3).map(|_| log.reserve().unwrap()).collect();
    assert!(matches!(log.reserve(), Err(LedgerError::Busy { limit: 3 })));
    for place in held {
        log.append(place, denial()).await.unwrap();
    }
    add(&log, denial()).await;
}

#[tokio::test]
async fn an_allow_whose_caller_went_away_is_recorded_as_not_released() {
    let place = place();
    let log = open(&place.path);
    let hold_up = log.reserve().unwrap();
    let gone = log.append(log.reserve().unwrap(), allow());
    drop(gone);
    drop(hold_up);
    let of = 2;
    let next = add(&log, denial()).await;
    add(&log, denial()).await;
    assert_eq!(next.seq, 3);
    let unknown = Entry::Unknown(crate::Unknown {
        cause: UnknownCause::NotReleased,
        of,
    });
    assert!(entries(&log.reader()).contains(&unknown));
    log.close();
    assert!(assert_good(&place.path).awaiting.is_empty());
}

#[tokio::test]
async fn an_open_allow_becomes_unknown_exactly_once_after_a_restart() {
    let place = place();
    let log = open(&place.path);
    let lost = add(&log, allow()).await;
    let ended = add(&log, allow()).await;
    log.record(outcome(ended.seq)).await.unwrap();
    log.close();
    for _ in 0..3 {
        open(&place.path).close();
    }
    let unknown = Entry::Unknown(crate::Unknown {
        cause: UnknownCause::Restart,
        of: lost.seq,
    });
    let found = entries(&LogReader::open(&place.path).unwrap());
    assert_eq!(found.iter().filter(|entry| **entry == unknown).count(), 1);
    assert_eq!(
        found
            .iter()
            .filter(|e| e.kind() == crate::EntryKind::Unknown)
            .count(),
        1
    );
    assert_eq!(assert_good(&place.path).starts.len(), 4);
}

#[tokio::test]
async fn an_outcome_of_nothing_or_a_second_one_is_refused() {
    let place = place();
    let log = open(&place.path);
    let done = add(&log, allow()).await;
    log.record(outcome(done.seq)).await.unwrap();
    for of in [done.seq, 0, 99] {
        let refused = log.record(outcome(of)).await;
        assert!(
            matches!(refused, Err(LedgerError::Format(_))),
            "{refused:?}"
        );
    }
    log.close();
    assert_good(&place.path);
}

#[tokio::test]
async fn an_entry_out_of_bounds_is_refused_and_leaves_a_void() {
    let place = place();
    let log = open(&place.path);
    let wide = Entry::Denial(Box::new(Decision {
        reason: "x".repeat(65),
        ..*decision()
    }));
    assert!(matches!(
        log.record(wide).await,
        Err(LedgerError::Format(_))
    ));
    add(&log, denial()).await;
    log.close();
    assert_eq!(assert_good(&place.path).records, 3);
}

#[tokio::test]
async fn a_witness_is_kept_once_and_bounded_and_must_come_before_its_record() {
    let place = place();
    let mut options = options();
    options.max_witness_bytes = 100;
    let log = open_with(&place.path, options).unwrap();
    let with = |witness| {
        let mode = Mode::Enforce;
        Entry::Denial(Box::new(Decision {
            witness: Some(witness),
            mode,
            ..*decision()
        }))
    };
    let absent = log.record(with(WitnessId::of(b"absent"))).await;
    assert!(
        matches!(absent, Err(LedgerError::UnknownWitness(_))),
        "{absent:?}"
    );
    let id = log.put_witness(&[1; 60]).unwrap();
    assert_eq!(log.put_witness(&[1; 60]).unwrap(), id);
    let refused = log.put_witness(&[2; 60]);
    assert!(
        matches!(refused, Err(LedgerError::WitnessRoom { limit: 40, .. })),
        "{refused:?}"
    );
    log.record(with(id)).await.unwrap();
    assert_eq!(log.reader().witness(&id).unwrap(), Some(vec![1; 60]));
    log.close();
    assert_eq!(assert_good(&place.path).witnesses, 1);
    assert!(
        open(&place.path).has_witness(&id),
        "known again after a restart"
    );
}

#[tokio::test]
async fn a_running_log_is_read_through_its_socket_by_another_handle() {
    let place = place();
    let log = open(&place.path);
    let done = add(&log, allow()).await;
    let reader = LogReader::open(&place.path).unwrap();
    assert_eq!(reader.access(), Access::Live);
    assert_eq!(reader.record(done.seq).unwrap().unwrap().entry, allow());
    assert_eq!(reader.record(99).unwrap(), None);
    let note = log.checkpoint().await.unwrap();
    assert_eq!(reader.newest_checkpoint().as_deref(), Some(&*note));
    let size = reader.size().unwrap();
    let proof = reader.prove_inclusion(1, size).unwrap();
    crate::tree::check_inclusion(&proof, 1, done.hash, size, reader.root(size).unwrap()).unwrap();
    assert!(
        reader
            .verify(None, Kept::default(), |_, _| {})
            .unwrap()
            .is_good()
    );
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(socket_path(&place.path)).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(log);
    assert!(!socket_path(&place.path).exists());
}

#[tokio::test]
async fn a_second_writer_is_refused() {
    let place = place();
    let _log = open(&place.path);
    let second = open_with(&place.path, options());
    assert!(
        matches!(second, Err(LedgerError::Locked { .. })),
        "{second:?}"
    );
}

#[tokio::test]
async fn an_idle_log_beats_and_its_checkpoints_follow() {
    let place = place();
    let mut options = options();
    options.heartbeat_every = Duration::from_millis(5);
    options.checkpoint_every = Duration::ZERO;
    let log = open_with(&place.path, options).unwrap();
    let mut checkpoints = log.checkpoints();
    let sizes = async {
        loop {
            checkpoints.changed().await.unwrap();
            let note = checkpoints.borrow_and_update().clone().unwrap();
            let head = crate::SignedHead::parse(note.as_bytes()).unwrap();
            if head.unverified().size >= 3 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sizes)
        .await
        .unwrap();
    assert!(
        entries(&log.reader())
            .iter()
            .any(|e| e.kind() == crate::EntryKind::Heartbeat)
    );
    log.close();
    assert_good(&place.path);
}

#[tokio::test]
async fn the_svid_vouches_for_the_key_of_the_checkpoints() {
    let place = place();
    let signature = StartSignature {
        alg: "ES256".into(),
        chain: vec![vec![1, 2, 3]],
        value: vec![9; 64],
    };
    let mut signed = Vec::new();
    let log = Log::open(&place.path, options(), Arc::new(|| NOW), |statement| {
        signed = statement.to_vec();
        Some(signature.clone())
    })
    .unwrap();
    let Entry::Start(start) = &entries(&log.reader())[0] else {
        panic!("a log begins with a start");
    };
    assert_eq!(start.signature.as_ref(), Some(&signature));
    assert_eq!(
        signed,
        crate::start_statement(log.id(), 0, &[0; 32], &start.key)
    );
    let note = log.checkpoint().await.unwrap();
    crate::SignedHead::parse(note.as_bytes())
        .unwrap()
        .verify(&start.key)
        .unwrap();
}
