//! `writ chain`: contracts deployed, changed and read.

mod args;

use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use serde::Serialize;
use writ_chain::deploy::{DeployPlan, Profile, deploy};
use writ_chain::tx::{self, AgentRecord, PolicyVersion, Progress};

pub use self::args::Args;
use self::args::{AgentCommand, ChainArgs, Chosen, Command, DeployArgs, PolicyCommand};
use crate::error::CliError;
use crate::output::emit;

/// Runs the command.
pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Deploy(args) => run_deploy(*args).await,
        Command::Agent(command) => run_agent(command).await,
        Command::Policy(command) => run_policy(command).await,
        Command::Revoke {
            chain,
            agent,
            reason,
        } => {
            let (session, manifest) = chain.open().await?;
            chain.tell(&tx::revoke(&session, &manifest, agent.key()?, &reason).await?)
        }
        Command::Pause { chain, what } => {
            let (session, manifest) = chain.open().await?;
            chain.tell(&match what.choose()? {
                Chosen::Agent(key) => tx::pause_agent(&session, &manifest, key).await?,
                Chosen::Policy(id) => tx::pause_policy(&session, &manifest, id).await?,
                Chosen::All => tx::pause_all(&session, &manifest).await?,
            })
        }
        Command::Resume { chain, what } => {
            let (session, manifest) = chain.open().await?;
            chain.tell(&match what.choose()? {
                Chosen::Agent(key) => tx::reinstate(&session, &manifest, key).await?,
                Chosen::Policy(id) => tx::unpause_policy(&session, &manifest, id).await?,
                Chosen::All => tx::unpause_all(&session, &manifest).await?,
            })
        }
        Command::Guardian { chain, address } => {
            let (session, manifest) = chain.open().await?;
            let steps = tx::set_guardian(&session, &manifest, address).await?;
            emit(chain.endpoint.output, &steps, |steps| {
                steps.iter().map(describe).collect::<Vec<_>>().join("\n")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { chain } => run_status(&chain).await,
    }
}

async fn run_deploy(args: DeployArgs) -> Result<ExitCode, CliError> {
    let session = args.endpoint.session(args.endpoint.chain_id).await?;
    let sender = session.sender()?;
    let named = |role: &str, given: Option<Address>| match given {
        Some(address) => Ok(address),
        None if args.development => Ok(sender),
        None => Err(CliError::Argument(format!("--{role} is missing"))),
    };
    let or_sender = |list: &[Address]| {
        if list.is_empty() && args.development {
            vec![sender]
        } else {
            list.to_vec()
        }
    };
    let day = Duration::from_secs(86_400);
    let plan = DeployPlan {
        profile: if args.development {
            Profile::Development
        } else {
            Profile::Production
        },
        owners: or_sender(&args.owners),
        threshold: args
            .threshold
            .unwrap_or(if args.development { 1 } else { 3 }),
        delay: args.delay.unwrap_or(if args.development {
            Duration::ZERO
        } else {
            day
        }),
        guardian: named("guardian", args.guardian)?,
        anchorer: named("anchorer", args.anchorer)?,
        approvers: or_sender(&args.approvers),
        approval_threshold: args.approval_threshold,
        salt: args.salt,
    };
    let manifest = deploy(&session, &plan).await?;
    if let Some(path) = &args.out {
        let text =
            serde_json::to_string_pretty(&manifest).map_err(|e| CliError::Output(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| CliError::File {
            path: path.clone(),
            reason: e.to_string(),
        })?;
    }
    emit(args.endpoint.output, &manifest, |manifest| {
        let lines = manifest
            .contracts
            .iter()
            .map(|(name, at)| format!("{name:<20} {}", at.address));
        format!(
            "chain {}, block {}\n{}",
            manifest.chain_id,
            manifest.block,
            lines.collect::<Vec<_>>().join("\n")
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn run_agent(command: AgentCommand) -> Result<ExitCode, CliError> {
    match command {
        AgentCommand::Register {
            chain,
            agent,
            policy,
            model,
        } => {
            let (session, manifest) = chain.open().await?;
            let record = AgentRecord {
                key: agent.key()?,
                policy_id: policy,
                model: model.unwrap_or_default(),
                organisation: B256::ZERO,
                capabilities: B256::ZERO,
            };
            chain.tell(&tx::register_agents(&session, &manifest, &[record]).await?)
        }
        AgentCommand::Show { chain, agent } => {
            let (session, manifest) = chain.open().await?;
            let key = agent.key()?;
            let state = tx::agent(&session, &manifest, key).await?;
            emit(chain.endpoint.output, &Shown { key, state }, |s| {
                let Shown { key, state } = s;
                format!(
                    "key     {key}\nstatus  {}\npolicy  {}\nmodel   {}",
                    state.status, state.policy_id, state.model
                )
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An agent, as the registry has it.
#[derive(Serialize)]
struct Shown<T> {
    key: B256,
    #[serde(flatten)]
    state: T,
}

async fn run_policy(command: PolicyCommand) -> Result<ExitCode, CliError> {
    match command {
        PolicyCommand::Publish {
            chain,
            policy,
            source,
        } => {
            let (session, manifest) = chain.open().await?;
            let compiled = source.compile()?;
            let approvals = manifest.address("ApprovalRegistry")?;
            let version = PolicyVersion {
                policy_id: policy,
                init_code: writ_policy::rules::init_code(
                    &compiled.compiled.contract_rules(),
                    approvals,
                )?,
                catalog_hash: compiled.catalog_hash,
            };
            chain.tell(&tx::publish_policy(&session, &manifest, &version).await?)
        }
        PolicyCommand::Show { chain, policy } => {
            let (session, manifest) = chain.open().await?;
            let state = tx::policy(&session, &manifest, policy).await?;
            emit(chain.endpoint.output, &state, |s| {
                let paused = if s.paused { ", paused" } else { "" };
                format!(
                    "version   {}{paused}\ncontract  {}\ncode      {}\ncatalog   {}",
                    s.version, s.contract, s.code_hash, s.catalog_hash
                )
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(Serialize)]
struct Status {
    chain_id: u64,
    block: u64,
    /// Contracts whose code is not what the manifest says.
    mismatches: Vec<String>,
}

/// Exit code 1 if a contract is not what the manifest says.
async fn run_status(chain: &ChainArgs) -> Result<ExitCode, CliError> {
    let (session, manifest) = chain.open().await?;
    let status = Status {
        chain_id: session.chain_id(),
        block: session.block_number().await?,
        mismatches: manifest.mismatches(&session).await?,
    };
    emit(chain.endpoint.output, &status, |s| {
        let found = match s.mismatches.as_slice() {
            [] => "every contract is as the manifest says".to_owned(),
            different => format!("not as the manifest says: {}", different.join(", ")),
        };
        format!("chain {}, block {}: {found}", s.chain_id, s.block)
    })?;
    Ok(if status.mismatches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl ChainArgs {
    fn tell(&self, progress: &Progress) -> Result<ExitCode, CliError> {
        emit(self.endpoint.output, progress, describe)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(progress: &Progress) -> String {
    match progress {
        Progress::Unchanged => "unchanged: the chain already says so".into(),
        Progress::Proposed {
            proposal,
            confirmations,
            threshold,
        } => format!(
            "proposal {proposal} has {confirmations} of {threshold} confirmations: the next owner runs the same command"
        ),
        Progress::Queued {
            operation,
            ready_at,
        } => {
            format!(
                "queued as {operation}, ready at unix time {ready_at}: run the same command then"
            )
        }
        Progress::Executed { transaction, block } => {
            format!("done in transaction {transaction}, block {block}")
        }
    }
}
