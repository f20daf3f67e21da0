//! `writ-sidecar`: beside every agent, and in front of every target.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use writ_service::{Logging, ended};
use writ_sidecar::traces::Traces;
use writ_sidecar::{config::Config, init, run, validate};

/// Captures a pod's traffic, decides every action, records it, signs it, and verifies what arrives.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  writ-sidecar init --sidecar-uid 210001          install the redirection and prove it
  writ-sidecar run --config /etc/writ/sidecar.yaml
  writ-sidecar run --check --config sidecar.yaml  only check a configuration
  writ-sidecar schema > sidecar.schema.json"
)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the redirection of this pod's traffic, and prove it.
    Init(init::Args),
    /// Prove the redirection that is installed.
    Validate(validate::Args),
    /// Run the sidecar.
    Run(run::Args),
    /// Print the JSON Schema of the configuration.
    Schema,
}

fn main() -> ExitCode {
    ended(env!("CARGO_BIN_NAME"), execute(&Cli::parse()))
}

fn execute(cli: &Cli) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    if !matches!(cli.command, Command::Run(_)) {
        cli.logging.start().map_err(|error| text(&error))?;
    }
    match &cli.command {
        Command::Init(args) => init::run(args).map(drop).map_err(|error| text(&error)),
        Command::Validate(args) => validate::run(args).map(drop).map_err(|error| text(&error)),
        Command::Schema => print_schema(),
        Command::Run(args) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(|error| format!("no runtime: {error}"))?;
            let traces = {
                let _inside = runtime.enter();
                Traces::start(&args.traces).map_err(|error| text(&error))?
            };
            let logs = cli.logging.layer().map_err(|error| text(&error))?;
            tracing_subscriber::registry()
                .with(logs)
                .with(traces.as_ref().map(Traces::layer))
                .init();
            let done = runtime.block_on(run::run(args));
            if let Some(traces) = traces {
                traces.finish();
            }
            done.map_err(|error| text(&error))
        }
    }
}

fn print_schema() -> Result<(), String> {
    use std::io::Write as _;
    let schema = serde_json::to_string_pretty(&Config::json_schema()).map_err(|e| e.to_string())?;
    writeln!(std::io::stdout(), "{schema}").map_err(|error| error.to_string())
}
