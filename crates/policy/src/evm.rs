//! Contract calls under `writ-evm/1`, in revm.

use std::sync::LazyLock;

use alloy_primitives::map::AddressSet;
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::bytecode::opcode;
use revm::context::{
    CfgEnv, Context, Evm, FrameStack, Journal, LocalContext, LocalContextTr, TxEnv,
};
use revm::context_interface::JournalTr;
use revm::context_interface::context::ContextError;
use revm::handler::instructions::EthInstructions;
use revm::handler::precompile_output_to_interpreter_result;
use revm::handler::{EthFrame, EvmTr, FrameResult, ItemOrResult, PrecompileProvider};
use revm::interpreter::interpreter::EthInterpreter;
use revm::interpreter::interpreter_action::FrameInit;
use revm::interpreter::{
    CallInput, CallInputs, CallScheme, CallValue, FrameInput, Instruction, InstructionContext,
    InstructionResult, InterpreterResult, SharedMemory,
};
use revm::precompile::{hash, identity};

use crate::database::{ProvedState, ReadError, Unproved};
use crate::profile::{CALLER, GAS_LIMIT, IDENTITY, MAX_DEPTH, SHA256, SPEC, block_env};
use crate::{EvalError, ProfileRefusal, Snapshot, StateKey};

type EvmContext<'a> = Context<
    revm::context::BlockEnv,
    TxEnv,
    CfgEnv,
    ProvedState<'a>,
    Journal<ProvedState<'a>>,
    Trace,
    LocalContext,
>;
type Inner<'a> = Evm<
    EvmContext<'a>,
    (),
    EthInstructions<EthInterpreter, EvmContext<'a>>,
    ProfilePrecompiles,
    EthFrame<EthInterpreter>,
>;

/// What the profile notes while code runs.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Set by a forbidden instruction just before it halts its frame.
    forbidden: Option<&'static str>,
    /// (address, code hash) of all code that ran, unsorted, with repetitions.
    ran: Vec<(Address, B256)>,
}

/// An EVM over one snapshot. One is made per decision; what it has loaded serves all calls of that decision.
pub(crate) struct ProfileEvm<'a> {
    inner: Inner<'a>,
}

/// Gas tables and the like, made once.
static CFG: LazyLock<CfgEnv> = LazyLock::new(|| CfgEnv::new_with_spec(SPEC));

