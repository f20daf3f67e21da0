//! `writ policy`: what policies would say, how they differ, what they would change, and a first one.

mod diff;
mod engine;
mod local;
mod replay;
mod request;
mod seen;
mod simulate;
mod source;
mod suggest;
mod test;

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};

use crate::error::CliError;
#[cfg(test)]
pub use {engine::Engine, source::Written};

/// Test, compare, try out and suggest policies.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a policy about one request: allowed or not, by which rule, and why.
    Test(Box<test::Args>),
    /// Say in words what differs between two policies; exit 1 when they differ.
    Diff(diff::Args),
    /// Decide recorded actions again under another policy: what would change.
    Simulate(simulate::Args),
    /// Write a first policy from what Observe saw.
    Suggest(suggest::Args),
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Test(args) => test::run(*args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Simulate(args) => simulate::run(args).await,
        Command::Suggest(args) => suggest::run(args).await,
    }
}
