//! `writ chain`: contracts deployed, changed and read.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alloy_primitives::{Address, B256, hex, keccak256};
use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use url::Url;
use writ_chain::deploy::{DeployPlan, Manifest, Profile, deploy};
use writ_chain::tx::{self, AgentRecord, KeyRef, PolicyVersion, Progress, Session};

use crate::error::CliError;
use crate::output::{Format, emit, read_text};
use crate::rules::{NameSalts, Source};

/// Deploy, change and read the contracts.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deploy all contracts, or find those that are there.
    #[command(
        after_help = "Examples:\n  writ chain deploy --rpc http://127.0.0.1:8545 --key file:owner.key --development \
                            --out manifest.json\n  writ chain deploy --rpc https://rpc.example --key env:DEPLOYER_KEY --owner 0x.. \
                            (five times) --threshold 3 --delay 24h --guardian 0x.. --anchorer 0x.. --approver 0x.. --out manifest.json"
    )]
    Deploy(Box<DeployArgs>),
    /// Agents.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Revoke an agent, at once. Needs the guardian's key.
    #[command(
        after_help = "Example:\n  writ chain revoke --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:guardian.key \
                            --names names.yaml --agent spiffe://example.org/agent --reason compromised\n\n\
                            Without the salts, by the key that the status of the AgentPolicy has:\n  writ chain revoke ... --agent 0x5f...c2"
    )]
    Revoke {
        #[command(flatten)]
        chain: ChainArgs,
        #[command(flatten)]
        agent: AgentArgs,
        /// Short ASCII text, at most 32 bytes, public.
        #[arg(long, default_value = "revoked")]
        reason: String,
    },
    /// Pause an agent, a policy or everything, at once. Needs the guardian's key.
    #[command(
        after_help = "Example:\n  writ chain pause --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:guardian.key --all"
    )]
    Pause {
        #[command(flatten)]
        chain: ChainArgs,
        #[command(flatten)]
        what: What,
    },
    /// Let an agent, a policy or everything act again. Needs the owners, and the timelock's delay.
    #[command(
        after_help = "Example:\n  writ chain resume --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:owner.key --all"
    )]
    Resume {
        #[command(flatten)]
        chain: ChainArgs,
        #[command(flatten)]
        what: What,
    },
    /// Replace the guardian, without delay. Needs the owners.
    #[command(
        after_help = "Example:\n  writ chain guardian --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:owner.key \
                            --address 0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    )]
    Guardian {
        #[command(flatten)]
        chain: ChainArgs,
        /// The new guardian.
        #[arg(long)]
        address: Address,
    },
    /// Compare the chain with the manifest.
    #[command(
        after_help = "Example:\n  writ chain status --rpc http://127.0.0.1:8545 --manifest manifest.json"
    )]
    Status {
        #[command(flatten)]
        chain: ChainArgs,
    },
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Register an agent, or change what it is bound to. Needs the owners.
    #[command(
        after_help = "Example:\n  writ chain agent register --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:owner.key \
                            --names names.yaml --agent spiffe://example.org/agent --policy payments"
    )]
    Register {
        #[command(flatten)]
        chain: ChainArgs,
        #[command(flatten)]
        agent: AgentArgs,
        /// Policy: a name, or its id as 0x and 64 hex digits.
        #[arg(long, value_parser = policy_id)]
        policy: B256,
        /// SHA-256 of the model that must act, in hex.
        #[arg(long)]
        model: Option<B256>,
    },
    /// Show an agent as the registry has it.
    #[command(
        after_help = "Example:\n  writ chain agent show --rpc http://127.0.0.1:8545 --manifest manifest.json --names names.yaml \
                            --agent spiffe://example.org/agent"
    )]
    Show {
        #[command(flatten)]
        chain: ChainArgs,
        #[command(flatten)]
        agent: AgentArgs,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Compile rules, deploy them as a contract, and make it the policy's next version. Needs the owners.
    #[command(
        after_help = "Example:\n  writ chain policy publish --rpc http://127.0.0.1:8545 --manifest manifest.json --key file:owner.key \
                            --policy payments --rules rules.yaml --catalog catalog.yaml --names names.yaml"
    )]
    Publish {
        #[command(flatten)]
        chain: ChainArgs,
        /// Policy: a name, or its id as 0x and 64 hex digits.
        #[arg(long, value_parser = policy_id)]
        policy: B256,
        #[command(flatten)]
        source: Source,
    },
    /// Show a policy as the registry has it.
    #[command(
        after_help = "Example:\n  writ chain policy show --rpc http://127.0.0.1:8545 --manifest manifest.json --policy payments"
    )]
    Show {
        #[command(flatten)]
        chain: ChainArgs,
        /// Policy: a name, or its id as 0x and 64 hex digits.
        #[arg(long, value_parser = policy_id)]
        policy: B256,
    },
}

