//! `writ log`: reads, explains, verifies and proves the record.

mod authority;
mod list;
mod prove;
mod show;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args as ClapArgs, Subcommand};
use writ_ledger::LogReader;

use crate::error::CliError;
use crate::output::Format;

const EXAMPLES: &str = "Examples:
  writ log                                    the newest decisions
  writ log --reason amount-over-limit --follow
  writ log show mfrggzdfmztwq2lk-42           one decision, in full
  writ log verify --bundle example.org=ca.pem --checkpoint kept.txt
  writ log prove 42 --log /var/lib/writ/log.redb

A log that a sidecar is writing is read through the socket beside it.";

/// Read, explain, verify and prove the record of a sidecar.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    list: list::Args,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, ClapArgs)]
struct Place {
    /// The log, or the folder that holds its log.redb.
    #[arg(long, env = "WRIT_LOG", default_value = "/var/lib/writ", global = true)]
    log: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List decisions, newest last.
    List(list::Args),
    /// Explain one decision.
    #[command(after_help = "Example:\n  writ log show mfrggzdfmztwq2lk-42 --output json")]
    Show {
        /// Decision id, as in a refusal's `decision`, or the number of a record.
        id: String,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Check every record; exit 1 and name the records that do not fit.
    Verify(verify::Args),
    /// Print the newest checkpoint, a signed note. Keep copies elsewhere.
    #[command(
        after_help = "Example:\n  writ log checkpoint > kept.txt\n  writ log checkpoint --hashes > kept-hashes.txt"
    )]
    Checkpoint {
        /// Print the hash of every record instead, one `seq hash` a line.
        #[arg(long)]
        hashes: bool,
    },
    /// Prove that a record is in the log, or that the log continues an earlier one.
    Prove(prove::Args),
}

/// Runs `writ log`.
pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let place = args.place;
    // Reading blocks: files, a socket, and the wait between two looks of `--follow`.
    let work = move || match args.command {
        None => list::run(&place, &args.list),
        Some(Command::List(list)) => list::run(&place, &list),
        Some(Command::Show { id, output }) => show::run(&place, &id, output),
        Some(Command::Verify(verify)) => verify::run(&place, &verify),
        Some(Command::Checkpoint { hashes }) => prove::checkpoint(&place, hashes),
        Some(Command::Prove(prove)) => prove::run(&place, &prove),
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| CliError::Output(e.to_string()))?
}

impl Place {
    fn open(&self) -> Result<LogReader, CliError> {
        open(&self.log)
    }
}

pub fn open(path: &Path) -> Result<LogReader, CliError> {
    let path = if path.is_dir() {
        path.join("log.redb")
    } else {
        path.to_owned()
    };
    Ok(LogReader::open(&path)?)
}

/// Every record from place `from` to the end, a page at a time.
pub fn each(
    reader: &LogReader,
    from: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let mut next = from;
    loop {
        let page = reader.page(next, usize::MAX)?;
        if page.is_empty() {
            return Ok(next);
        }
        for (seq, bytes, _) in page {
            take(seq, &bytes)?;
            next = seq.saturating_add(1);
        }
    }
}

/// Unix milliseconds as RFC 3339.
pub fn rfc3339(ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // The year 9999 is the last that the format knows.
        Some(time) if ms < 253_402_300_800_000 => {
            humantime::format_rfc3339_millis(time).to_string()
        }
        _ => ms.to_string(),
    }
}
