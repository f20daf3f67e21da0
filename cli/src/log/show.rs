//! `writ log show`: one decision, as a person wants to read it.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use writ_ledger::encoding::{from_base64url, to_base64url};
use writ_ledger::{Decision, DecisionId, Entry, LogReader, Outcome, Record, UnknownCause, Verdict};
use writ_policy::Action;

use super::{Place, each, rfc3339};
use crate::error::CliError;
use crate::output::{Format, emit};

/// Everything about one record.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    record: Record,
    /// [`writ_ledger::record_hash`] of it, base64url.
    hash: String,
    /// Claims of its token, decoded and not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Value>,
    /// SHA-256 of the token: the SAE hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_hash: Option<String>,
    /// The Action that the policy contract saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Value>,
    /// Bytes of the stored witness.
    #[serde(skip_serializing_if = "Option::is_none")]
    witness_bytes: Option<usize>,
    /// The record of its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Record>,
    /// Number of records in the log.
    size: u64,
}

pub(super) fn run(place: &Place, id: &str, output: Format) -> Result<ExitCode, CliError> {
    let reader = place.open()?;
    let seq = place_of(&reader, id)?;
    let Some((found, bytes, _)) = reader.page(seq, 1)?.into_iter().next() else {
        return Err(absent(id, &reader)?);
    };
    if found != seq {
        return Err(absent(id, &reader)?);
    }
    let record = Record::decode(&bytes).map_err(writ_ledger::LedgerError::from)?;
    let jws = record.entry.jws();
    let shown = Shown {
        id: record.id().to_string(),
        hash: to_base64url(&writ_ledger::record_hash(&bytes)),
        token: jws.and_then(claims),
        token_hash: jws.map(|jws| to_base64url(&writ_sae::sae_hash(jws))),
        action: action(&record),
        witness_bytes: match record.entry.witness() {
            Some(id) => reader.witness(&id)?.map(|bytes| bytes.len()),
            None => None,
        },
        outcome: outcome_of(&reader, &record)?,
        size: reader.size()?,
        record,
    };
    emit(output, &shown, text)?;
    Ok(ExitCode::SUCCESS)
}

fn absent(id: &str, reader: &LogReader) -> Result<CliError, CliError> {
    let size = reader.size()?;
    Ok(CliError::Argument(format!(
        "{id}: no such record; log {} has {size}",
        reader.id()
    )))
}

fn place_of(reader: &LogReader, id: &str) -> Result<u64, CliError> {
    if let Ok(seq) = id.parse() {
        return Ok(seq);
    }
    let id: DecisionId = id.parse().map_err(|_| {
        CliError::Argument(format!(
            "{id}: a decision id looks like mfrggzdfmztwq2lk-42"
        ))
    })?;
    if id.log != *reader.id() {
        return Err(CliError::Argument(format!(
            "{id}: that is log {}, this one is {}; choose the other with --log",
            id.log,
            reader.id()
        )));
    }
    Ok(id.seq)
}

fn claims(jws: &str) -> Option<Value> {
    let payload = jws.split('.').nth(1)?;
    serde_json::from_slice(&from_base64url(payload)?).ok()
}

fn action(record: &Record) -> Option<Value> {
    let (Entry::Allow(decision) | Entry::Denial(decision)) = &record.entry else {
        return None;
    };
    let action = Action::from_abi(decision.action.as_ref()?)?;
    serde_json::to_value(Amounts {
        amount: action.amount.to_string(),
        spent: action.spent.to_string(),
        calls: action.calls,
        window: action.window,
        classification: action.classification,
        risk: action.risk,
        time: action.time,
        agent: action.agent.to_string(),
        params: action.params.to_string(),
    })
    .ok()
}

/// The members of an Action that are no hashes of names, and two that are.
#[derive(Debug, Serialize)]
struct Amounts {
    amount: String,
    spent: String,
    calls: u64,
    window: u32,
    classification: u8,
    risk: u8,
    time: u64,
    agent: String,
    params: String,
}

fn outcome_of(reader: &LogReader, record: &Record) -> Result<Option<Record>, CliError> {
    if !record.entry.awaits_outcome() {
        return Ok(None);
    }
    let mut found = None;
    each(reader, record.seq, |_, bytes| {
        if found.is_none()
            && let Ok(later) = Record::decode(bytes)
            && match &later.entry {
                Entry::Outcome(outcome) => outcome.of == record.seq,
                Entry::Unknown(unknown) => unknown.of == record.seq,
                _ => false,
            }
        {
            found = Some(later);
        }
        Ok(())
    })?;
    Ok(found)
}

struct Page(String);

impl Page {
    fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {name:<12} {value}");
    }

    fn some(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.row(name, value);
        }
    }
}

fn text(shown: &Shown) -> String {
    let record = &shown.record;
    let mut page = Page(format!("{}  {}\n", shown.id, record.entry.kind().as_str()));
    page.row("when", rfc3339(record.time));
    match &record.entry {
        Entry::Allow(decision) | Entry::Denial(decision) => decided(&mut page, shown, decision),
        Entry::Verdict(verdict) => judged(&mut page, shown, verdict),
        other => {
            let json = serde_json::to_string_pretty(other).unwrap_or_default();
            page.row("says", json.replace('\n', "\n               "));
        }
    }
    if record.entry.awaits_outcome() {
        ended(&mut page, shown.outcome.as_ref());
    }
    page.row(
        "record",
        format!("{} of {}, hash {}", record.seq, shown.size, shown.hash),
    );
    page.row("follows", to_base64url(&record.prev));
    page.row("proof", format!("writ log prove {}", record.seq));
    page.0
}

