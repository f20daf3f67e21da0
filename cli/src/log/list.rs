//! `writ log list`: decisions, one a line.

use std::collections::VecDeque;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use writ_ledger::{Enforced, Entry, EntryKind, LogReader, Mode, Record};

use super::{Place, each, rfc3339};
use crate::error::CliError;
use crate::output::Format;

/// Which records, and how.
#[derive(Debug, ClapArgs)]
#[group(skip)]
pub struct Args {
    /// Only records of agents whose SPIFFE ID contains this.
    #[arg(long)]
    agent: Option<String>,
    /// Only this capability; a final `*` stands for anything.
    #[arg(long)]
    capability: Option<String>,
    /// Only this decision: allow, denial or verdict; or any other kind of record.
    #[arg(long)]
    kind: Option<String>,
    /// Only this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Only targets that contain this.
    #[arg(long)]
    target: Option<String>,
    /// Records of every kind, not only decisions.
    #[arg(long)]
    all: bool,
    /// Most records, the newest.
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// Go on as records come. JSON is then one document a line.
    #[arg(long, short)]
    follow: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Format,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) time: String,
    pub(super) id: String,
    pub(super) kind: EntryKind,
    pub(super) agent: String,
    pub(super) capability: String,
    pub(super) reason: String,
    /// What held the target to it, once the outcome is known.
    pub(super) enforced: Option<String>,
    pub(super) target: String,
    #[serde(skip)]
    seq: u64,
}

impl Row {
    fn of(record: &Record) -> Self {
        let (agent, capability, reason, target) = match &record.entry {
            Entry::Allow(d) | Entry::Denial(d) => (
                d.names.agent.as_str(),
                d.names.capability.as_str(),
                d.reason.clone(),
                d.names.target.as_str(),
            ),
            Entry::Verdict(v) => (
                v.peer.as_deref().unwrap_or(""),
                v.capability.as_deref().unwrap_or(""),
                v.reason.clone(),
                v.target.as_str(),
            ),
            Entry::Outcome(o) => ("", "", format!("{} (of {})", o.result.as_str(), o.of), ""),
            Entry::Unknown(u) => ("", "", format!("outcome of {} unknown", u.of), ""),
            Entry::Void(v) => ("", "", format!("{:?}", v.cause).to_lowercase(), ""),
            Entry::Refused(r) => {
                let count: u64 = r.counts.values().sum();
                ("", "", format!("{count} unauthenticated requests"), "")
            }
            Entry::Dns(d) => ("", "", d.reason.clone(), d.name.as_str()),
            Entry::Config(c) => ("", "", c.name.clone(), ""),
            Entry::Start(s) => ("", "", s.software.clone(), ""),
            Entry::Heartbeat(_) => ("", "", String::new(), ""),
        };
        let observed = match &record.entry {
            Entry::Denial(denial) => denial.mode == Mode::Observe,
            Entry::Verdict(verdict) => verdict.observed,
            _ => false,
        };
        Self {
            time: rfc3339(record.time),
            id: record.id().to_string(),
            kind: record.entry.kind(),
            agent: agent.to_owned(),
            capability: capability.to_owned(),
            reason,
            enforced: observed.then(|| Enforced::None.as_str().to_owned()),
            target: target.to_owned(),
            seq: record.seq,
        }
    }

    fn line(&self) -> String {
        let enforced = self.enforced.as_deref().unwrap_or("-");
        format!(
            "{}  {:<20}  {:<9}  {:<28}  {:<24}  {:<8}  {}  {}",
            self.time,
            self.id,
            self.kind.as_str(),
            self.capability,
            self.reason,
            enforced,
            self.agent,
            self.target,
        )
    }
}

const HEADER: &str = "TIME                      ID                    DECISION   CAPABILITY                    REASON                    ENFORCED  AGENT  TARGET";

impl Args {
    fn wants(&self, row: &Row) -> bool {
        let has = |filter: &Option<String>, text: &str| {
            filter.as_ref().is_none_or(|f| text.contains(f.as_str()))
        };
        let capability = |filter: &String| match filter.strip_suffix('*') {
            Some(prefix) => row.capability.starts_with(prefix),
            None => row.capability == *filter,
        };
        let decision = matches!(
            row.kind,
            EntryKind::Allow | EntryKind::Denial | EntryKind::Verdict
        );
        let kind = match &self.kind {
            Some(kind) => row.kind.as_str() == kind,
            None => self.all || decision,
        };
        kind && has(&self.agent, &row.agent)
            && has(&self.target, &row.target)
            && self.reason.as_ref().is_none_or(|f| row.reason == *f)
            && self.capability.as_ref().is_none_or(capability)
    }
}

pub(super) fn run(place: &Place, args: &Args) -> Result<ExitCode, CliError> {
    let reader = place.open()?;
    let (rows, mut next) = newest(&reader, args)?;
    print(args, &rows)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        // A pause between two looks at another process's log, which has no way to wake this one.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(250));
        next = each(&reader, next, |_, bytes| {
            let row = Row::of(&Record::decode(bytes).map_err(writ_ledger::LedgerError::from)?);
            if args.wants(&row) {
                put(&line(args.output, &row)?)?;
            }
            Ok(())
        })?;
    }
}

/// The newest rows, with what is known of their outcomes, and the place after the last record.
fn newest(reader: &LogReader, args: &Args) -> Result<(VecDeque<Row>, u64), CliError> {
    let mut rows: VecDeque<Row> = VecDeque::new();
    let next = each(reader, 0, |seq, bytes| {
        let Ok(record) = Record::decode(bytes) else {
            put(&format!("record {seq} is no record; see `writ log verify`"))?;
            return Ok(());
        };
        if let Entry::Outcome(outcome) = &record.entry
            && let Ok(at) = rows.binary_search_by_key(&outcome.of, |row| row.seq)
            && let Some(row) = rows.get_mut(at)
        {
            row.enforced = Some(outcome.enforced.as_str().to_owned());
        }
        let row = Row::of(&record);
        if args.wants(&row) {
            rows.push_back(row);
            if rows.len() > args.limit {
                rows.pop_front();
            }
        }
        Ok(())
    })?;
    Ok((rows, next))
}

fn print(args: &Args, rows: &VecDeque<Row>) -> Result<(), CliError> {
    match args.output {
        Format::Json if !args.follow => {
            let text = serde_json::to_string_pretty(rows);
            put(&text.map_err(|e| CliError::Output(e.to_string()))?)
        }
        Format::Text if rows.is_empty() && !args.follow => put("no such records"),
        output => {
            if output == Format::Text {
                put(HEADER)?;
            }
            rows.iter().try_for_each(|row| put(&line(output, row)?))
        }
    }
}

fn line(output: Format, row: &Row) -> Result<String, CliError> {
    match output {
        Format::Text => Ok(row.line()),
        Format::Json => serde_json::to_string(row).map_err(|e| CliError::Output(e.to_string())),
    }
}

/// Prints one line.
pub(super) fn put(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").map_err(|e| CliError::Output(e.to_string()))
}
