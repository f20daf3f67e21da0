//! `writ completion`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use clap_complete::Shell;

use crate::error::CliError;

/// Print the completions of a shell.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  source <(writ completion bash)\n  writ completion fish > ~/.config/fish/completions/writ.fish"
)]
pub struct Args {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: Args) -> Result<ExitCode, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "writ", &mut text);
    std::io::stdout()
        .lock()
        .write_all(&text)
        .map_err(|e| CliError::Output(e.to_string()))?;
    Ok(ExitCode::SUCCESS)
}
