//! What stands where: written by a deployment, read by everything else.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, keccak256};
use serde::{Deserialize, Serialize};
use writ_policy::Registries;

use crate::tx::{Session, TxError};

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Newest block when it was written.
    pub block: u64,
    /// CREATE2 salt.
    pub salt: B256,
    /// Delay of the timelock in seconds.
    pub delay: u64,
    /// Who may do what, as deployed; the contracts say what holds now.
    pub roles: Roles,
    /// Contracts by name.
    pub contracts: BTreeMap<String, Deployed>,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Owners of the multisig.
    pub owners: Vec<Address>,
    /// How many of them must agree.
    pub threshold: u32,
    /// Revokes and pauses.
    pub guardian: Address,
    /// Anchors, and marks approvals as used.
    pub anchorer: Address,
    /// Approve actions.
    pub approvers: Vec<Address>,
    /// How many of them must agree.
    pub approval_threshold: u32,
}

/// One contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployed {
    /// Where it stands.
    pub address: Address,
    /// keccak256 of its code.
    pub code_hash: B256,
    /// keccak256 of its init code, constructor arguments included: with the salt it gives the address.
    pub init_code_hash: B256,
}

impl Manifest {
    /// Address of a contract.
    ///
    /// # Errors
    /// The manifest does not name it.
    pub fn address(&self, name: &str) -> Result<Address, TxError> {
        let deployed = self
            .contracts
            .get(name)
            .ok_or_else(|| TxError::Manifest(name.to_owned()))?;
        Ok(deployed.address)
    }

    /// The registries that decisions read.
    ///
    /// # Errors
    /// The manifest does not name them.
    pub fn registries(&self) -> Result<Registries, TxError> {
        Ok(Registries {
            chain_id: self.chain_id,
            agents: self.address("AgentRegistry")?,
            policies: self.address("PolicyRegistry")?,
        })
    }

    /// Compares every contract's code with the chain. Names those that differ.
    ///
    /// # Errors
    /// The session is of another chain, or the endpoint fails.
    pub async fn mismatches(&self, session: &Session) -> Result<Vec<String>, TxError> {
        if session.chain_id() != self.chain_id {
            return Err(TxError::WrongChain {
                expected: self.chain_id,
                actual: session.chain_id(),
            });
        }
        let mut different = Vec::new();
        for (name, deployed) in &self.contracts {
            if keccak256(session.code(deployed.address).await?) != deployed.code_hash {
                different.push(name.clone());
            }
        }
        Ok(different)
    }
}
