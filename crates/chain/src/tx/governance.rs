//! Changes that only the owners make: proposed to the multisig, queued in the timelock, carried out after its delay.
//!
//! Every owner runs the same command. [`Governance::advance`] looks at the chain and takes whatever step is next, as
//! far as this owner can go; run again, it goes on from there. With one owner and no delay it goes all the way.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use serde::Serialize;

use super::{Session, TxError};
use crate::bindings::{Multisig, TimelockController};
use crate::deploy::Manifest;

/// How many past proposals are searched for an open one.
const SEARCHED_PROPOSALS: u64 = 256;
/// How often one operation can be repeated.
const MAX_REPEATS: u64 = 256;

/// One call of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Contract.
    pub target: Address,
    /// ABI-encoded call.
    pub data: Bytes,
}

impl Call {
    pub(crate) fn new(target: Address, call: &impl SolCall) -> Self {
        Self {
            target,
            data: call.abi_encode().into(),
        }
    }
}

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Progress {
    /// The chain already says so; nothing was sent.
    Unchanged,
    /// More owners must confirm: each runs the same command.
    Proposed {
        /// Number of the proposal in the multisig.
        proposal: u64,
        /// Confirmations so far.
        confirmations: u32,
        /// Confirmations needed.
        threshold: u64,
    },
    /// In the timelock: anyone runs the same command when it is ready.
    Queued {
        /// Operation id in the timelock.
        operation: B256,
        /// Unix seconds.
        ready_at: u64,
    },
    /// Done.
    Executed {
        /// Transaction that did it.
        transaction: B256,
        /// Block that holds it.
        block: u64,
    },
}

/// Where a change stands, by looking only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not in the timelock: the multisig must make this call.
    Unset {
        /// The call that puts it there.
        schedule: Call,
        /// The open proposal of it, if an owner made one.
        proposal: Option<Proposal>,
    },
    /// In the timelock.
    Queued {
        /// Operation id in the timelock.
        operation: B256,
        /// Unix seconds.
        ready_at: u64,
        /// Whether anyone may execute it now.
        ready: bool,
    },
}

/// An open proposal in the multisig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// Its number.
    pub number: u64,
    /// Confirmations so far.
    pub confirmations: u32,
    /// Confirmations needed.
    pub threshold: u64,
}

/// The owners' contracts.
#[derive(Debug, Clone, Copy)]
pub struct Governance {
    multisig: Address,
    timelock: Address,
}

impl Governance {
    /// The governance of a deployment.
    ///
    /// # Errors
    /// The manifest names no multisig or timelock.
    pub fn of(manifest: &Manifest) -> Result<Self, TxError> {
        Ok(Self {
            multisig: manifest.address("Multisig")?,
            timelock: manifest.address("TimelockController")?,
        })
    }

    /// Takes the next steps of a change that goes through the timelock; all calls happen together or not at all.
    ///
    /// # Errors
    /// The session's key may not take the next step, a contract refuses, or the endpoint fails.
    pub async fn advance(&self, session: &Session, calls: &[Call]) -> Result<Progress, TxError> {
        let operation = self.operation(session, calls).await?;
        if operation.state == State::Unset {
            let schedule = Call::new(self.timelock, &operation.schedule);
            match self.through_multisig(session, &schedule).await? {
                Progress::Executed { .. } => {}
                waiting => return Ok(waiting),
            }
        }
        let timelock = TimelockController::new(self.timelock, session.provider());
        let id = operation.id;
        if !timelock
            .isOperationReady(id)
            .call()
            .await
            .map_err(|e| TxError::contract("reading the operation", e))?
        {
            let ready_at = timelock.getTimestamp(id).call().await;
            let ready_at = ready_at.map_err(|e| TxError::contract("reading the operation", e))?;
            return Ok(Progress::Queued {
                operation: id,
                ready_at: ready_at.saturating_to(),
            });
        }
        let execute = operation.execute().abi_encode().into();
        let receipt = session
            .send("executing the queued operation", self.timelock, execute)
            .await?;
        Ok(Progress::Executed {
            transaction: receipt.transaction_hash,
            block: receipt.block_number.unwrap_or_default(),
        })
    }

    /// Where a change stands. Sends nothing, and needs no key.
    ///
    /// # Errors
    /// The endpoint fails.
    pub async fn standing(&self, session: &Session, calls: &[Call]) -> Result<Standing, TxError> {
        let operation = self.operation(session, calls).await?;
        if operation.state == State::Pending {
            let read = |e| TxError::contract("reading the operation", e);
            let timelock = TimelockController::new(self.timelock, session.provider());
            let id = operation.id;
            let ready_at = timelock.getTimestamp(id).call().await.map_err(read)?;
            return Ok(Standing::Queued {
                operation: id,
                ready_at: ready_at.saturating_to(),
                ready: timelock.isOperationReady(id).call().await.map_err(read)?,
            });
        }
        let schedule = Call::new(self.timelock, &operation.schedule);
        let proposal = match self.open_proposal(session, &schedule).await? {
            None => None,
            Some(id) => {
                let read = |e| TxError::contract("reading the multisig", e);
                let multisig = Multisig::new(self.multisig, session.provider());
                let threshold = multisig.threshold().call().await.map_err(read)?;
                let there = multisig.proposalOf(id).call().await.map_err(read)?;
                Some(Proposal {
                    number: id.saturating_to(),
                    confirmations: there.confirmations,
                    threshold: threshold.saturating_to(),
                })
            }
        };
        Ok(Standing::Unset { schedule, proposal })
    }

