//! Any bytes on the DNS port: no panic, no answer to another query, no name but the permitted one.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The module alone: the sidecar around it would take minutes to build.
#[allow(dead_code)]
#[path = "../../sidecar/src/dns/message.rs"]
mod message;

use message::{Answer, Families, Outcome, Transport, decide};

fuzz_target!(|data: &[u8]| {
    let decision = decide(data, Families::Both, |name| name == "payments.example");
    match decision.answer {
        Answer::Ignore => {}
        Answer::Respond(answer) => assert_eq!(answer.get(..2), data.get(..2)),
        Answer::Resolve(question) => {
            assert_eq!(question.name(), "payments.example");
            assert!(question.answer(Outcome::NoData, Transport::Udp).is_some());
        }
    }
});
