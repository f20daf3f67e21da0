#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::Ipv4Addr;
use std::str::FromStr;

use proptest::prelude::*;

use super::*;

const ALLOWED: &str = "payments.example";

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    message.set_edns(edns);
    message
}

fn decided(bytes: &[u8]) -> Decision {
    decide(bytes, Families::Both, |name| name == ALLOWED)
}

fn asked(name: &str, kind: RecordType) -> Decision {
    decided(&with_edns(query(name, kind), 1232, 0).to_vec().unwrap())
}

fn responded(decision: &Decision) -> Message {
    match &decision.answer {
        Answer::Respond(bytes) => Message::from_vec(bytes).unwrap(),
        other => panic!("an immediate answer, not {other:?}"),
    }
}

fn extended_error(message: &Message) -> Option<(u16, String)> {
    let EdnsOption::Unknown(_, data) = message.edns.as_ref()?.option(EXTENDED_ERROR.into())? else {
        return None;
    };
    let text = String::from_utf8(data[2..].to_vec()).unwrap();
    Some((u16::from_be_bytes([data[0], data[1]]), text))
}

fn question(message: &Message) -> Question {
    match decided(&message.to_vec().unwrap()).answer {
        Answer::Resolve(question) => question,
        other => panic!("a name to resolve, not {other:?}"),
    }
}

fn addresses(count: u8) -> Outcome {
    let record = |last| {
        let name = Name::from_str("payments.example.").unwrap();
        Record::from_rdata(name, 60, RData::A(Ipv4Addr::new(192, 0, 2, last).into()))
    };
    Outcome::Records((0..count).map(record).collect())
}

#[test]
fn a_name_outside_the_catalog_does_not_exist_and_the_answer_says_why() {
    let decision = asked("c2VjcmV0.tunnel.example.", RecordType::A);
    let response = responded(&decision);
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(response.metadata.id, 4711);
    let (code, text) = extended_error(&response).unwrap();
    assert_eq!(code, 15, "Blocked (RFC 8914)");
    assert!(text.contains("ask the platform team"), "{text}");
    let refused = decision.refused.unwrap();
    assert_eq!(refused.name, "c2vjcmv0.tunnel.example");
    assert_eq!(
        (refused.record_type.as_str(), refused.reason.code()),
        ("A", "name-not-in-catalog")
    );
}