    /// Takes the next steps of a call that the multisig makes itself, without delay.
    ///
    /// # Errors
    /// As [`Governance::advance`].
    pub async fn through_multisig(
        &self,
        session: &Session,
        call: &Call,
    ) -> Result<Progress, TxError> {
        let from = session.sender()?;
        let read = |e| TxError::contract("reading the multisig", e);
        let multisig = Multisig::new(self.multisig, session.provider());
        if !multisig.isOwner(from).call().await.map_err(read)? {
            return Err(TxError::NotOwner(from));
        }
        let id = match self.open_proposal(session, call).await? {
            Some(id) => {
                if !multisig.confirmed(id, from).call().await.map_err(read)? {
                    let confirm = Multisig::confirmCall { id }.abi_encode().into();
                    session
                        .send("confirming the proposal", self.multisig, confirm)
                        .await?;
                }
                id
            }
            None => {
                let data = Multisig::proposeCall {
                    target: call.target,
                    data: call.data.clone(),
                }
                .abi_encode();
                session
                    .send("proposing the change", self.multisig, data.into())
                    .await?;
                self.open_proposal(session, call).await?.ok_or_else(|| TxError::Endpoint {
                    what: "reading the multisig",
                    reason: "the proposal just made is not there: the endpoint lags behind, try again".into(),
                })?
            }
        };
        let threshold = multisig.threshold().call().await.map_err(read)?;
        let confirmations = multisig
            .proposalOf(id)
            .call()
            .await
            .map_err(read)?
            .confirmations;
        if U256::from(confirmations) < threshold {
            let (proposal, threshold) = (id.saturating_to(), threshold.saturating_to());
            return Ok(Progress::Proposed {
                proposal,
                confirmations,
                threshold,
            });
        }
        let execute = Multisig::executeCall { id }.abi_encode().into();
        let receipt = session
            .send("executing the proposal", self.multisig, execute)
            .await?;
        Ok(Progress::Executed {
            transaction: receipt.transaction_hash,
            block: receipt.block_number.unwrap_or_default(),
        })
    }

    /// The newest open proposal of exactly this call.
    async fn open_proposal(&self, session: &Session, call: &Call) -> Result<Option<U256>, TxError> {
        let read = |e| TxError::contract("reading the multisig", e);
        let multisig = Multisig::new(self.multisig, session.provider());
        let generation = multisig.generation().call().await.map_err(read)?;
        let count: u64 = multisig
            .proposalCount()
            .call()
            .await
            .map_err(read)?
            .saturating_to();
        for id in (count.saturating_sub(SEARCHED_PROPOSALS)..count).rev() {
            let id = U256::from(id);
            let proposal = multisig.proposalOf(id).call().await.map_err(read)?;
            let same = proposal.target == call.target && proposal.data == call.data;
            if same && !proposal.executed && proposal.generation == generation {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The operation with the first salt that was not used up: a change may be made again later.
    async fn operation(&self, session: &Session, calls: &[Call]) -> Result<Operation, TxError> {
        let read = |e| TxError::contract("reading the timelock", e);
        let timelock = TimelockController::new(self.timelock, session.provider());
        let delay = timelock.getMinDelay().call().await.map_err(read)?;
        for repeat in 0..MAX_REPEATS {
            let schedule = TimelockController::scheduleBatchCall {
                targets: calls.iter().map(|call| call.target).collect(),
                values: vec![U256::ZERO; calls.len()],
                payloads: calls.iter().map(|call| call.data.clone()).collect(),
                predecessor: B256::ZERO,
                salt: U256::from(repeat).into(),
                delay,
            };
            let (targets, values) = (schedule.targets.clone(), schedule.values.clone());
            let id = timelock
                .hashOperationBatch(
                    targets,
                    values,
                    schedule.payloads.clone(),
                    B256::ZERO,
                    schedule.salt,
                )
                .call()
                .await
                .map_err(read)?;
            if !timelock.isOperation(id).call().await.map_err(read)? {
                return Ok(Operation {
                    id,
                    state: State::Unset,
                    schedule,
                });
            }
            if !timelock.isOperationDone(id).call().await.map_err(read)? {
                return Ok(Operation {
                    id,
                    state: State::Pending,
                    schedule,
                });
            }
        }
        Err(TxError::Repeated(MAX_REPEATS))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Unset,
    Pending,
}

struct Operation {
    id: B256,
    state: State,
    schedule: TimelockController::scheduleBatchCall,
}

impl Operation {
    fn execute(&self) -> TimelockController::executeBatchCall {
        TimelockController::executeBatchCall {
            targets: self.schedule.targets.clone(),
            values: self.schedule.values.clone(),
            payloads: self.schedule.payloads.clone(),
            predecessor: self.schedule.predecessor,
            salt: self.schedule.salt,
        }
    }
}
