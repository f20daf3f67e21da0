//! Deployment of all contracts to any EVM chain, as often as one likes.
//!
//! Every contract goes to the address that follows from its init code (CREATE2 through the deterministic deployer that
//! most chains have). What is there already is left alone, so a second run changes nothing and an interrupted one goes
//! on. Roles are set by constructors: the deployer has no right at any time.

mod manifest;
mod plan;

pub use manifest::{Deployed, Manifest, Roles};
pub use plan::{DeployPlan, Profile};

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy::sol_types::SolValue;

use crate::bindings::{
    AgentRegistry, ApprovalRegistry, ModelRegistry, Multisig, PolicyRegistry, SaeAnchor,
    TimelockController,
};
use crate::tx::{Session, TxError};

/// The deterministic deployer: takes salt and init code, creates by CREATE2.
pub const DEPLOYER: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// Deploys whatever is missing and says where everything is.
///
/// # Errors
/// The plan is not usable, the chain has no deterministic deployer, the key cannot pay, or the endpoint fails.
pub async fn deploy(session: &Session, plan: &DeployPlan) -> Result<Manifest, TxError> {
    plan.check()?;
    let mut contracts = BTreeMap::new();
    let owners = (plan.owners.clone(), U256::from(plan.threshold)).abi_encode_params();
    let multisig = place(
        session,
        plan,
        &mut contracts,
        "Multisig",
        &Multisig::BYTECODE,
        owners,
    )
    .await?;
    // The multisig proposes and cancels; anyone executes what is due; nobody is admin.
    let governed_by = (
        U256::from(plan.delay.as_secs()),
        vec![multisig],
        vec![Address::ZERO],
        Address::ZERO,
    );
    let code = &TimelockController::BYTECODE;
    let timelock = place(
        session,
        plan,
        &mut contracts,
        "TimelockController",
        code,
        governed_by.abi_encode_params(),
    )
    .await?;
    let governed = (timelock, multisig, plan.guardian);
    for (name, code) in [
        ("AgentRegistry", &AgentRegistry::BYTECODE),
        ("PolicyRegistry", &PolicyRegistry::BYTECODE),
        ("ModelRegistry", &ModelRegistry::BYTECODE),
    ] {
        place(
            session,
            plan,
            &mut contracts,
            name,
            code,
            governed.abi_encode_params(),
        )
        .await?;
    }
    let anchor = (timelock, multisig, plan.guardian, plan.anchorer).abi_encode_params();
    place(
        session,
        plan,
        &mut contracts,
        "SaeAnchor",
        &SaeAnchor::BYTECODE,
        anchor,
    )
    .await?;
    let approvers = plan.approvers.clone();
    let threshold = U256::from(plan.approval_threshold);
    let approvals = (
        timelock,
        multisig,
        plan.guardian,
        plan.anchorer,
        approvers,
        threshold,
    )
        .abi_encode_params();
    place(
        session,
        plan,
        &mut contracts,
        "ApprovalRegistry",
        &ApprovalRegistry::BYTECODE,
        approvals,
    )
    .await?;
    Ok(Manifest {
        chain_id: session.chain_id(),
        block: session.block_number().await?,
        salt: plan.salt,
        delay: plan.delay.as_secs(),
        roles: Roles {
            owners: plan.owners.clone(),
            threshold: plan.threshold,
            guardian: plan.guardian,
            anchorer: plan.anchorer,
            approvers: plan.approvers.clone(),
            approval_threshold: plan.approval_threshold,
        },
        contracts,
    })
}

/// Creates one contract by its init code unless it is there, and returns its address.
///
/// # Errors
/// As [`deploy`].
pub async fn create(
    session: &Session,
    name: &str,
    init_code: &Bytes,
    salt: B256,
) -> Result<Address, TxError> {
    let address = DEPLOYER.create2_from_code(salt, init_code);
    if !session.code(address).await?.is_empty() {
        return Ok(address);
    }
    if session.code(DEPLOYER).await?.is_empty() {
        return Err(TxError::NoDeployer(DEPLOYER));
    }
    let data = [salt.as_slice(), init_code].concat();
    session
        .send("deploying a contract", DEPLOYER, data.into())
        .await?;
    if session.code(address).await?.is_empty() {
        return Err(TxError::NoCode {
            name: name.to_owned(),
            address,
        });
    }
    tracing::info!(name, %address, "contract deployed");
    Ok(address)
}

async fn place(
    session: &Session,
    plan: &DeployPlan,
    contracts: &mut BTreeMap<String, Deployed>,
    name: &str,
    bytecode: &Bytes,
    arguments: Vec<u8>,
) -> Result<Address, TxError> {
    let init_code: Bytes = [bytecode.as_ref(), &arguments].concat().into();
    let address = create(session, name, &init_code, plan.salt).await?;
    let code_hash = keccak256(session.code(address).await?);
    let deployed = Deployed {
        address,
        code_hash,
        init_code_hash: keccak256(&init_code),
    };
    contracts.insert(name.to_owned(), deployed);
    Ok(address)
}