#[derive(Debug, ClapArgs)]
struct DeployArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// One owner, no delay, and one key for every role that is not named.
    #[arg(long)]
    development: bool,
    /// Owner of the multisig; repeat it.
    #[arg(long = "owner")]
    owners: Vec<Address>,
    /// How many owners must agree.
    #[arg(long)]
    threshold: Option<u32>,
    /// Delay of the timelock, such as 24h. Default 24h, in development none.
    #[arg(long, value_parser = duration)]
    delay: Option<Duration>,
    /// Revokes and pauses.
    #[arg(long)]
    guardian: Option<Address>,
    /// Anchors.
    #[arg(long)]
    anchorer: Option<Address>,
    /// Approves actions; repeat it.
    #[arg(long = "approver")]
    approvers: Vec<Address>,
    /// How many approvers must agree.
    #[arg(long, default_value_t = 1)]
    approval_threshold: u32,
    /// Another salt gives another deployment.
    #[arg(long, default_value_t = B256::ZERO)]
    salt: B256,
    /// Where to write the manifest.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
struct Endpoint {
    /// JSON-RPC endpoint.
    #[arg(long, env = "WRIT_RPC", hide_env_values = true)]
    rpc: Url,
    /// Key that signs and pays: file:<path>, env:<variable> or stdin. Never the key itself.
    // Not parsed by clap: its messages repeat what was given.
    #[arg(long, env = "WRIT_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Refuse any other chain.
    #[arg(long)]
    chain_id: Option<u64>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, ClapArgs)]
struct ChainArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// What `writ chain deploy` wrote.
    #[arg(long, env = "WRIT_MANIFEST")]
    manifest: PathBuf,
}

#[derive(Debug, ClapArgs)]
struct AgentArgs {
    /// SPIFFE ID, with --names; or the key in the registry as 0x and 64 hex digits, which the status of an AgentPolicy has.
    #[arg(long)]
    agent: String,
    /// Salts, YAML: {salt: <32 hex digits>, agents: {<SPIFFE ID>: <32 hex digits>}}.
    #[arg(long)]
    names: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct Target {
    /// An agent, by SPIFFE ID with --names, or by its key in the registry.
    #[arg(long)]
    agent: Option<String>,
    /// A policy: a name, or its id as 0x and 64 hex digits.
    #[arg(long, value_parser = policy_id)]
    policy: Option<B256>,
    /// Every policy.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, ClapArgs)]
struct What {
    #[command(flatten)]
    target: Target,
    /// Salts of agents, YAML.
    #[arg(long)]
    names: Option<PathBuf>,
}

enum Chosen {
    Agent(B256),
    Policy(B256),
    All,
}

impl What {
    fn choose(&self) -> Result<Chosen, CliError> {
        match (&self.target.agent, self.target.policy) {
            (Some(agent), _) => Ok(Chosen::Agent(agent_key(agent, self.names.as_deref())?)),
            (_, Some(policy)) => Ok(Chosen::Policy(policy)),
            _ if self.target.all => Ok(Chosen::All),
            _ => Err(CliError::Argument(
                "name an agent, a policy, or --all".into(),
            )),
        }
    }
}

impl AgentArgs {
    fn key(&self) -> Result<B256, CliError> {
        agent_key(&self.agent, self.names.as_deref())
    }
}

/// Key in the registry of what `--agent` and `--names` say.
fn agent_key(agent: &str, names: Option<&Path>) -> Result<B256, CliError> {
    if let Ok(key) = agent.parse() {
        return Ok(key);
    }
    let names = names.ok_or_else(|| {
        CliError::Argument(
            "--agent with a SPIFFE ID needs --names, its salts; without them give the agent's key"
                .into(),
        )
    })?;
    NameSalts::read(names)?.agent_key(agent)
}

impl Endpoint {
    async fn session(&self, expected: Option<u64>) -> Result<Session, CliError> {
        Ok(match &self.key {
            Some(key) => {
                Session::with_wallet(&self.rpc, expected, key.parse::<KeyRef>()?.load()?).await?
            }
            None => Session::connect(&self.rpc, expected).await?,
        })
    }
}

impl ChainArgs {
    async fn open(&self) -> Result<(Session, Manifest), CliError> {
        let text = read_text(&self.manifest)?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| CliError::File {
            path: self.manifest.clone(),
            reason: e.to_string(),
        })?;
        if self
            .endpoint
            .chain_id
            .is_some_and(|id| id != manifest.chain_id)
        {
            return Err(CliError::Argument(format!(
                "the manifest is of chain {}",
                manifest.chain_id
            )));
        }
        Ok((
            self.endpoint.session(Some(manifest.chain_id)).await?,
            manifest,
        ))
    }

    fn tell(&self, progress: &Progress) -> Result<ExitCode, CliError> {
        emit(self.endpoint.output, progress, describe)?;
        Ok(ExitCode::SUCCESS)
    }
}

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

/// A policy id: as given, or keccak256 of a name.
fn policy_id(text: &str) -> Result<B256, String> {
    if text.is_empty() || text.len() > 128 {
        return Err("a policy has a name of 1 to 128 bytes, or an id".into());
    }
    match text.strip_prefix("0x") {
        None => Ok(keccak256(text)),
        Some(digits) => hex::decode_to_array::<_, 32>(digits)
            .map(B256::from)
            .map_err(|_| "an id is 0x and 64 hex digits".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}: write 24h or 3600s"))
}
