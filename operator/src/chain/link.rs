//! A connection to a chain, with the wallets that its keys give.

use alloy::primitives::{Address, B256};
use url::Url;
use writ_api::{ChainSpec, Contracts};
use writ_chain::deploy::{Deployed, Manifest, Roles};
use writ_chain::tx::{Session, TxError};

use crate::OperatorError;
use crate::context::Turns;
use crate::keys::{Keyring, Role};

/// A connection to a chain.
pub struct Link {
    /// Where the contracts stand.
    pub manifest: Manifest,
    /// For reading.
    pub reader: Session,
    /// Deploys versions and executes what is due.
    pub deployer: Option<Session>,
    /// Proposes and confirms.
    pub owner: Option<Session>,
    /// Revokes and pauses.
    pub guardian: Option<Session>,
    /// Who may send.
    pub turns: Turns,
}

impl Link {
    /// Connects to the first endpoint that answers for the right chain.
    ///
    /// # Errors
    /// None does, or a key that the Chain names cannot be used.
    pub async fn open(
        spec: &ChainSpec,
        contracts: &Contracts,
        keyring: &Keyring,
        turns: Turns,
    ) -> Result<Self, OperatorError> {
        let (url, reader) = first(spec).await?;
        Ok(Self {
            manifest: manifest(spec.chain_id, contracts)?,
            deployer: wallet(&url, spec, keyring, Role::Deployer).await?,
            owner: wallet(&url, spec, keyring, Role::Owner).await?,
            guardian: wallet(&url, spec, keyring, Role::Guardian).await?,
            reader,
            turns,
        })
    }
}

async fn wallet(
    url: &Url,
    spec: &ChainSpec,
    keyring: &Keyring,
    role: Role,
) -> Result<Option<Session>, OperatorError> {
    let Some(key) = keyring.signer(spec, role)? else {
        return Ok(None);
    };
    Ok(Some(
        Session::with_wallet(url, Some(spec.chain_id), key).await?,
    ))
}

async fn first(spec: &ChainSpec) -> Result<(Url, Session), OperatorError> {
    let mut last = OperatorError::ChainNotReady("the Chain names no endpoint".to_owned());
    for text in &spec.endpoints {
        let Ok(url) = Url::parse(text) else {
            last = OperatorError::ChainNotReady("an endpoint of the Chain is not a URL".to_owned());
            continue;
        };
        match Session::connect(&url, Some(spec.chain_id)).await {
            Ok(session) => return Ok((url, session)),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// The addresses in the form that transactions take. Roles and code hashes are not in it.
///
/// # Errors
/// An address is not one.
pub fn manifest(chain_id: u64, contracts: &Contracts) -> Result<Manifest, TxError> {
    let named = [
        ("AgentRegistry", &contracts.agent_registry),
        ("PolicyRegistry", &contracts.policy_registry),
        ("ApprovalRegistry", &contracts.approval_registry),
        ("SaeAnchor", &contracts.anchor),
        ("Multisig", &contracts.multisig),
        ("TimelockController", &contracts.timelock),
    ];
    let contracts = named.into_iter().map(|(name, text)| {
        let address: Address = text
            .parse()
            .map_err(|_| TxError::Manifest(format!("{name} (not an address)")))?;
        let deployed = Deployed {
            address,
            code_hash: B256::ZERO,
            init_code_hash: B256::ZERO,
        };
        Ok((name.to_owned(), deployed))
    });
    Ok(Manifest {
        chain_id,
        block: 0,
        salt: B256::ZERO,
        delay: 0,
        roles: Roles {
            owners: Vec::new(),
            threshold: 0,
            guardian: Address::ZERO,
            anchorer: Address::ZERO,
            approvers: Vec::new(),
            approval_threshold: 0,
        },
        contracts: contracts.collect::<Result<_, TxError>>()?,
    })
}
