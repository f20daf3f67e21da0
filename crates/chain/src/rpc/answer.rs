//! JSON-RPC answers, read strictly: typed, one reading, nothing repeated.

use std::borrow::Cow;

use alloy::consensus::Header;
use alloy::rpc::types::EIP1186AccountProofResponse;
use alloy_primitives::{Address, B256, U256};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use writ_policy::{AccountProof, ProvedHeader, StorageProof};

use super::{AccountClaims, EndpointError, EndpointErrorKind as Kind};

/// Longest excerpt of an endpoint's own words that is kept.
const MAX_EXCERPT: usize = 160;

/// The envelope (JSON-RPC 2.0). serde refuses a member that is given twice.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    id: u64,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<RpcError<'a>>,
}

#[derive(Deserialize)]
struct RpcError<'a> {
    code: i64,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// Reads the result out of an answer to the request with this id. A null result is [`Kind::NotFound`].
pub(crate) fn parse<T: DeserializeOwned>(id: u64, body: &[u8]) -> Result<T, EndpointError> {
    let raw = result(id, body)?;
    serde_json::from_str(raw.get()).map_err(|e| malformed(&e))
}

/// Reads a block header out of an answer to `eth_getBlockBy…`, and recomputes its hash.
pub(crate) fn parse_header(id: u64, body: &[u8]) -> Result<ProvedHeader, EndpointError> {
    #[derive(Deserialize)]
    struct Hash {
        hash: B256,
    }
    let raw = result(id, body)?.get();
    let claimed: Hash = serde_json::from_str(raw).map_err(|e| malformed(&e))?;
    let header: Header = serde_json::from_str(raw).map_err(|e| malformed(&e))?;
    let header = ProvedHeader::from_consensus(&header).and_then(|h| h.expect_hash(claimed.hash));
    header.map_err(|e| EndpointError::new(Kind::Lied, e.to_string()))
}

fn result(id: u64, body: &[u8]) -> Result<&RawValue, EndpointError> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| malformed(&e))?;
    if answer.jsonrpc != "2.0" {
        return Err(EndpointError::new(Kind::Malformed, "not JSON-RPC 2.0"));
    }
    if answer.id != id {
        return Err(EndpointError::new(Kind::WrongId, "answers another request"));
    }
    match (answer.result, answer.error) {
        (Some(result), None) => Ok(result),
        (None, None) => Err(EndpointError::new(Kind::NotFound, "the result is null")),
        (None, Some(error)) => {
            let detail = format!("code {}: {}", error.code, excerpt(&error.message));
            Err(EndpointError::new(Kind::Rpc, detail))
        }
        (Some(_), Some(_)) => Err(EndpointError::new(
            Kind::Malformed,
            "both a result and an error",
        )),
    }
}

/// The claims of an `eth_getProof` answer, if it is about what was asked.
pub(crate) fn claims(
    answer: EIP1186AccountProofResponse,
    address: Address,
    slots: &[U256],
) -> Result<AccountClaims, EndpointError> {
    let lied = |detail: &str| EndpointError::new(Kind::Lied, detail);
    if answer.address != address {
        return Err(lied("proof is of another account"));
    }
    if answer.storage_proof.len() != slots.len() {
        return Err(lied("another number of slots than asked for"));
    }
    let mut storage = Vec::with_capacity(slots.len());
    for (slot, proof) in slots.iter().zip(answer.storage_proof) {
        if U256::from_be_bytes(proof.key.as_b256().0) != *slot {
            return Err(lied("proof is of another slot"));
        }
        storage.push((
            *slot,
            StorageProof {
                value: proof.value,
                proof: proof.proof,
            },
        ));
    }
    let account = AccountProof {
        nonce: answer.nonce,
        balance: answer.balance,
        storage_hash: answer.storage_hash,
        code_hash: answer.code_hash,
        proof: answer.account_proof,
    };
    Ok(AccountClaims {
        account,
        slots: storage,
    })
}

fn malformed(error: &serde_json::Error) -> EndpointError {
    EndpointError::new(Kind::Malformed, excerpt(&error.to_string()))
}

