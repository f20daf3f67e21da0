//! One envelope has one form: whatever is changed in it, it is refused (T-099).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use proptest::prelude::*;
use writ_sae::*;

fn refused(compact: &str, key: &VerifyKey) -> bool {
    Unverified::<Envelope>::parse(compact)
        .and_then(|parsed| parsed.verify(key, &expect(&audience())))
        .is_err()
}

fn every_bit_matters(compact: &Compact, key: &VerifyKey) {
    assert!(
        !refused(compact.as_str(), key),
        "the envelope itself is good"
    );
    let bytes = compact.as_str().as_bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            // What is no UTF-8 is no field value either.
            if let Ok(text) = std::str::from_utf8(&changed) {
                assert!(refused(text, key), "byte {at}, bit {bit}");
            }
        }
    }
}

#[test]
fn every_single_bit_of_an_es256_envelope_matters() {
    let keys = Keys::load();
    let compact = issue_envelope(&claims(), &keys.agent).unwrap();
    every_bit_matters(&compact, &keys.agent_key());
}

#[test]
fn every_single_bit_of_an_eddsa_envelope_matters() {
    let keys = Keys::load();
    let compact = issue_envelope(&claims(), &keys.delegate).unwrap();
    every_bit_matters(&compact, &keys.delegate_key());
}

#[test]
fn every_cut_and_every_doubled_character_is_refused() {
    let keys = Keys::load();
    let compact = issue_envelope(&claims(), &keys.agent).unwrap();
    let key = keys.agent_key();
    for at in 0..compact.as_str().len() {
        let (head, tail) = compact.as_str().split_at(at);
        assert!(refused(head, &key), "cut at {at}");
        assert!(
            refused(&format!("{head}{}", &tail[1..]), &key),
            "without {at}"
        );
        assert!(
            refused(&format!("{head}{}{tail}", &tail[..1]), &key),
            "double {at}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_replaced_character_is_refused(at in 0usize..4096, replacement in any::<char>()) {
        let keys = Keys::load();
        let compact = issue_envelope(&claims(), &keys.delegate).unwrap();
        let mut chars: Vec<char> = compact.as_str().chars().collect();
        let at = at % chars.len();
        prop_assume!(chars[at] != replacement);
        chars[at] = replacement;
        let text: String = chars.into_iter().collect();
        prop_assert!(refused(&text, &keys.delegate_key()));
    }

    #[test]
    fn any_text_is_parsed_without_a_panic(text in "\\PC{0,200}(\\.\\PC{0,200}){0,3}") {
        let _ = Unverified::<Envelope>::parse(&text);
        let _ = SaeCertificate::decode(text.as_bytes());
    }

    #[test]
    fn what_parses_has_exactly_one_form(seq in 0u64..1 << 53, risk in any::<u8>(), session in "[!-~]{1,64}") {
        let keys = Keys::load();
        let mut claims = claims();
        claims.ctx.log.seq = seq;
        claims.ctx.risk_score = risk;
        claims.ctx.session_id = session;
        let compact = issue_envelope(&claims, &keys.delegate).unwrap();
        let again = issue_envelope(&claims, &keys.delegate).unwrap();
        prop_assert_eq!(compact.hash(), again.hash());
        let parsed = Unverified::<Envelope>::parse(compact.as_str()).unwrap();
        prop_assert_eq!(parsed.unverified_claims(), &claims);
    }

    #[test]
    fn certificates_survive_their_header(chain in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..5), statement in proptest::option::of("[ -~]{0,200}")) {
        let certificate = SaeCertificate { chain, statement };
        let value = certificate.encode().unwrap();
        prop_assert_eq!(SaeCertificate::decode(value.as_bytes()).unwrap(), certificate);
    }
}
