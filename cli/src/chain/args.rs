//! What `writ chain` is given: its commands, and the agents, policies and keys that they name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256, hex, keccak256};
use clap::{Args as ClapArgs, Subcommand};
use url::Url;
use writ_chain::deploy::Manifest;
use writ_chain::tx::{KeyRef, Session};

use crate::error::CliError;
use crate::output::{Format, read_text};
use crate::rules::{NameSalts, Source};

/// Deploy, change and read the contracts.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
pub(super) enum AgentCommand {
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
pub(super) enum PolicyCommand {
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
pub(super) struct DeployArgs {
    #[command(flatten)]
    pub(super) endpoint: Endpoint,
    /// One owner, no delay, and one key for every role that is not named.
    #[arg(long)]
    pub(super) development: bool,
    /// Owner of the multisig; repeat it.
    #[arg(long = "owner")]
    pub(super) owners: Vec<Address>,
    /// How many owners must agree.
    #[arg(long)]
    pub(super) threshold: Option<u32>,
    /// Delay of the timelock, such as 24h. Default 24h, in development none.
    #[arg(long, value_parser = duration)]
    pub(super) delay: Option<Duration>,
    /// Revokes and pauses.
    #[arg(long)]
    pub(super) guardian: Option<Address>,
    /// Anchors.
    #[arg(long)]
    pub(super) anchorer: Option<Address>,
    /// Approves actions; repeat it.
    #[arg(long = "approver")]
    pub(super) approvers: Vec<Address>,
    /// How many approvers must agree.
    #[arg(long, default_value_t = 1)]
    pub(super) approval_threshold: u32,
    /// Another salt gives another deployment.
    #[arg(long, default_value_t = B256::ZERO)]
    pub(super) salt: B256,
    /// Where to write the manifest.
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Endpoint {
    /// JSON-RPC endpoint.
    #[arg(long, env = "WRIT_RPC", hide_env_values = true)]
    rpc: Url,
    /// Key that signs and pays: file:<path>, env:<variable> or stdin. Never the key itself.
    // Not parsed by clap: its messages repeat what was given.
    #[arg(long, env = "WRIT_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Refuse any other chain.
    #[arg(long)]
    pub(super) chain_id: Option<u64>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) output: Format,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ChainArgs {
    #[command(flatten)]
    pub(super) endpoint: Endpoint,
    /// What `writ chain deploy` wrote.
    #[arg(long, env = "WRIT_MANIFEST")]
    manifest: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(super) struct AgentArgs {
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
pub(super) struct What {
    #[command(flatten)]
    target: Target,
    /// Salts of agents, YAML.
    #[arg(long)]
    names: Option<PathBuf>,
}

pub(super) enum Chosen {
    Agent(B256),
    Policy(B256),
    All,
}

impl What {
    pub(super) fn choose(&self) -> Result<Chosen, CliError> {
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
    pub(super) fn key(&self) -> Result<B256, CliError> {
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
    pub(super) async fn session(&self, expected: Option<u64>) -> Result<Session, CliError> {
        Ok(match &self.key {
            Some(key) => {
                Session::with_wallet(&self.rpc, expected, key.parse::<KeyRef>()?.load()?).await?
            }
            None => Session::connect(&self.rpc, expected).await?,
        })
    }
}

impl ChainArgs {
    pub(super) async fn open(&self) -> Result<(Session, Manifest), CliError> {
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