impl<'a> ProfileEvm<'a> {
    /// An EVM in which every unproved read is an error.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self::with(snapshot, Unproved::Fails)
    }

    fn with(snapshot: &'a Snapshot, unproved: Unproved) -> Self {
        let mut cfg = CFG.clone();
        cfg.chain_id = snapshot.chain_id;
        let tx = TxEnv {
            caller: CALLER,
            gas_limit: GAS_LIMIT,
            ..TxEnv::default()
        };
        let mut journaled_state = Journal::new(ProvedState::new(snapshot, unproved));
        journaled_state.set_spec_id(SPEC);
        let ctx = Context {
            block: block_env(&snapshot.header),
            tx,
            cfg,
            journaled_state,
            chain: Trace::default(),
            local: LocalContext::default(),
            error: Ok(()),
        };
        let inner = Evm {
            ctx,
            inspector: (),
            instruction: instructions(),
            precompiles: ProfilePrecompiles::default(),
            frame_stack: FrameStack::new(),
        };
        Self { inner }
    }

    /// One static call from outside. The answer is what the contract returned.
    ///
    /// # Errors
    /// [`EvalError::Missing`] with every slot that this call is known to lack, or [`EvalError::Refused`].
    pub fn call(&mut self, to: Address, input: Bytes) -> Result<Bytes, EvalError> {
        match self.run(to, input.clone()) {
            Ok(output) => Ok(output),
            Err(ReadError::Refused(refusal)) => Err(refusal.into()),
            Err(ReadError::Missing(keys)) => Err(EvalError::Missing(self.explore(to, input, keys))),
        }
    }

    /// What was read, in order.
    pub fn touched(&self) -> &[StateKey] {
        &self.inner.ctx.journaled_state.database.touched
    }

    /// (address, code hash) of all code that ran.
    pub fn ran(&self) -> &[(Address, B256)] {
        &self.inner.ctx.chain.ran
    }

    /// After a first missing key: the keys that the same call would ask for next, as far as they do not depend on the
    /// unknown values. Keys only; no outcome leaves this function.
    fn explore(&self, to: Address, input: Bytes, first: Vec<StateKey>) -> Vec<StateKey> {
        let snapshot = self.inner.ctx.journaled_state.database.snapshot;
        let mut scout = ProfileEvm::with(snapshot, Unproved::IsNoted);
        let end = scout.run(to, input);
        let mut keys = first;
        keys.append(&mut scout.inner.ctx.journaled_state.database.missing);
        if let Err(ReadError::Missing(mut more)) = end {
            keys.append(&mut more);
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn run(&mut self, to: Address, input: Bytes) -> Result<Bytes, ReadError> {
        let outcome = self.run_frames(to, input);
        // The next call starts with every account and slot cold again, so that gas never depends on what ran before.
        self.inner.ctx.error = Ok(());
        self.inner.ctx.local.clear();
        self.inner.ctx.journaled_state.commit_tx();
        self.inner.frame_stack.clear();
        outcome
    }

    fn run_frames(&mut self, to: Address, input: Bytes) -> Result<Bytes, ReadError> {
        let account = self.inner.ctx.journaled_state.load_account_with_code(to)?;
        let known_bytecode = (
            account.info.code_hash,
            account.info.code.clone().unwrap_or_default(),
        );
        let frame_input = FrameInput::Call(Box::new(CallInputs {
            input: CallInput::Bytes(input),
            gas_limit: GAS_LIMIT,
            target_address: to,
            bytecode_address: to,
            known_bytecode,
            caller: CALLER,
            value: CallValue::Apparent(U256::ZERO),
            scheme: CallScheme::StaticCall,
            is_static: true,
            return_memory_offset: 0..0,
            reservoir: 0,
            charged_new_account_state_gas: false,
        }));
        let memory =
            SharedMemory::new_with_buffer(self.inner.ctx.local.shared_memory_buffer().clone());
        let mut init = FrameInit {
            depth: 0,
            memory,
            frame_input,
        };
        loop {
            self.admit(&init)?;
            let mut result = match self.inner.frame_init(init).map_err(read_error)? {
                ItemOrResult::Item(_) => None,
                ItemOrResult::Result(result) => Some(result),
            };
            init = loop {
                if let Some(result) = result.take() {
                    self.accept(&result)?;
                    if let Some(last) =
                        self.inner.frame_return_result(result).map_err(read_error)?
                    {
                        return output(to, last);
                    }
                }
                match self.inner.frame_run().map_err(read_error)? {
                    ItemOrResult::Item(init) => break init,
                    ItemOrResult::Result(ended) => result = Some(ended),
                }
            };
        }
    }

    /// Before a frame starts: is there code here that may run?
    fn admit(&mut self, init: &FrameInit) -> Result<(), ReadError> {
        let FrameInput::Call(call) = &init.frame_input else {
            return Err(refused(ProfileRefusal::ForbiddenOpcode { name: "CREATE" }));
        };
        if init.depth > MAX_DEPTH {
            return Err(refused(ProfileRefusal::CallTooDeep));
        }
        let address = call.bytecode_address;
        if address == SHA256 || address == IDENTITY {
            return Ok(());
        }
        let (hash, code) = &call.known_bytecode;
        if code.is_empty() {
            return Err(refused(ProfileRefusal::NoCode(address)));
        }
        self.inner.ctx.chain.ran.push((address, *hash));
        Ok(())
    }

    /// After a frame ended: only a return or a revert is an ending that every chain agrees on.
    fn accept(&mut self, ended: &FrameResult) -> Result<(), ReadError> {
        if let Err(error) = std::mem::replace(&mut self.inner.ctx.error, Ok(())) {
            return Err(read_error(error));
        }
        if let Some(name) = self.inner.ctx.chain.forbidden.take() {
            return Err(refused(ProfileRefusal::ForbiddenOpcode { name }));
        }
        match ended.instruction_result() {
            InstructionResult::Stop | InstructionResult::Return | InstructionResult::Revert => {
                Ok(())
            }
            InstructionResult::OutOfGas
            | InstructionResult::MemoryOOG
            | InstructionResult::MemoryLimitOOG
            | InstructionResult::PrecompileOOG
            | InstructionResult::InvalidOperandOOG
            | InstructionResult::ReentrancySentryOOG => Err(refused(ProfileRefusal::OutOfGas)),
            InstructionResult::CallTooDeep => Err(refused(ProfileRefusal::CallTooDeep)),
            other => Err(refused(ProfileRefusal::Halted(format!("{other:?}")))),
        }
    }
}

fn output(to: Address, last: FrameResult) -> Result<Bytes, ReadError> {
    match (last.instruction_result(), last) {
        (InstructionResult::Return, FrameResult::Call(outcome)) => Ok(outcome.result.output),
        (InstructionResult::Stop, _) => Ok(Bytes::new()),
        _ => Err(refused(ProfileRefusal::Reverted(to))),
    }
}

fn refused(refusal: ProfileRefusal) -> ReadError {
    ReadError::Refused(refusal)
}

fn read_error(error: ContextError<ReadError>) -> ReadError {
    match error {
        ContextError::Db(error) => error,
        ContextError::Custom(message) => refused(ProfileRefusal::Halted(message)),
    }
}

/// The instruction set: Ethereum's, with the profile's refusals in it.
fn instructions<'a>() -> EthInstructions<EthInterpreter, EvmContext<'a>> {
    let mut set = EthInstructions::new_mainnet_with_spec(SPEC);
    set.insert_instruction(
        opcode::BLOCKHASH,
        Instruction::new(forbid::<{ opcode::BLOCKHASH }>),
        0,
    );
    set.insert_instruction(
        opcode::CREATE,
        Instruction::new(forbid::<{ opcode::CREATE }>),
        0,
    );
    set.insert_instruction(
        opcode::CREATE2,
        Instruction::new(forbid::<{ opcode::CREATE2 }>),
        0,
    );
    set.insert_instruction(
        opcode::SELFDESTRUCT,
        Instruction::new(forbid::<{ opcode::SELFDESTRUCT }>),
        0,
    );
    set.insert_instruction(
        opcode::DELEGATECALL,
        Instruction::new(forbid::<{ opcode::DELEGATECALL }>),
        0,
    );
    set.insert_instruction(
        opcode::CALLCODE,
        Instruction::new(forbid::<{ opcode::CALLCODE }>),
        0,
    );
    set
}

fn forbid<const OPCODE: u8>(
    context: InstructionContext<'_, EvmContext<'_>, EthInterpreter>,
) -> Result<(), InstructionResult> {
    context.host.chain.forbidden = Some(opcode::OpCode::name_by_op(OPCODE));
    Err(InstructionResult::NotActivated)
}

/// SHA-256 and identity. Every other precompile address has no code, and is refused for that.
#[derive(Debug, Default)]
struct ProfilePrecompiles {
    warm: AddressSet,
}

impl<'a> PrecompileProvider<EvmContext<'a>> for ProfilePrecompiles {
    type Output = InterpreterResult;

    fn set_spec(&mut self, _spec: revm::primitives::hardfork::SpecId) -> bool {
        false
    }

    fn run(
        &mut self,
        context: &mut EvmContext<'a>,
        inputs: &CallInputs,
    ) -> Result<Option<InterpreterResult>, String> {
        let precompile = match inputs.bytecode_address {
            SHA256 => hash::SHA256,
            IDENTITY => identity::FUN,
            _ => return Ok(None),
        };
        let output = precompile
            .execute(
                &inputs.input.as_bytes(context),
                inputs.gas_limit,
                inputs.reservoir,
            )
            .map_err(|error| error.to_string())?;
        Ok(Some(precompile_output_to_interpreter_result(
            output,
            inputs.gas_limit,
        )))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &self.warm
    }
}