fn decided(page: &mut Page, shown: &Shown, decision: &Decision) {
    let names = &decision.names;
    page.row("agent", &names.agent);
    page.some("on behalf of", names.principal.as_ref());
    page.row("capability", &names.capability);
    page.row("target", &names.target);
    page.some("resource", names.resource.as_ref());
    request(page, shown);
    page.row("reason", &decision.reason);
    if decision.mode == writ_ledger::Mode::Observe {
        page.row("mode", "observe: it was released, carrying this decision");
    }
    policy(page, shown);
    let at = |member: &str| shown.action.as_ref().and_then(|a| a.get(member)).map(plain);
    page.some("amount", at("amount").filter(|amount| amount != "0"));
    match &decision.budget {
        Some(b) => page.row(
            "budget",
            format!(
                "{} calls and {} spent before it in this window of {} s; counted from this log",
                b.calls, b.spent, b.window
            ),
        ),
        None => page.row("budget", "none counted"),
    }
    token(page, shown);
    page.some("session", names.session.as_ref());
    if let Some(id) = decision.witness {
        let stored = match shown.witness_bytes {
            Some(bytes) => format!("{bytes} bytes of proved state, stored"),
            None => "MISSING".to_owned(),
        };
        page.row("witness", format!("{id} ({stored})"));
    }
}

fn judged(page: &mut Page, shown: &Shown, verdict: &Verdict) {
    page.some("peer", verdict.peer.as_ref());
    page.some("capability", verdict.capability.as_ref());
    page.row("target", &verdict.target);
    request(page, shown);
    let said = if verdict.admitted {
        "admitted"
    } else if verdict.observed {
        "refused, and let through all the same: refusals were only observed"
    } else {
        "refused"
    };
    page.row("verdict", format!("{said}: {}", verdict.reason));
    policy(page, shown);
    token(page, shown);
    let log = claim(shown, "/ctx/log/id").zip(claim(shown, "/ctx/log/seq"));
    page.some("its record", log.map(|(id, seq)| format!("{id}-{seq}")));
    page.some("receipt", verdict.receipt.as_ref().map(|_| "returned"));
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn claim(shown: &Shown, pointer: &str) -> Option<String> {
    shown.token.as_ref()?.pointer(pointer).map(plain)
}

fn request(page: &mut Page, shown: &Shown) {
    let method = claim(shown, "/act/http/method");
    let path = claim(shown, "/act/http/path").unwrap_or_default();
    page.some("request", method.map(|method| format!("{method} {path}")));
    page.some("kind", claim(shown, "/act/kind"));
    page.some(
        "class",
        claim(shown, "/act/classification").map(|class| class_name(&class)),
    );
}

fn class_name(class: &str) -> String {
    let name = match class {
        "0" => "public",
        "1" => "internal",
        "2" => "confidential",
        "3" => "restricted",
        _ => "unknown",
    };
    format!("{class} ({name})")
}

fn policy(page: &mut Page, shown: &Shown) {
    let Some(contract) = claim(shown, "/pol/contract") else {
        page.row("policy", "not asked: the refusal came before it");
        return;
    };
    let get = |pointer: &str| claim(shown, pointer).unwrap_or_else(|| "?".to_owned());
    page.row(
        "policy",
        format!("contract {contract} on chain {}", get("/pol/chain_id")),
    );
    page.row("rule", get("/pol/rule"));
    page.row(
        "state",
        format!(
            "block {} {}, {}",
            get("/pol/block"),
            get("/pol/block_hash"),
            get("/pol/state")
        ),
    );
    page.row(
        "code",
        format!("{} ({})", get("/pol/code_hash"), get("/pol/evm")),
    );
}

fn token(page: &mut Page, shown: &Shown) {
    let Some(hash) = &shown.token_hash else {
        page.row("token", "none");
        return;
    };
    let kind = match shown.record.entry {
        Entry::Denial(_) => "denial",
        _ => "envelope",
    };
    page.row(kind, hash);
    page.some("for", claim(shown, "/aud"));
    let seconds = |pointer: &str| {
        let value = shown.token.as_ref()?.pointer(pointer)?.as_u64()?;
        Some(rfc3339(value.saturating_mul(1000)))
    };
    page.some("valid from", seconds("/nbf"));
    page.some("valid until", seconds("/exp"));
    page.some("id", claim(shown, "/jti"));
    page.some("approval", claim(shown, "/ctx/approval"));
}

fn ended(page: &mut Page, outcome: Option<&Record>) {
    match outcome.map(|record| (&record.entry, record)) {
        Some((Entry::Outcome(outcome), record)) => {
            page.row("outcome", summary(outcome));
            page.row("enforced", outcome.enforced.as_str());
            page.some("error", outcome.error.as_ref());
            page.row(
                "ended",
                format!("{} (record {})", rfc3339(record.time), record.seq),
            );
        }
        Some((Entry::Unknown(unknown), record)) => page.row(
            "outcome",
            match unknown.cause {
                UnknownCause::Restart => {
                    format!(
                        "unknown: the sidecar stopped before it ended (record {})",
                        record.seq
                    )
                }
                UnknownCause::NotReleased => {
                    format!("never released (record {})", record.seq)
                }
                UnknownCause::HandedOver => {
                    format!(
                        "unknown: the agent carried it out itself (record {})",
                        record.seq
                    )
                }
            },
        ),
        _ => page.row("outcome", "none yet"),
    }
}

fn summary(outcome: &Outcome) -> String {
    let status = outcome
        .status
        .map(|s| format!(", status {s}"))
        .unwrap_or_default();
    let receipt = match outcome.receipt {
        Some(_) => ", with the target's receipt",
        None => ", without a receipt",
    };
    format!("{}{status}{receipt}", outcome.result.as_str())
}
