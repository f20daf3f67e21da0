//! The EVM profile `writ-evm/1`: the rules under which contract code runs here, and what they refuse.

use alloy_primitives::{Address, address};
use revm::primitives::hardfork::SpecId;

use crate::{ProvedHeader, StateKey};

/// Name of the profile, recorded in every decision as `pol.evm`.
pub const PROFILE: &str = "writ-evm/1";
/// Hard fork whose opcodes and gas schedule hold.
pub(crate) const SPEC: SpecId = SpecId::OSAKA;
/// CALLER and ORIGIN of every top-level call.
pub const CALLER: Address = Address::ZERO;
/// Gas of each top-level call.
pub const GAS_LIMIT: u64 = 5_000_000;
/// Deepest call, the top-level call being 0.
pub const MAX_DEPTH: usize = 16;
/// Most accounts and slots that one decision may read, so that its witness stays small.
pub const MAX_READS: usize = 2048;
/// Precompiles that exist alike on every EVM chain and cost little. All others refuse.
pub(crate) const SHA256: Address = address!("0x0000000000000000000000000000000000000002");
/// See [`SHA256`].
pub(crate) const IDENTITY: Address = address!("0x0000000000000000000000000000000000000004");

/// Why the profile refused to take a contract's answer. Always a denial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileRefusal {
    /// BLOCKHASH, CREATE, CREATE2, SELFDESTRUCT, DELEGATECALL or CALLCODE, in any frame.
    #[error("contract used {name}, which {PROFILE} does not allow; policies must not depend on it")]
    ForbiddenOpcode {
        /// Mnemonic.
        name: &'static str,
    },
    /// The account's code is an EIP-7702 delegation.
    #[error("account {0} has delegated code (EIP-7702), which {PROFILE} does not run")]
    DelegatedCode(Address),
    /// A call to an account without code, or to a precompile other than SHA-256 and identity.
    #[error(
        "call to {0}, which has no code that {PROFILE} runs; check the address, and that the contract is deployed"
    )]
    NoCode(Address),
    /// Gas ran out in some frame, or a precompile's did.
    #[error("contract ran out of gas (limit {GAS_LIMIT}); a policy must be cheap in every frame")]
    OutOfGas,
    /// Calls nested too deep.
    #[error("contract calls nest deeper than {MAX_DEPTH}")]
    CallTooDeep,
    /// More state than a witness holds.
    #[error("contract reads more than {MAX_READS} accounts and slots")]
    TooManyReads,
    /// A frame ended in an exceptional halt: a state change, a bad jump, an unknown opcode, and so on.
    #[error("contract halted: {0}")]
    Halted(String),
    /// The top-level call reverted.
    #[error("contract {0} reverted")]
    Reverted(Address),
    /// The answer is not exactly the ABI encoding of what was asked for.
    #[error("contract {0} answered with something other than the type its interface declares")]
    MalformedAnswer(Address),
}

impl ProfileRefusal {
    /// A stable kebab-case code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ForbiddenOpcode { .. } => "evm-forbidden-opcode",
            Self::DelegatedCode(_) => "evm-delegated-code",
            Self::NoCode(_) => "evm-no-code",
            Self::OutOfGas => "evm-out-of-gas",
            Self::CallTooDeep => "evm-call-too-deep",
            Self::TooManyReads => "evm-too-many-reads",
            Self::Halted(_) => "evm-halted",
            Self::Reverted(_) => "evm-reverted",
            Self::MalformedAnswer(_) => "evm-malformed-answer",
        }
    }
}

/// Why an evaluation gave no decision. None of these allows anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// State that the snapshot does not hold: fetch and prove it, then evaluate again. As many keys as can be told in
    /// one go.
    #[error("{} pieces of chain state are not proved yet", .0.len())]
    Missing(Vec<StateKey>),
    /// The EVM profile refused. More state does not help.
    #[error(transparent)]
    Refused(#[from] ProfileRefusal),
    /// The snapshot is of another chain than the registries.
    #[error(
        "snapshot is of chain {snapshot}, the registries are on chain {registries}; check the configured chain id"
    )]
    WrongChain {
        /// Chain id of the snapshot.
        snapshot: u64,
        /// Chain id of the registries.
        registries: u64,
    },
}

/// The block environment that the header fixes.
pub(crate) fn block_env(header: &ProvedHeader) -> revm::context::BlockEnv {
    use revm::context_interface::block::BlobExcessGasAndPrice;
    use revm::primitives::{U256, eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE};
    revm::context::BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee,
        difficulty: header.difficulty,
        prevrandao: Some(header.mix_hash),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(
            header.excess_blob_gas,
            BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE,
        )),
        slot_num: 0,
    }
}
