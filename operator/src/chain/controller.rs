//! Looks at chains, and deploys to development chains.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use futures::StreamExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use url::Url;
use writ_api::{Chain, ChainSpec, Contracts, EndpointStatus, Governance};
use writ_chain::bindings::{AgentRegistry, Multisig, TimelockController};
use writ_chain::deploy::{DeployPlan, deploy};
use writ_chain::tx::{Session, TxError};

use super::core::{self, Seen};
use super::manifest;
use crate::error::chain_cause;
use crate::keys::Role;
use crate::{Context, OperatorError, report};

/// How often a chain is looked at.
const EVERY: Duration = Duration::from_secs(10);
const EVERY_UNREADY: Duration = Duration::from_secs(2);

/// Runs until the process ends.
pub async fn run(context: Arc<Context>) {
    let chains: Api<Chain> = Api::all(context.client.clone());
    Controller::new(chains, watcher::Config::default())
        .with_config(Config::default().concurrency(4))
        .run(reconcile, report::retry::<Chain>, context)
        .for_each(|_| futures::future::ready(()))
        .await;
}

async fn reconcile(chain: Arc<Chain>, context: Arc<Context>) -> Result<Action, OperatorError> {
    report::counted(&context, "chain", chain.as_ref(), look(&chain, &context)).await
}

async fn look(chain: &Chain, context: &Context) -> Result<Action, OperatorError> {
    let name = chain.name_any();
    let seen = observe(chain, context).await;
    let before = chain.status.clone().unwrap_or_default();
    let generation = chain.metadata.generation.unwrap_or_default();
    let status = core::status(&before, &chain.spec, generation, &seen, &context.now());
    if let Some(block) = status.block {
        context
            .metrics
            .chain_block
            .with_label_values(&[&name])
            .set(block);
    }
    let ready = i64::from(
        status
            .conditions
            .first()
            .is_some_and(|c| c.status == "True"),
    );
    context
        .metrics
        .chain_ready
        .with_label_values(&[&name])
        .set(ready);
    report::transitions(context, chain, &before.conditions, &status.conditions).await;
    // The block alone is worth a write only now and then: every policy reads this object.
    let settled = writ_api::ChainStatus {
        block: before.block,
        ..status.clone()
    } == before;
    let far = status
        .block
        .unwrap_or(0)
        .abs_diff(before.block.unwrap_or(0))
        > 30;
    if !settled || far {
        let api: Api<Chain> = Api::all(context.client.clone());
        report::patch_status(&api, &name, &status).await?;
    }
    Ok(Action::requeue(if ready == 1 {
        EVERY
    } else {
        EVERY_UNREADY
    }))
}

async fn observe(chain: &Chain, context: &Context) -> Seen {
    let spec = &chain.spec;
    let mut endpoints = Vec::new();
    let mut first = None;
    for text in &spec.endpoints {
        let (status, session) = endpoint(text, spec.chain_id).await;
        first = first.or(session);
        endpoints.push(status);
    }
    let mut seen = Seen {
        endpoints,
        ..Seen::default()
    };
    if let Some((url, session)) = first {
        match contracts(chain, context, &url, &session).await {
            Ok(found) => seen.contracts = Some(found),
            Err(problem) => seen.problem = Some(problem),
        }
    }
    seen
}

async fn endpoint(text: &str, chain_id: u64) -> (EndpointStatus, Option<(Url, Session)>) {
    let host = core::host(text);
    let sick = |problem: String| EndpointStatus {
        host: host.clone(),
        problem: Some(problem),
        ..EndpointStatus::default()
    };
    let Ok(url) = Url::parse(text) else {
        return (sick("not a URL".to_owned()), None);
    };
    let session = match Session::connect(&url, Some(chain_id)).await {
        Ok(session) => session,
        Err(error) => return (sick(error.to_string()), None),
    };
    match session.block_number().await {
        Ok(block) => {
            let status = EndpointStatus {
                host: host.clone(),
                healthy: true,
                block: i64::try_from(block).ok(),
                problem: None,
            };
            (status, Some((url, session)))
        }
        Err(error) => (sick(error.to_string()), None),
    }
}

