//! The EVM's view of a snapshot: read-only, and every unproved read is an error.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::bytecode::Bytecode;
use revm::database_interface::{DBErrorMarker, Database};
use revm::state::AccountInfo;

use crate::profile::MAX_READS;
use crate::{ProfileRefusal, Snapshot, StateKey};

/// Why a read stopped the evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// Not proved.
    #[error("unproved state")]
    Missing(Vec<StateKey>),
    /// Proved, and not acceptable.
    #[error(transparent)]
    Refused(ProfileRefusal),
}

impl DBErrorMarker for ReadError {}

/// What a read of an unproved slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unproved {
    /// It is an error. Decisions are made this way only.
    Fails,
    /// It is noted and reads as 0, to learn which other slots the call would need. The outcome of such a run is thrown
    /// away.
    IsNoted,
}

/// The database of one evaluation.
#[derive(Debug)]
pub(crate) struct ProvedState<'a> {
    pub snapshot: &'a Snapshot,
    pub unproved: Unproved,
    /// What was read, in order. The EVM caches, so nothing appears twice.
    pub touched: Vec<StateKey>,
    /// What was noted as unproved.
    pub missing: Vec<StateKey>,
}

impl<'a> ProvedState<'a> {
    pub fn new(snapshot: &'a Snapshot, unproved: Unproved) -> Self {
        Self {
            snapshot,
            unproved,
            touched: Vec::with_capacity(48),
            missing: Vec::new(),
        }
    }

    fn touch(&mut self, key: StateKey) -> Result<(), ReadError> {
        if self.touched.len() + self.missing.len() >= MAX_READS {
            return Err(ReadError::Refused(ProfileRefusal::TooManyReads));
        }
        self.touched.push(key);
        Ok(())
    }
}

impl Database for ProvedState<'_> {
    type Error = ReadError;

    /// The account with its code: an account whose code is not at hand cannot be read at all, so that a delegation is
    /// refused whichever opcode looks first.
    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadError> {
        let snapshot = self.snapshot;
        let Some(account) = snapshot.accounts.get(&address) else {
            return Err(ReadError::Missing(vec![
                StateKey::Account(address),
                StateKey::Code(address),
            ]));
        };
        self.touch(StateKey::Account(address))?;
        let Some(state) = account.state else {
            return Ok(None);
        };
        let code = if state.code_hash == KECCAK256_EMPTY {
            Bytecode::default()
        } else {
            let Some(code) = snapshot.codes.get(&state.code_hash) else {
                return Err(ReadError::Missing(vec![StateKey::Code(address)]));
            };
            self.touch(StateKey::Code(address))?;
            code.clone()
        };
        if code.is_eip7702() {
            return Err(ReadError::Refused(ProfileRefusal::DelegatedCode(address)));
        }
        Ok(Some(AccountInfo {
            balance: state.balance,
            nonce: state.nonce,
            code_hash: state.code_hash,
            account_id: None,
            code: Some(code),
        }))
    }

    /// Never reached: [`Database::basic`] supplies the code.
    fn code_by_hash(&mut self, _code_hash: B256) -> Result<Bytecode, ReadError> {
        Err(ReadError::Refused(ProfileRefusal::Halted(
            "code asked for without its account".into(),
        )))
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, ReadError> {
        let key = StateKey::Slot(address, slot);
        let value = self
            .snapshot
            .accounts
            .get(&address)
            .and_then(|account| account.slot(&slot));
        match (value, self.unproved) {
            (Some(value), _) => {
                self.touch(key)?;
                Ok(value)
            }
            (None, Unproved::Fails) => Err(ReadError::Missing(vec![key])),
            (None, Unproved::IsNoted) => {
                if self.touched.len() + self.missing.len() >= MAX_READS {
                    return Err(ReadError::Missing(std::mem::take(&mut self.missing)));
                }
                self.missing.push(key);
                Ok(U256::ZERO)
            }
        }
    }

    /// Never reached: the BLOCKHASH instruction refuses.
    fn block_hash(&mut self, _number: u64) -> Result<B256, ReadError> {
        Err(ReadError::Refused(ProfileRefusal::ForbiddenOpcode {
            name: "BLOCKHASH",
        }))
    }
}
