//! `writ rules`: readable rules, compiled and explained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alloy_primitives::{Address, B256, Bytes, hex, keccak256};
use clap::{Args as ClapArgs, Subcommand};
use serde::{Deserialize, Serialize};
use writ_catalog::Catalog;
use writ_policy::rules::{self, Compiled, Ruleset};

use crate::error::CliError;
use crate::output::{Format, emit, read_text};

/// Compile and explain rules.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile rules into the init code of one policy version.
    #[command(
        after_help = "Example:\n  writ rules compile --rules rules.yaml --catalog catalog.yaml --names names.yaml \
                            --approvals 0x5FbDB2315678afecb367f032d93F642f64180aa3 --output json"
    )]
    Compile {
        #[command(flatten)]
        source: Source,
        /// Approval registry of the deployment.
        #[arg(long)]
        approvals: Address,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Show what the rules say about every agent and capability.
    #[command(
        after_help = "Example:\n  writ rules explain --rules rules.yaml --catalog catalog.yaml --names names.yaml"
    )]
    Explain {
        #[command(flatten)]
        source: Source,
    },
    /// Print the JSON Schema of the rules.
    #[command(after_help = "Example:\n  writ rules schema > rules.schema.json")]
    Schema,
}

/// The files that rules are compiled from.
#[derive(Debug, ClapArgs)]
pub struct Source {
    /// Rules, YAML.
    #[arg(long)]
    pub rules: PathBuf,
    /// Catalog, YAML: wildcards expand to its capabilities.
    #[arg(long)]
    pub catalog: PathBuf,
    /// Salts, YAML: {salt: <32 hex digits>, agents: {<SPIFFE ID>: <32 hex digits>}}.
    #[arg(long)]
    pub names: PathBuf,
}

/// Salts of names, kept from public view.
#[derive(Debug)]
pub struct NameSalts {
    /// Salt of capabilities.
    pub salt: [u8; 16],
    /// Salt of each agent.
    pub agents: BTreeMap<String, [u8; 16]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesFile {
    salt: String,
    #[serde(default)]
    agents: BTreeMap<String, String>,
}

impl NameSalts {
    /// Reads the names file.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let refuse = |reason: String| CliError::File {
            path: path.to_owned(),
            reason,
        };
        let file: NamesFile =
            serde_saphyr::from_str(&read_text(path)?).map_err(|e| refuse(e.to_string()))?;
        // The message does not repeat the text: salts are not for logs.
        let salt = |what: &str, text: &str| {
            hex::decode_to_array::<_, 16>(text)
                .map_err(|_| refuse(format!("the salt of {what} is not 32 hex digits")))
        };
        let agents = file
            .agents
            .iter()
            .map(|(id, text)| Ok((id.clone(), salt(id, text)?)));
        Ok(Self {
            salt: salt("the capabilities", &file.salt)?,
            agents: agents.collect::<Result<_, CliError>>()?,
        })
    }

    /// Key of an agent in the registry.
    pub fn agent_key(&self, spiffe_id: &str) -> Result<B256, CliError> {
        let salt = self.agents.get(spiffe_id).ok_or_else(|| {
            CliError::Argument(format!(
                "the names file has no salt for {spiffe_id}: add it under `agents`"
            ))
        })?;
        Ok(writ_policy::names::agent_key(salt, spiffe_id).into())
    }
}

/// Rules compiled against their catalog.
pub struct Policy {
    /// The rules.
    pub compiled: Compiled,
    /// SHA-256 of the catalog's RFC 8785 form.
    pub catalog_hash: B256,
}

impl Source {
    /// Reads and compiles the files.
    pub fn compile(&self) -> Result<Policy, CliError> {
        let names = NameSalts::read(&self.names)?;
        let catalog =
            Catalog::from_yaml(&read_text(&self.catalog)?).map_err(|e| CliError::File {
                path: self.catalog.clone(),
                reason: e.to_string(),
            })?;
        let capabilities: Vec<String> = catalog.capabilities().map(str::to_owned).collect();
        let ruleset = Ruleset::from_yaml(&read_text(&self.rules)?)?;
        let known = rules::Names {
            salt: &names.salt,
            agents: &names.agents,
            capabilities: &capabilities,
        };
        Ok(Policy {
            compiled: rules::compile(&ruleset, known)?,
            catalog_hash: catalog.hash().into(),
        })
    }
}

#[derive(Serialize)]
struct CompileOutput {
    rules: usize,
    catalog_hash: B256,
    init_code_hash: B256,
    init_code: Bytes,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Compile {
            source,
            approvals,
            output,
        } => {
            let policy = source.compile()?;
            let init_code = rules::init_code(&policy.compiled.contract_rules(), approvals)?;
            let value = CompileOutput {
                rules: policy.compiled.rules.len(),
                catalog_hash: policy.catalog_hash,
                init_code_hash: keccak256(&init_code),
                init_code,
            };
            emit(output, &value, |value| {
                format!(
                    "{}\n{} rules\ncatalog    {}\ninit code  {} bytes, keccak256 {}",
                    rules::explain(&policy.compiled),
                    value.rules,
                    value.catalog_hash,
                    value.init_code.len(),
                    value.init_code_hash
                )
            })?;
        }
        Command::Explain { source } => {
            let table = rules::explain(&source.compile()?.compiled);
            emit(Format::Text, &(), |()| table)?;
        }
        Command::Schema => emit(Format::Json, &Ruleset::json_schema(), |_| String::new())?,
    }
    Ok(ExitCode::SUCCESS)
}
