//! What a record says, by kind.
//!
//! Members stand in alphabetical order, which makes the encoding RFC 8785. Optional members are
//! absent, never `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::budget::BudgetUse;
use crate::encoding::{MAX_INTEGER, b64, b64_bytes, b64_bytes_option, b64_list, b64_option};
use crate::id::{LogId, WitnessId};
use crate::{FormatError, Hash};

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A program opened the log.
    Start(Box<Start>),
    /// An action was allowed.
    Allow(Box<Decision>),
    /// An action was denied.
    Denial(Box<Decision>),
    /// How a released action ended.
    Outcome(Box<Outcome>),
    /// What this PEP said of an envelope that it received.
    Verdict(Box<Verdict>),
    /// How a released action ended will never be known.
    Unknown(Unknown),
    /// A place that was reserved and not used.
    Void(Box<Void>),
    /// Unauthenticated requests that were refused, counted.
    Refused(Refused),
    /// A name that the resolver refused.
    Dns(Dns),
    /// Configuration in force from here on.
    Config(Config),
    /// Nothing happened; the log is alive.
    Heartbeat(Heartbeat),
}

/// The kinds of [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // named after the variants of `Entry`
pub enum EntryKind {
    Start,
    Allow,
    Denial,
    Outcome,
    Verdict,
    Unknown,
    Void,
    Refused,
    Dns,
    Config,
    Heartbeat,
}

impl EntryKind {
    /// The name that stands in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Allow => "allow",
            Self::Denial => "denial",
            Self::Outcome => "outcome",
            Self::Verdict => "verdict",
            Self::Unknown => "unknown",
            Self::Void => "void",
            Self::Refused => "refused",
            Self::Dns => "dns",
            Self::Config => "config",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// A decision on an action that this side wants to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// ABI encoding of the `Action` that the policy contract saw; absent where the refusal came first.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "b64_bytes_option"
    )]
    pub action: Option<Vec<u8>>,
    /// What was counted against a budget, and from where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetUse>,
    /// The envelope, or the signed denial: JWS compact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jws: Option<String>,
    /// Whether a denial stops the action.
    pub mode: Mode,
    /// The names whose salted hashes the policy saw.
    pub names: Names,
    /// Stable code of the reason: `amount-over-limit`; `allowed` for an allow.
    pub reason: String,
    /// Salt of those hashes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub salt: Option<[u8; 16]>,
    /// The chain state that the decision was made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessId>,
}

/// Whether denials stop actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A denied action is stopped.
    Enforce,
    /// A denied action is released and carries its denial.
    Observe,
}

/// Names in clear, as they are only in this record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// SPIFFE ID of the agent.
    pub agent: String,
    /// Dotted capability, `unlisted` where the catalog has none.
    pub capability: String,
    /// Verified user on whose behalf the agent acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What is acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Target URI, or host and port where there is none.
    pub target: String,
}

/// How a released action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// What held the target to the decision.
    pub enforced: Enforced,
    /// What went wrong, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Place of the decision in this log.
    pub of: u64,
    /// The target's receipt, JWS compact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// SHA-256 of the response body.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub response: Option<Hash>,
    /// How it ended.
    pub result: OutcomeResult,
    /// HTTP status of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// What held the target to the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// The target's PEP, by a verified receipt.
    Pep,
    /// A gateway that verifies, by a verified receipt.
    Gateway,
    /// Redirection of the agent's connections alone.
    Redirect,
    /// Nothing: the action went on although it was denied, since denials were only observed.
    None,
}

impl Enforced {
    /// The name that stands in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pep => "pep",
            Self::Gateway => "gateway",
            Self::Redirect => "redirect",
            Self::None => "none",
        }
    }
}

/// How a released action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeResult {
    /// The response went out to its end.
    Completed,
    /// The connection or the response broke off; the target may have acted.
    Failed,
    /// The target's PEP refused it.
    Refused,
    /// The action was never sent.
    NotSent,
}

impl OutcomeResult {
    /// The name that stands in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::NotSent => "not-sent",
        }
    }
}

/// What this PEP said of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Whether the request went on to the application.
    pub admitted: bool,
    /// Capability as this side's catalog has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// SPIFFE ID of the connection's peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Stable code of the reason; `admitted` when it was.
    pub reason: String,
    /// The receipt that was returned, JWS compact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// The envelope as received, JWS compact. It names its issuer's log and place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sae: Option<String>,
    /// Whether a refused request went on all the same, since refusals were only observed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub observed: bool,
    /// Target URI as requested.
    pub target: String,
    /// The chain state that the verdict was made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessId>,
}

/// A program opened the log. Its key signs the checkpoints from here to the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Key of the checkpoints, as a C2SP verifier key. The private half is only in memory.
    pub key: String,
    /// The SVID's signature over [`start_statement`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<StartSignature>,
    /// Program and version.
    pub software: String,
}

