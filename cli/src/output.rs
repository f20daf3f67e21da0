//! What commands print: text for people, JSON for programs. No colour, so NO_COLOR changes nothing.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::CliError;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Prints a value as JSON, or the text.
pub fn emit<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let mut line = match format {
        Format::Json => {
            serde_json::to_string_pretty(value).map_err(|e| CliError::Output(e.to_string()))?
        }
        Format::Text => text(value),
    };
    if !line.ends_with('\n') {
        line.push('\n');
    }
    std::io::stdout()
        .lock()
        .write_all(line.as_bytes())
        .map_err(|e| CliError::Output(e.to_string()))
}

/// Reads a text file of at most 4 MiB.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    use std::io::Read;
    const MOST: u64 = 4 * 1024 * 1024;
    let unreadable = |e: std::io::Error| CliError::File {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MOST + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MOST {
        return Err(unreadable(std::io::Error::other("longer than 4 MiB")));
    }
    Ok(text)
}
