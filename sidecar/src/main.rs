//! `writ-sidecar`: beside every agent, and in front of every target.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};
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
    /// What to log: error, warn, info, debug, or a filter such as `info,writ_chain=debug`.
    #[arg(long, env = "WRIT_LOG", default_value = "info", global = true)]
    log: String,
    /// How to log.
    #[arg(long, env = "WRIT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
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
    match execute(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn execute(cli: &Cli) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    if !matches!(cli.command, Command::Run(_)) {
        start_logging(cli, None)?;
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
            start_logging(cli, traces.as_ref())?;
            let done = runtime.block_on(run::run(args));
            if let Some(traces) = traces {
                traces.finish();
            }
            done.map_err(|error| text(&error))
        }
    }
}

fn start_logging(cli: &Cli, traces: Option<&Traces>) -> Result<(), String> {
    let filter = EnvFilter::try_new(&cli.log)
        .map_err(|error| format!("--log {}: {error}; try `info`", cli.log))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match cli.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces.map(Traces::layer))
        .init();
    Ok(())
}

fn print_schema() -> Result<(), String> {
    use std::io::Write as _;
    let schema = serde_json::to_string_pretty(&Config::json_schema()).map_err(|e| e.to_string())?;
    writeln!(std::io::stdout(), "{schema}").map_err(|error| error.to_string())
}

fn fail(reason: &str) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "writ-sidecar: {reason}");
    ExitCode::FAILURE
}
