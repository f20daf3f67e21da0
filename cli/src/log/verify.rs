//! `writ log verify`: checks every record and says what that proves.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use writ_ledger::encoding::from_base64url;
use writ_ledger::store::Access;
use writ_ledger::{Kept, Report, Signed, SignedHead};

use super::authority::Certificates;
use super::{Place, open, rfc3339};
use crate::error::CliError;
use crate::output::{Format, emit, read_text};

const EXAMPLES: &str = "Examples:
  writ log verify                                     what the log alone can tell
  writ log verify --bundle example.org=ca.pem         and whose signatures they are
  writ log verify --checkpoint kept.txt --hashes kept-hashes.txt
                                                      and that it is the log that was written

Exit code 0: everything fits. 1: something does not, or the log cannot be read.";

/// What to check the log against.
#[derive(Debug, ClapArgs)]
#[group(skip)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The log, or its folder; the same as --log.
    path: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere; may be given several times.
    #[arg(long)]
    checkpoint: Vec<PathBuf>,
    /// Verifier key that signed the kept checkpoints; else one that a start in the log names.
    #[arg(long)]
    key: Option<String>,
    /// Hashes of records that were kept elsewhere (`writ log checkpoint --hashes`).
    #[arg(long)]
    hashes: Option<PathBuf>,
    /// Trust bundle of the agents, as trust-domain=ca.pem; may be given several times.
    #[arg(long)]
    bundle: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,
}

pub(super) fn run(place: &Place, args: &Args) -> Result<ExitCode, CliError> {
    let reader = match &args.path {
        Some(path) => open(path)?,
        None => place.open()?,
    };
    let certificates = Certificates::load(&args.bundle)?;
    let kept = kept(args)?;
    let watch = std::io::stderr().is_terminal();
    let report = reader.verify(Some(&certificates), kept, |done, all| {
        if watch {
            // Only a sign of life: nothing depends on it.
            let _ = write!(std::io::stderr(), "\rchecked {done} of {all} records");
        }
    })?;
    if watch {
        let _ = writeln!(std::io::stderr());
    }
    let access = reader.access();
    emit(args.output, &report, |report| text(report, access))?;
    Ok(match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn kept(args: &Args) -> Result<Kept, CliError> {
    let mut kept = Kept::default();
    for path in &args.checkpoint {
        let head = SignedHead::parse(read_text(path)?.as_bytes()).map_err(|e| bad(path, e))?;
        kept.checkpoints.push((head, args.key.clone()));
    }
    if let Some(path) = &args.hashes {
        kept.hashes = hashes(path)?;
    }
    Ok(kept)
}

fn hashes(path: &Path) -> Result<BTreeMap<u64, writ_ledger::Hash>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|e| bad(path, e))?;
    let line = |line: &str| {
        let (seq, hash) = line.split_once(' ')?;
        let hash = from_base64url(hash)?.try_into().ok()?;
        Some((seq.parse().ok()?, hash))
    };
    text.lines()
        .enumerate()
        .map(|(n, l)| line(l).ok_or_else(|| bad(path, format!("line {}: not `seq hash`", n + 1))))
        .collect()
}

fn bad(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn text(report: &Report, access: Access) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut out, report, access);
    out
}

fn write_report(out: &mut String, report: &Report, access: Access) -> std::fmt::Result {
    writeln!(out, "log {}: {} records", report.log, report.records)?;
    if let (Some(first), Some(last)) = (report.first_time, report.last_time) {
        writeln!(out, "from {} to {}", rfc3339(first), rfc3339(last))?;
    }
    let how = match access {
        Access::Inside | Access::Live => "read from the running sidecar",
        Access::File => "read from the file",
        Access::Copy => "read from a copy: the sidecar was killed and has not started again",
    };
    writeln!(out, "{how}; root {}", report.root)?;
    writeln!(out, "\nchecked")?;
    writeln!(
        out,
        "  every record: form, place, the one before it, its leaf in the tree"
    )?;
    writeln!(
        out,
        "  {} checkpoints stored with the log",
        report.checkpoints
    )?;
    writeln!(
        out,
        "  tokens: {} lead to a trust bundle, {} fit a certificate in the log, {} not checked, {} absent",
        report.tokens_trusted,
        report.tokens_consistent,
        report.tokens_unchecked,
        report.tokens_absent
    )?;
    writeln!(
        out,
        "  {} counts against budgets, added up again ({} lost in restarts, never given back)",
        report.budget_uses, report.budget_lost
    )?;
    writeln!(
        out,
        "  {} witnesses are what their names say",
        report.witnesses
    )?;
    for start in &report.starts {
        let by = match &start.signed {
            Signed::Trusted(id) => format!("vouched for by {id}"),
            Signed::Consistent(id) => format!("signed by a certificate that says {id}"),
            Signed::Unchecked(why) => format!("not vouched for: {why}"),
        };
        writeln!(
            out,
            "  start {} ({}): its key is {by}",
            start.seq, start.software
        )?;
    }
    writeln!(out, "\nnot checked")?;
    match (report.records, report.covered) {
        (all, covered) if covered >= all && all > 0 => {
            writeln!(out, "  nothing after record {}", all - 1)?;
        }
        (all, covered) => {
            writeln!(
                out,
                "  records {covered} to {} are covered by no checkpoint kept elsewhere: whoever holds this",
                all.saturating_sub(1)
            )?;
            writeln!(
                out,
                "  machine and its keys could have rewritten or cut them (--checkpoint)"
            )?;
        }
    }
    if report.tokens_trusted == 0 {
        writeln!(
            out,
            "  whose the signatures are: give a trust bundle (--bundle)"
        )?;
    }
    if !report.awaiting.is_empty() {
        writeln!(
            out,
            "\n{} actions under way, without an outcome yet",
            report.awaiting.len()
        )?;
    }
    if report.is_good() {
        return writeln!(out, "\nOK");
    }
    writeln!(out, "\nNOT OK: {} findings", report.found)?;
    for finding in &report.findings {
        writeln!(out, "  {finding}")?;
    }
    Ok(())
}