#[test]
fn neighbours_of_a_permitted_name_do_not_exist() {
    for name in [
        "example.",
        "www.payments.example.",
        "payments.example.svc.cluster.local.",
        "xpayments.example.",
        ".",
    ] {
        assert_eq!(
            responded(&asked(name, RecordType::A))
                .metadata
                .response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
}

#[test]
fn a_client_without_edns_gets_no_extended_error() {
    let response = responded(&decided(
        &query("other.example.", RecordType::A).to_vec().unwrap(),
    ));
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert!(response.edns.is_none());
}

#[test]
fn addresses_and_the_canonical_name_of_a_permitted_name_are_resolved() {
    for (kind, expected) in [
        (RecordType::A, Kind::A),
        (RecordType::AAAA, Kind::Aaaa),
        (RecordType::CNAME, Kind::Cname),
    ] {
        let question = question(&query("PayMents.Example.", kind));
        assert_eq!((question.name(), question.kind()), (ALLOWED, expected));
    }
}

#[test]
fn record_types_that_carry_data_are_refused_for_a_permitted_name() {
    use RecordType::{ANY, AXFR, MX, NAPTR, NS, NULL, SOA, SRV, TXT, Unknown};
    for kind in [
        TXT,
        NULL,
        ANY,
        AXFR,
        SRV,
        MX,
        NS,
        SOA,
        NAPTR,
        Unknown(65280),
    ] {
        let decision = asked("payments.example.", kind);
        assert_eq!(
            responded(&decision).metadata.response_code,
            ResponseCode::Refused,
            "{kind}"
        );
        assert_eq!(
            decision.refused.unwrap().reason,
            Reason::RecordType,
            "{kind}"
        );
    }
}

#[test]
fn service_bindings_are_empty_so_that_no_encrypted_hello_is_configured() {
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let response = responded(&asked("payments.example.", kind));
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
    }
}

#[test]
fn ipv6_addresses_are_not_looked_for_where_ipv6_is_dropped() {
    let message = query("payments.example.", RecordType::AAAA)
        .to_vec()
        .unwrap();
    let response = responded(&decide(&message, Families::V4Only, |_| true));
    assert_eq!(
        (response.metadata.response_code, response.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn malformed_messages_get_a_format_error() {
    let good = query("payments.example.", RecordType::A).to_vec().unwrap();
    let mut no_question = good.clone();
    no_question[5] = 0;
    let mut two_questions = query("payments.example.", RecordType::A);
    two_questions.add_query(two_questions.queries[0].clone());
    let mut compression_loop = good[..12].to_vec();
    compression_loop.extend([0xc0, 12, 0, 1, 0, 1]);
    for message in [
        good[..good.len() - 1].to_vec(),
        good[..12].to_vec(),
        no_question,
        two_questions.to_vec().unwrap(),
        compression_loop,
        [good.clone(), vec![0; MAX_QUERY]].concat(),
    ] {
        assert_eq!(
            responded(&decided(&message)).metadata.response_code,
            ResponseCode::FormErr,
            "{message:?}"
        );
    }
}

#[test]
fn responses_and_fragments_of_a_header_get_no_answer() {
    let mut response = query("payments.example.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    for message in [response, vec![], vec![0; 11]] {
        assert!(matches!(decided(&message).answer, Answer::Ignore));
    }
}

#[test]
fn other_operations_classes_and_edns_versions_are_refused() {
    let mut update = query("payments.example.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut chaos = query("payments.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let newer = with_edns(query("payments.example.", RecordType::A), 1232, 1);
    for (message, code) in [
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (newer, ResponseCode::BADVERS),
    ] {
        let decision = decided(&message.to_vec().unwrap());
        // BADVERS shares its number with BADSIG.
        assert_eq!(
            u16::from(responded(&decision).metadata.response_code),
            u16::from(code)
        );
        assert_eq!(decision.refused, None);
    }
}

#[test]
fn the_answer_repeats_the_question_as_it_was_written() {
    let question = question(&query("PayMents.Example.", RecordType::A));
    let answer =
        Message::from_vec(&question.answer(addresses(1), Transport::Udp).unwrap()).unwrap();
    assert_eq!(answer.queries[0].name.to_ascii(), "PayMents.Example.");
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
}

#[test]
fn records_that_are_no_address_are_left_out_of_an_answer() {
    use hickory_proto::rr::rdata::TXT;
    let name = Name::from_str("payments.example.").unwrap();
    let text = Record::from_rdata(name, 60, RData::TXT(TXT::new(vec!["command".to_owned()])));
    let question = question(&query("payments.example.", RecordType::A));
    let answer = question
        .answer(Outcome::Records(vec![text]), Transport::Tcp)
        .unwrap();
    assert!(Message::from_vec(&answer).unwrap().answers.is_empty());
}

#[test]
fn an_answer_too_long_for_the_client_is_truncated_over_udp_only() {
    let plain = question(&query("payments.example.", RecordType::A));
    let udp = plain.answer(addresses(60), Transport::Udp).unwrap();
    assert!(udp.len() <= 512);
    assert!(Message::from_vec(&udp).unwrap().metadata.truncation);
    let tcp = Message::from_vec(&plain.answer(addresses(60), Transport::Tcp).unwrap()).unwrap();
    assert_eq!((tcp.metadata.truncation, tcp.answers.len()), (false, 60));
    let large = question(&with_edns(
        query("payments.example.", RecordType::A),
        65_000,
        0,
    ));
    assert!(large.answer(addresses(60), Transport::Udp).unwrap().len() <= 1232);
}

#[test]
fn an_answer_holds_at_most_sixty_four_records() {
    let question = question(&query("payments.example.", RecordType::A));
    let answer =
        Message::from_vec(&question.answer(addresses(200), Transport::Tcp).unwrap()).unwrap();
    assert_eq!(answer.answers.len(), 64);
}

#[test]
fn failures_have_codes_of_their_own() {
    let question = question(&with_edns(
        query("payments.example.", RecordType::A),
        1232,
        0,
    ));
    for (outcome, code, extended) in [
        (Outcome::NoData, ResponseCode::NoError, None),
        (Outcome::NoSuchName, ResponseCode::NXDomain, None),
        (Outcome::Failed, ResponseCode::ServFail, Some(22)),
        (Outcome::Busy, ResponseCode::Refused, Some(15)),
    ] {
        let answer = Message::from_vec(&question.answer(outcome, Transport::Udp).unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(extended_error(&answer).map(|(info, _)| info), extended);
    }
}

proptest! {
    #[test]
    fn no_message_panics_or_is_answered_for_another_id(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Answer::Respond(answer) = decided(&bytes).answer {
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }

    #[test]
    fn no_damage_to_a_query_panics_or_reaches_another_name(position in 0usize..45, value: u8, kind in 0u16..300) {
        let message = with_edns(query("payments.example.", RecordType::from(kind)), 1232, 0);
        let mut bytes = message.to_vec().unwrap();
        let position = position % bytes.len();
        bytes[position] = value;
        if let Answer::Resolve(question) = decided(&bytes).answer {
            prop_assert_eq!(question.name(), ALLOWED);
            for outcome in [addresses(3), Outcome::Failed] {
                prop_assert!(question.answer(outcome, Transport::Udp).is_some());
            }
        }
    }
}
