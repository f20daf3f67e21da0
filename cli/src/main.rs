//! `writ`: deploys the contracts, compiles rules, reads and verifies the record.
#![forbid(unsafe_code)]

mod chain;
mod error;
mod log;
mod output;
mod rules;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// No agent action without a writ.
#[derive(Debug, Parser)]
#[command(name = "writ", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deploy, change and read the contracts.
    Chain(chain::Args),
    /// Read, explain, verify and prove the record of a sidecar.
    Log(log::Args),
    /// Compile and explain rules.
    Rules(rules::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Chain(args) => chain::run(args).await,
        Command::Log(args) => log::run(args).await,
        Command::Rules(args) => rules::run(args).await,
    };
    result.unwrap_or_else(|error| {
        // Nothing more can be said if this fails.
        let _ = writeln!(std::io::stderr(), "writ: {error}");
        ExitCode::FAILURE
    })
}
