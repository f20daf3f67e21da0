//! Group commit under every interleaving with up to two preemptions: the real [`Sequencer`] between threads
//! that reserve places, hand over what belongs there or give them up, and the one writer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use writ_ledger::Sequencer;

/// What a thread does with the place that it reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Append,
    Drop,
}

/// The shell around the sequencer, of loom's own primitives: a queue, a disk, answers.
struct Model {
    next: AtomicU64,
    queue: Mutex<Vec<(u64, Then)>>,
    sent: Condvar,
    disk: Mutex<Vec<(u64, Then)>>,
    answers: Mutex<Vec<u64>>,
    answered: Condvar,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(0),
            queue: Mutex::new(Vec::new()),
            sent: Condvar::new(),
            disk: Mutex::new(Vec::new()),
            answers: Mutex::new(Vec::new()),
            answered: Condvar::new(),
        })
    }

    /// Reserves a place and fills it; an append returns only once it is durable.
    fn act(&self, then: Then) {
        let seq = self.next.fetch_add(1, Ordering::AcqRel);
        self.queue.lock().unwrap().push((seq, then));
        self.sent.notify_one();
        if then == Then::Drop {
            return;
        }
        let mut answers = self.answers.lock().unwrap();
        while !answers.contains(&seq) {
            answers = self.answered.wait(answers).unwrap();
        }
        drop(answers);
        let disk = self.disk.lock().unwrap();
        assert!(
            disk.contains(&(seq, then)),
            "released before it was durable"
        );
    }

    /// Takes what has come, commits what is ready in one batch, answers; until `places` are durable.
    fn write(&self, places: u64) {
        let mut order = Sequencer::new(0);
        while order.next() < places {
            let mut queue = self.queue.lock().unwrap();
            while queue.is_empty() {
                queue = self.sent.wait(queue).unwrap();
            }
            let taken = std::mem::take(&mut *queue);
            drop(queue);
            for (seq, then) in taken {
                order.offer(seq, then).expect("each place is filled once");
            }
            let batch = order.take_ready(2);
            self.disk.lock().unwrap().extend(&batch);
            let appended = batch.iter().filter(|(_, then)| *then == Then::Append);
            self.answers
                .lock()
                .unwrap()
                .extend(appended.map(|(seq, _)| *seq));
            self.answered.notify_all();
        }
    }
}

fn explore(threads: &'static [Then]) {
    // Without a bound the interleavings of three threads take hours.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let model = Model::new();
        let acting: Vec<_> = threads
            .iter()
            .map(|then| {
                let model = model.clone();
                thread::spawn(move || model.act(*then))
            })
            .collect();
        model.write(threads.len() as u64);
        for thread in acting {
            thread.join().unwrap();
        }
        let disk = model.disk.lock().unwrap();
        let places: Vec<u64> = disk.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(
            places,
            (0..threads.len() as u64).collect::<Vec<_>>(),
            "no gap, no other order"
        );
    });
}

#[test]
fn an_append_returns_only_once_it_and_all_before_it_are_durable() {
    explore(&[Then::Append, Then::Append]);
}

#[test]
fn a_place_given_up_holds_nobody_up() {
    explore(&[Then::Append, Then::Drop]);
}