/// Printable and short.
fn excerpt(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_EXCERPT)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;
    use alloy_primitives::Bytes;
    use proptest::prelude::*;

    fn kind(body: &str) -> Kind {
        parse::<U256>(7, body.as_bytes()).unwrap_err().kind
    }

    #[test]
    fn a_well_formed_answer_is_read() {
        let body = br#"{"id":7,"jsonrpc":"2.0","result":"0x10","other":1}"#;
        assert_eq!(parse::<U256>(7, body).unwrap(), U256::from(16));
    }

    #[test]
    fn repeated_members_are_refused() {
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"result":"0x1","result":"0x2"}"#),
            Kind::Malformed
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"id":7,"result":"0x1"}"#),
            Kind::Malformed
        );
        let proof = r#"{"jsonrpc":"2.0","id":7,"result":{"address":"0x0000000000000000000000000000000000000001",
            "balance":"0x0","balance":"0x1","codeHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
            "nonce":"0x0","storageHash":"0x0000000000000000000000000000000000000000000000000000000000000000",
            "accountProof":[],"storageProof":[]}}"#;
        let error = parse::<EIP1186AccountProofResponse>(7, proof.as_bytes()).unwrap_err();
        assert_eq!(error.kind, Kind::Malformed);
        assert!(error.detail.contains("duplicate field"), "{}", error.detail);
    }

    #[test]
    fn a_header_with_a_repeated_member_is_refused() {
        let header = alloy::consensus::Header {
            number: 5,
            ..Default::default()
        };
        let mut value = serde_json::to_value(&header).unwrap();
        value["hash"] = serde_json::to_value(header.hash_slow()).unwrap();
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{value}}}"#);
        assert_eq!(parse_header(7, body.as_bytes()).unwrap().number, 5);
        let twice = body.replacen(r#""number":"#, r#""number":"0x6","number":"#, 1);
        assert_eq!(
            parse_header(7, twice.as_bytes()).unwrap_err().kind,
            Kind::Malformed
        );
        let altered = body.replacen(r#""number":"0x5""#, r#""number":"0x6""#, 1);
        assert_eq!(
            parse_header(7, altered.as_bytes()).unwrap_err().kind,
            Kind::Lied
        );
    }

    #[test]
    fn answers_to_other_requests_errors_nulls_and_contradictions_are_told_apart() {
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":8,"result":"0x1"}"#),
            Kind::WrongId
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"1.0","id":7,"result":"0x1"}"#),
            Kind::Malformed
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":"7","result":"0x1"}"#),
            Kind::Malformed
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"result":null}"#),
            Kind::NotFound
        );
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":7}"#), Kind::NotFound);
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"x"}}"#),
            Kind::Rpc
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"result":"0x1","error":{"code":1}}"#),
            Kind::Malformed
        );
        assert_eq!(
            kind(r#"[{"jsonrpc":"2.0","id":7,"result":"0x1"}]"#),
            Kind::Malformed
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":7,"result":"0x1"} x"#),
            Kind::Malformed
        );
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":7,"resu"#), Kind::Malformed);
    }

    #[test]
    fn what_an_endpoint_says_is_cut_short_and_printable() {
        let message = format!("\\u0007{}", "x".repeat(5000));
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":1,"message":"{message}"}}}}"#);
        let error = parse::<U256>(7, body.as_bytes()).unwrap_err();
        assert!(error.detail.len() < 200 && !error.detail.contains('\u{7}'));
    }

    #[test]
    fn proofs_of_other_accounts_and_slots_are_refused() {
        let asked = Address::repeat_byte(1);
        let answer = |address, key: u64| EIP1186AccountProofResponse {
            address,
            storage_proof: vec![alloy::rpc::types::EIP1186StorageProof {
                key: alloy::rpc::types::serde_helpers::JsonStorageKey::Hash(B256::from(
                    U256::from(key),
                )),
                value: U256::from(1),
                proof: vec![Bytes::new()],
            }],
            ..Default::default()
        };
        let slots = [U256::from(3)];
        assert!(claims(answer(asked, 3), asked, &slots).is_ok());
        assert!(claims(answer(Address::ZERO, 3), asked, &slots).is_err());
        assert!(claims(answer(asked, 4), asked, &slots).is_err());
        assert!(claims(answer(asked, 3), asked, &[]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_crash_the_parsers(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse::<EIP1186AccountProofResponse>(1, &body);
            let _ = parse_header(1, &body);
        }

        #[test]
        fn arbitrary_json_in_the_right_envelope_never_crashes_the_parsers(
            text in r#"(\{|\}|\[|\]|"|,|:|0x|null|hash|number|storageProof|[0-9a-f]){0,64}"#
        ) {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{text}}}"#);
            let _ = parse::<EIP1186AccountProofResponse>(1, body.as_bytes());
            prop_assert!(parse_header(1, body.as_bytes()).is_err());
        }

        #[test]
        fn only_the_id_that_was_asked_is_accepted(asked: u64, answered: u64) {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{answered},"result":"0x1"}}"#);
            prop_assert_eq!(parse::<U256>(asked, body.as_bytes()).is_ok(), asked == answered);
        }
    }
}
