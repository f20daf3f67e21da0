//! Questions to the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use crate::error::CliError;
use crate::output::plain;

/// Whether to ask before something is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask.
    Ask,
    /// It was given on the command line.
    Given,
}

impl Consent {
    /// Of a flag `--yes`.
    pub fn of(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Ask }
    }

    /// Asks, unless consent was given. Where nobody can answer the error names the flag.
    pub fn to(self, question: &str) -> Result<(), CliError> {
        if self == Self::Given {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::Argument(format!(
                "{question}\n  nobody can answer here: add --yes to go on"
            )));
        }
        let output = |e: std::io::Error| CliError::Output(e.to_string());
        let mut stderr = std::io::stderr();
        write!(stderr, "{} [y/N] ", plain(question)).map_err(output)?;
        stderr.flush().map_err(output)?;
        let mut answer = String::new();
        std::io::Read::take(stdin.lock(), 1024)
            .read_line(&mut answer)
            .map_err(output)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(CliError::Argument("nothing was changed".to_owned()))
        }
    }
}