type Problem = (&'static str, String);

async fn contracts(
    chain: &Chain,
    context: &Context,
    url: &Url,
    session: &Session,
) -> Result<(Contracts, Governance), Problem> {
    let spec = &chain.spec;
    let failed = |error: TxError| (chain_cause(&error), error.to_string());
    let contracts = match &spec.contracts {
        Some(contracts) => contracts.clone(),
        None if spec.development => development(chain, context, url).await?,
        None => return Err(("ContractsMissing", "name the deployed contracts".to_owned())),
    };
    for role in [Role::Deployer, Role::Owner, Role::Guardian] {
        let usable = context.keyring.signer(spec, role);
        usable.map_err(|error| ("KeyUnusable", error.to_string()))?;
    }
    let manifest = manifest(spec.chain_id, &contracts).map_err(failed)?;
    for (name, there) in &manifest.contracts {
        if session
            .code(there.address)
            .await
            .map_err(failed)?
            .is_empty()
        {
            return Err((
                "ContractsMissing",
                format!("there is no code of {name} at {}", there.address),
            ));
        }
    }
    let governance = governance(session, &contracts).await?;
    Ok((contracts, governance))
}

async fn development(chain: &Chain, context: &Context, url: &Url) -> Result<Contracts, Problem> {
    let spec: &ChainSpec = &chain.spec;
    let key = |role| {
        let signer = context.keyring.signer(spec, role);
        signer
            .map_err(|error| ("KeyUnusable", error.to_string()))?
            .ok_or_else(|| ("KeyUnusable", "a development key is missing".to_owned()))
    };
    let failed = |error: TxError| ("DeployFailed", error.to_string());
    let plan = DeployPlan::development(
        key(Role::Owner)?.address(),
        key(Role::Guardian)?.address(),
        key(Role::Anchorer)?.address(),
        key(Role::Approver)?.address(),
    );
    let turns = context.turns(&chain.name_any());
    let _turn = turns.governance.lock().await;
    let session = Session::with_wallet(url, Some(spec.chain_id), key(Role::Deployer)?)
        .await
        .map_err(failed)?;
    let manifest = deploy(&session, &plan).await.map_err(failed)?;
    let address = |name: &str| {
        manifest
            .address(name)
            .map(|a| a.to_string())
            .map_err(failed)
    };
    Ok(Contracts {
        agent_registry: address("AgentRegistry")?,
        policy_registry: address("PolicyRegistry")?,
        approval_registry: address("ApprovalRegistry")?,
        anchor: address("SaeAnchor")?,
        multisig: address("Multisig")?,
        timelock: address("TimelockController")?,
    })
}

/// Who governs, as the contracts themselves say. Registries that obey another timelock or multisig
/// than the Chain names are refused.
async fn governance(session: &Session, contracts: &Contracts) -> Result<Governance, Problem> {
    let parse = |text: &str| -> Result<Address, Problem> {
        text.parse()
            .map_err(|_| ("ContractsMismatch", format!("{text} is not an address")))
    };
    let read = |what: &str, error: alloy::contract::Error| {
        let text = error.to_string();
        // Errors of the transport name the endpoint's URL.
        let text = text.split("http").next().unwrap_or_default().to_owned();
        (
            "ContractsMismatch",
            format!("{what} does not answer as it should: {text}"),
        )
    };
    let multisig = Multisig::new(parse(&contracts.multisig)?, session.provider());
    let timelock = TimelockController::new(parse(&contracts.timelock)?, session.provider());
    let owners = multisig
        .owners()
        .call()
        .await
        .map_err(|e| read("the multisig", e))?;
    let threshold = multisig
        .threshold()
        .call()
        .await
        .map_err(|e| read("the multisig", e))?;
    let delay = timelock
        .getMinDelay()
        .call()
        .await
        .map_err(|e| read("the timelock", e))?;
    let mut guardian = Address::ZERO;
    for (name, text) in [
        ("the agent registry", &contracts.agent_registry),
        ("the policy registry", &contracts.policy_registry),
        ("the approval registry", &contracts.approval_registry),
        ("the anchor", &contracts.anchor),
    ] {
        // The functions of `Governed` are the same in all of them.
        let governed = AgentRegistry::new(parse(text)?, session.provider());
        let obeys = governed
            .timelock()
            .call()
            .await
            .map_err(|e| read(name, e))?;
        if obeys != *timelock.address() {
            return Err((
                "ContractsMismatch",
                format!("{name} obeys the timelock {obeys}, the Chain names another"),
            ));
        }
        guardian = governed
            .guardian()
            .call()
            .await
            .map_err(|e| read(name, e))?;
    }
    let delay: u64 = delay.saturating_to::<u64>();
    Ok(Governance {
        owners: i64::try_from(owners.len()).unwrap_or(i64::MAX),
        threshold: threshold.min(U256::from(i64::MAX as u64)).saturating_to(),
        delay: humantime::format_duration(Duration::from_secs(delay)).to_string(),
        guardian: guardian.to_string(),
    })
}