/// The SVID vouches for the key of the checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSignature {
    /// JWA name of the algorithm: `ES256`.
    pub alg: String,
    /// Certificate chain, DER, leaf first.
    #[serde(with = "b64_list")]
    pub chain: Vec<Vec<u8>>,
    /// The signature; for ES256 the 64 bytes r and s.
    #[serde(with = "b64_bytes")]
    pub value: Vec<u8>,
}

/// What the SVID signs at a start: it binds the key to this log and to everything before it.
///
/// The line breaks keep it apart from any JWS signing input.
pub fn start_statement(log: &LogId, seq: u64, prev: &Hash, key: &str) -> Vec<u8> {
    let prev = crate::encoding::to_base64url(prev);
    format!("writ-log-start/1\n{log}\n{seq}\n{prev}\n{key}\n").into_bytes()
}

/// How a released action ended will never be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// Why.
    pub cause: UnknownCause,
    /// Place of the decision in this log.
    pub of: u64,
}

/// Why an outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownCause {
    /// The program stopped between the decision and the outcome.
    Restart,
    /// The record was found on disk after a write that had failed; the action was not released.
    NotReleased,
    /// The agent carries the action out itself, with the envelope that it was given.
    HandedOver,
}

/// A place that was reserved and not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Void {
    /// What had been counted for it and stays counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetUse>,
    /// Why.
    pub cause: VoidCause,
}

/// Why a place is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoidCause {
    /// The decision was given up before it was recorded.
    Dropped,
    /// The record did not come in time.
    Expired,
    /// The record could not be written; the action was refused.
    Storage,
}

/// Unauthenticated requests that were refused, counted by reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// How many, by stable code of the reason.
    pub counts: BTreeMap<String, u64>,
    /// Start of the count, unix milliseconds; it ends at the record's time.
    pub since: u64,
}

/// A name that the resolver refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// How often since the last such record of this name.
    pub count: u64,
    /// The name as asked.
    pub name: String,
    /// Record type: `A`, `TXT`.
    pub qtype: String,
    /// Stable code of the reason.
    pub reason: String,
}

/// Configuration in force from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// SHA-256 of it.
    #[serde(with = "b64")]
    pub digest: Hash,
    /// What it is: `catalog`, `sidecar`.
    pub name: String,
}

/// Nothing happened; the log is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {}

const NAME_MAX: usize = 512;
const TEXT_MAX: usize = 4096;
const JWS_MAX: usize = 8 * 1024;

fn bound(ok: bool, what: &'static str) -> Result<(), FormatError> {
    if ok {
        Ok(())
    } else {
        Err(FormatError::Bound(what))
    }
}

fn text(text: &str, max: usize, what: &'static str) -> Result<(), FormatError> {
    let printable = !text.chars().any(char::is_control);
    bound(printable && text.len() <= max, what)
}

fn optional(value: Option<&String>, max: usize, what: &'static str) -> Result<(), FormatError> {
    value.map_or(Ok(()), |value| text(value, max, what))
}

fn compact(jws: Option<&String>, what: &'static str) -> Result<(), FormatError> {
    let form = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bound(
        jws.is_none_or(|jws| jws.len() <= JWS_MAX && jws.bytes().all(form)),
        what,
    )
}

