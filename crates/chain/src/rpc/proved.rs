//! The check of what a source claims of an account: the same for endpoints and relays.

use alloy::consensus::constants::EMPTY_ROOT_HASH;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use writ_policy::{AccountProof, ProvedHeader, StorageProof, check_account, check_slot};

use super::{EndpointError, EndpointErrorKind as Kind};

/// An account, and slots of it in the order in which they were asked for. The values are claims until checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountClaims {
    /// The account.
    pub account: AccountProof,
    /// Its slots.
    pub slots: Vec<(U256, StorageProof)>,
}

/// An account and slots of it, as one source served them and a state root proves them.
#[derive(Debug, Clone)]
pub(crate) struct ProvedAccount {
    pub address: Address,
    pub claims: AccountClaims,
    pub code_hash: B256,
}

/// Checks claims about an account and exactly these slots of it against the header's state root.
pub(crate) fn check(
    header: &ProvedHeader,
    address: Address,
    slots: &[U256],
    claims: AccountClaims,
) -> Result<ProvedAccount, EndpointError> {
    let lied = |detail: String| EndpointError::new(Kind::Lied, detail);
    let named = claims.slots.iter().map(|(slot, _)| slot);
    if !named.eq(slots) {
        return Err(lied("other slots than asked for".to_owned()));
    }
    let state = check_account(header.state_root, address, &claims.account)
        .map_err(|e| lied(e.to_string()))?;
    let root = state.map_or(EMPTY_ROOT_HASH, |s| s.storage_root);
    for (slot, claim) in &claims.slots {
        if root == EMPTY_ROOT_HASH && claim.value.is_zero() {
            continue;
        }
        check_slot(root, address, *slot, claim).map_err(|e| lied(e.to_string()))?;
    }
    let code_hash = state.map_or(KECCAK256_EMPTY, |s| s.code_hash);
    Ok(ProvedAccount {
        address,
        claims,
        code_hash,
    })
}

/// Checks that code hashes to what was proved.
pub(crate) fn check_code(code: Bytes, code_hash: B256) -> Result<Bytes, EndpointError> {
    if keccak256(&code) == code_hash {
        return Ok(code);
    }
    Err(EndpointError::new(
        Kind::Lied,
        "code does not hash to the proved code hash",
    ))
}
