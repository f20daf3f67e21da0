//! `writ`, which is `kubectl writ` too: deploys the contracts, compiles rules, reads and verifies the
//! record, and shows, tests, revokes and checks what runs in a cluster.
#![forbid(unsafe_code)]

mod ask;
mod chain;
mod cluster;
mod completion;
mod doctor;
mod error;
mod helm;
mod init;
mod log;
mod output;
mod policy;
mod progress;
mod revoke;
mod rules;
mod status;
mod uninstall;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const PLUGIN: &str =
    "Installed as kubectl-writ in the PATH, every command is there as `kubectl writ ...` too.
Each command takes --help, which ends in examples.";

/// No agent action without a writ.
#[derive(Debug, Parser)]
#[command(name = "writ", version, after_help = PLUGIN)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the agents of a cluster, what they run under, and which pods are not protected.
    Status(status::Args),
    /// Find out what is wrong, and what to do about it.
    Doctor(doctor::Args),
    /// Stop an agent everywhere, for good.
    Revoke(revoke::Args),
    /// Install Writ, and observe a namespace.
    Init(Box<init::Args>),
    /// Take Writ out without leaving agents silently open.
    Uninstall(uninstall::Args),
    /// Test, compare, try out and suggest policies.
    Policy(policy::Args),
    /// Deploy, change and read the contracts.
    Chain(chain::Args),
    /// Read, explain, verify and prove the record of a sidecar.
    Log(log::Args),
    /// Compile and explain rules.
    Rules(rules::Args),
    /// Print the completions of a shell.
    Completion(completion::Args),
}

impl Command {
    /// Exit code of a command that fails: 2 where 1 is an answer, as of diff and grep.
    fn trouble(&self) -> ExitCode {
        match self {
            Self::Status(_) | Self::Doctor(_) | Self::Revoke(_) | Self::Policy(_) => {
                ExitCode::from(2)
            }
            Self::Init(_) | Self::Uninstall(_) | Self::Chain(_) => ExitCode::FAILURE,
            Self::Log(_) | Self::Rules(_) | Self::Completion(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the command line of this process. Errors go to standard error; see [`Command::trouble`].
pub async fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches());
    let command = cli.unwrap_or_else(|error| error.exit()).command;
    let trouble = command.trouble();
    let result = match command {
        Command::Status(args) => status::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Revoke(args) => revoke::run(args).await,
        Command::Init(args) => init::run(*args).await,
        Command::Uninstall(args) => uninstall::run(args).await,
        Command::Policy(args) => policy::run(args).await,
        Command::Chain(args) => chain::run(args).await,
        Command::Log(args) => log::run(args).await,
        Command::Rules(args) => rules::run(args).await,
        Command::Completion(args) => completion::run(args),
    };
    result.unwrap_or_else(|error| {
        // Nothing more can be said if this fails.
        let said = output::plain(&error.to_string());
        let _ = writeln!(std::io::stderr(), "writ: {said}");
        trouble
    })
}

/// The command line, under the name by which it was called.
fn command() -> clap::Command {
    let called = std::env::args_os().next();
    let name = called.as_deref().map(Path::new).and_then(Path::file_stem);
    if name == Some(OsStr::new("kubectl-writ")) {
        Cli::command().bin_name("kubectl writ")
    } else {
        Cli::command()
    }
}