impl Entry {
    /// Its kind.
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Start(_) => EntryKind::Start,
            Self::Allow(_) => EntryKind::Allow,
            Self::Denial(_) => EntryKind::Denial,
            Self::Outcome(_) => EntryKind::Outcome,
            Self::Verdict(_) => EntryKind::Verdict,
            Self::Unknown(_) => EntryKind::Unknown,
            Self::Void(_) => EntryKind::Void,
            Self::Refused(_) => EntryKind::Refused,
            Self::Dns(_) => EntryKind::Dns,
            Self::Config(_) => EntryKind::Config,
            Self::Heartbeat(_) => EntryKind::Heartbeat,
        }
    }

    /// Whether something was released on it, so that an outcome must follow.
    pub fn awaits_outcome(&self) -> bool {
        match self {
            Self::Allow(_) => true,
            Self::Denial(decision) => decision.mode == Mode::Observe,
            Self::Verdict(verdict) => verdict.admitted,
            _ => false,
        }
    }

    /// What it counts against a budget.
    pub fn budget(&self) -> Option<&BudgetUse> {
        match self {
            Self::Allow(decision) | Self::Denial(decision) => decision.budget.as_ref(),
            Self::Void(void) => void.budget.as_ref(),
            _ => None,
        }
    }

    /// The witness that it names.
    pub fn witness(&self) -> Option<WitnessId> {
        match self {
            Self::Allow(decision) | Self::Denial(decision) => decision.witness,
            Self::Verdict(verdict) => verdict.witness,
            _ => None,
        }
    }

    /// The signed token that it keeps: envelope or denial of ours, or a caller's envelope.
    pub fn jws(&self) -> Option<&str> {
        match self {
            Self::Allow(decision) | Self::Denial(decision) => decision.jws.as_deref(),
            Self::Verdict(verdict) => verdict.sae.as_deref(),
            _ => None,
        }
    }

    /// Checks every bound of the format.
    ///
    /// # Errors
    /// The first member out of bounds.
    pub fn check(&self) -> Result<(), FormatError> {
        match self {
            Self::Start(start) => start.check(),
            Self::Allow(decision) => {
                bound(
                    decision.jws.is_some() || decision.mode == Mode::Observe,
                    "allow.jws",
                )?;
                decision.check()
            }
            Self::Denial(decision) => decision.check(),
            Self::Outcome(outcome) => outcome.check(),
            Self::Verdict(verdict) => verdict.check(),
            Self::Unknown(unknown) => bound(unknown.of <= MAX_INTEGER, "unknown.of"),
            Self::Void(void) => void.budget.as_ref().map_or(Ok(()), BudgetUse::check),
            Self::Refused(refused) => refused.check(),
            Self::Dns(dns) => {
                bound(dns.count <= MAX_INTEGER, "dns.count")?;
                text(&dns.name, NAME_MAX, "dns.name")?;
                text(&dns.qtype, 32, "dns.qtype")?;
                text(&dns.reason, 64, "dns.reason")
            }
            Self::Config(config) => text(&config.name, NAME_MAX, "config.name"),
            Self::Heartbeat(_) => Ok(()),
        }
    }
}

impl Decision {
    fn check(&self) -> Result<(), FormatError> {
        bound(
            self.action.as_ref().is_none_or(|a| a.len() <= TEXT_MAX),
            "action",
        )?;
        self.budget.as_ref().map_or(Ok(()), BudgetUse::check)?;
        compact(self.jws.as_ref(), "jws")?;
        text(&self.names.agent, 2048, "names.agent")?;
        text(&self.names.capability, NAME_MAX, "names.capability")?;
        optional(self.names.principal.as_ref(), NAME_MAX, "names.principal")?;
        optional(self.names.resource.as_ref(), TEXT_MAX, "names.resource")?;
        optional(self.names.session.as_ref(), NAME_MAX, "names.session")?;
        text(&self.names.target, TEXT_MAX, "names.target")?;
        bound(!self.reason.is_empty(), "reason")?;
        text(&self.reason, 64, "reason")
    }
}

impl Outcome {
    fn check(&self) -> Result<(), FormatError> {
        optional(self.error.as_ref(), NAME_MAX, "outcome.error")?;
        bound(self.of <= MAX_INTEGER, "outcome.of")?;
        compact(self.receipt.as_ref(), "outcome.receipt")?;
        bound(
            matches!(self.enforced, Enforced::Redirect | Enforced::None) || self.receipt.is_some(),
            "outcome.enforced (needs a receipt)",
        )?;
        bound(
            self.status.is_none_or(|s| (100..=999).contains(&s)),
            "outcome.status",
        )
    }
}

impl Verdict {
    fn check(&self) -> Result<(), FormatError> {
        optional(self.capability.as_ref(), NAME_MAX, "verdict.capability")?;
        optional(self.peer.as_ref(), 2048, "verdict.peer")?;
        bound(!self.reason.is_empty(), "verdict.reason")?;
        text(&self.reason, 64, "verdict.reason")?;
        compact(self.receipt.as_ref(), "verdict.receipt")?;
        compact(self.sae.as_ref(), "verdict.sae")?;
        text(&self.target, TEXT_MAX, "verdict.target")
    }
}

impl Start {
    fn check(&self) -> Result<(), FormatError> {
        text(&self.key, NAME_MAX, "start.key")?;
        text(&self.software, NAME_MAX, "start.software")?;
        self.signature.as_ref().map_or(Ok(()), |signature| {
            text(&signature.alg, 16, "start.signature.alg")?;
            let chain = &signature.chain;
            bound(
                (1..=8).contains(&chain.len()) && chain.iter().all(|der| der.len() <= 8192),
                "start.signature.chain",
            )?;
            bound(signature.value.len() <= 1024, "start.signature.value")
        })
    }
}

impl Refused {
    fn check(&self) -> Result<(), FormatError> {
        bound((1..=64).contains(&self.counts.len()), "refused.counts")?;
        bound(self.since <= MAX_INTEGER, "refused.since")?;
        self.counts.iter().try_for_each(|(reason, count)| {
            text(reason, 64, "refused.counts")?;
            bound(*count <= MAX_INTEGER, "refused.counts")
        })
    }
}
