//! `writ log prove` and `writ log checkpoint`: what to hand to someone who has no log.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde::Serialize;
use writ_ledger::encoding::to_base64url;
use writ_ledger::{LogReader, SignedHead};

use super::list::put;
use super::{Place, each};
use crate::error::CliError;
use crate::output::{Format, emit};

/// What to prove.
#[derive(Debug, ClapArgs)]
#[group(skip)]
#[command(after_help = "Examples:
  writ log prove 42                   record 42 is under the newest checkpoint
  writ log prove --from 1000          the log continues the one that had 1000 records

Hashes are base64url. A path is checked as in RFC 9162, section 2.1.3.2 (inclusion) and 2.1.4.2
(consistency).")]
pub struct Args {
    /// Number of the record.
    #[arg(required_unless_present = "from")]
    seq: Option<u64>,
    /// Prove that the log continues an earlier one of this size.
    #[arg(long, conflicts_with = "seq")]
    from: Option<u64>,
    /// Size of the tree to prove in; else that of the newest checkpoint.
    #[arg(long)]
    size: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Proof {
    log: String,
    size: u64,
    root: String,
    path: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// The record as it is hashed, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_root: Option<String>,
    /// The signed note whose root this is, where the size is that of the newest checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

pub(super) fn run(place: &Place, args: &Args) -> Result<ExitCode, CliError> {
    let reader = place.open()?;
    let note = reader.newest_checkpoint();
    let signed = note
        .as_ref()
        .and_then(|note| SignedHead::parse(note.as_bytes()).ok());
    let signed_size = signed.map(|signed| signed.unverified().size);
    // A record newer than the newest checkpoint is proved in the tree as it is.
    let covers = |size: &u64| args.seq.is_none_or(|seq| seq < *size);
    let size = match args.size.or(signed_size.filter(covers)) {
        Some(size) => size,
        None => reader.size()?,
    };
    let mut proof = Proof {
        log: reader.id().to_string(),
        size,
        root: to_base64url(&reader.root(size)?),
        path: Vec::new(),
        seq: args.seq,
        record: None,
        hash: None,
        from: args.from,
        from_root: None,
        checkpoint: note.filter(|_| signed_size == Some(size)),
    };
    let path = match (args.seq, args.from) {
        (Some(seq), _) => {
            let bytes = encoded(&reader, seq)?;
            proof.hash = Some(to_base64url(&writ_ledger::record_hash(&bytes)));
            proof.record = Some(to_base64url(&bytes));
            reader.prove_inclusion(seq, size)?
        }
        (None, Some(from)) => {
            proof.from_root = Some(to_base64url(&reader.root(from)?));
            reader.prove_consistency(from, size)?
        }
        (None, None) => return Err(CliError::Argument("name a record, or --from".to_owned())),
    };
    proof.path = path.iter().map(|hash| to_base64url(hash)).collect();
    emit(Format::Json, &proof, |_| String::new())?;
    Ok(ExitCode::SUCCESS)
}

fn encoded(reader: &LogReader, seq: u64) -> Result<Vec<u8>, CliError> {
    let row = reader.page(seq, 1)?.into_iter().next();
    row.filter(|(found, _, _)| *found == seq)
        .map(|(_, bytes, _)| bytes)
        .ok_or_else(|| CliError::Argument(format!("record {seq}: there is none")))
}

pub(super) fn checkpoint(place: &Place, hashes: bool) -> Result<ExitCode, CliError> {
    let reader = place.open()?;
    if hashes {
        each(&reader, 0, |seq, bytes| {
            let hash = to_base64url(&writ_ledger::record_hash(bytes));
            put(&format!("{seq} {hash}"))
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let note = reader
        .newest_checkpoint()
        .ok_or_else(|| CliError::Argument("the log has no checkpoint beside it".to_owned()))?;
    put(note.trim_end_matches('\n'))?;
    Ok(ExitCode::SUCCESS)
}
