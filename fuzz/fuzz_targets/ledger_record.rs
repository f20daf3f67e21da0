//! Records: no input panics, and what is read writes the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_ledger::{LogId, Record, Replay};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::decode(data) {
        assert_eq!(record.encode().as_deref(), Ok(data));
        let mut replay = Replay::new(record.log.clone());
        let step = replay.accept(record.seq, data);
        assert_eq!(step.hash, replay.prev());
    }
    let mut replay = Replay::new(LogId::from_random([0; 10]));
    let _ = replay.accept(0, data);
});
