//! Verification of a whole log, as a stranger would do it.
//!
//! What can be known from the log alone: that every record is in the one form, follows the one
//! before, is what was hashed into the tree, agrees with the token it keeps, and that budgets add
//! up. What cannot: that it is the log that was written. For that it is compared with what is kept
//! elsewhere ([`Kept`]), and its signatures with a trust bundle ([`Authority`]).

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::budget::{BudgetUse, Totals};
use crate::checkpoint::SignedHead;
use crate::encoding::{from_base64url, to_base64url};
use crate::id::{LogId, WitnessId};
use crate::replay::{Fault, Replay};
use crate::{BudgetKey, Decision, Entry, EntryKind, Hash, Record, StartSignature, start_statement};

/// Most findings that are kept; the rest is counted.
pub const MAX_FINDINGS: usize = 100;

/// Who says whether a signature in the log is good.
pub trait Authority {
    /// Checks the SVID's signature over [`start_statement`], made at `time` (unix seconds). A
    /// start without one is for the authority to accept or not.
    ///
    /// # Errors
    /// What is wrong with it.
    fn start(
        &self,
        statement: &[u8],
        by: Option<&StartSignature>,
        time: u64,
    ) -> Result<Signed, String>;

    /// Checks an envelope or denial, made at `time`. `certificate` finds a stored certificate by
    /// its SHA-256.
    ///
    /// # Errors
    /// What is wrong with it.
    fn token(
        &self,
        jws: &str,
        whose: Whose,
        time: u64,
        certificate: &dyn Fn(&WitnessId) -> Option<Vec<u8>>,
    ) -> Result<Signed, String>;
}

/// How far a signature was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "checked", content = "by")]
pub enum Signed {
    /// Up to a trust bundle: who signed.
    Trusted(String),
    /// Against the certificate that the log itself holds: who it says signed.
    Consistent(String),
    /// Not at all: why.
    Unchecked(String),
}

/// Whose token a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The sidecar's that wrote the log: its certificate stands in it.
    Own,
    /// A caller's that was admitted: its certificate may not be kept.
    Caller,
}

/// What somebody else keeps of this log.
#[derive(Debug, Default)]
pub struct Kept {
    /// Checkpoints, with the verifier key that is known to be right, where one is.
    pub checkpoints: Vec<(SignedHead, Option<String>)>,
    /// Hashes of records.
    pub hashes: BTreeMap<u64, Hash>,
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// First record concerned.
    pub first: u64,
    /// Last record concerned; the same unless only a range is known.
    pub last: u64,
    /// What does not fit.
    pub problem: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "record {}: {}", self.first, self.problem)
        } else {
            write!(
                f,
                "records {} to {}: {}",
                self.first, self.last, self.problem
            )
        }
    }
}

/// A start that the log names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StartSeen {
    /// Its record.
    pub seq: u64,
    /// Key of the checkpoints from there on.
    pub key: String,
    /// Program.
    pub software: String,
    /// Whether the SVID vouches for the key.
    pub signed: Signed,
}

/// What was read, what was checked, and what does not fit.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The log.
    pub log: LogId,
    /// Number of records read.
    pub records: u64,
    /// Root over them, base64url.
    pub root: String,
    /// Time of the first record, unix milliseconds.
    pub first_time: Option<u64>,
    /// Time of the newest record.
    pub last_time: Option<u64>,
    /// Records by kind.
    pub kinds: BTreeMap<EntryKind, u64>,
    /// Starts.
    pub starts: Vec<StartSeen>,
    /// Tokens whose signature leads to a trust bundle.
    pub tokens_trusted: u64,
    /// Tokens whose signature fits a certificate in the log.
    pub tokens_consistent: u64,
    /// Tokens whose signature was not checked.
    pub tokens_unchecked: u64,
    /// Decisions without a token.
    pub tokens_absent: u64,
    /// Checkpoints in the log that fit it.
    pub checkpoints: u64,
    /// Checkpoints and hashes kept elsewhere that fit it.
    pub kept: u64,
    /// Records that something kept elsewhere covers, from the first on.
    pub covered: u64,
    /// Witnesses that are there and are what their names say.
    pub witnesses: u64,
    /// Actions counted against budgets, recomputed.
    pub budget_uses: u64,
    /// Budget counts whose record was lost in a restart; they stay counted.
    pub budget_lost: u64,
    /// Released actions without an outcome yet.
    pub awaiting: Vec<u64>,
    /// What does not fit, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Number of findings.
    pub found: u64,
}

impl Report {
    /// Whether everything fits.
    pub fn is_good(&self) -> bool {
        self.found == 0
    }
}

#[derive(Debug, Default)]
struct Tally {
    expected: Totals,
    ahead: BTreeMap<u64, (BudgetUse, u64)>,
}

/// Reads a log record by record.
pub struct Verifier<'a> {
    replay: Replay,
    authority: Option<&'a dyn Authority>,
    witness: &'a dyn Fn(&WitnessId) -> Option<Vec<u8>>,
    seen: std::collections::HashSet<WitnessId>,
    own: BTreeMap<u64, Vec<u8>>,
    own_good: u64,
    kept: Kept,
    keys: Vec<String>,
    tallies: BTreeMap<(BudgetKey, u64), Tally>,
    report: Report,
}

impl<'a> Verifier<'a> {
    /// A verifier for `log`. `own` holds the checkpoints stored with the log, by size; `witness`
    /// reads a stored witness; without an `authority` no signature is checked.
    pub fn new(
        log: LogId,
        own: BTreeMap<u64, Vec<u8>>,
        witness: &'a dyn Fn(&WitnessId) -> Option<Vec<u8>>,
        authority: Option<&'a dyn Authority>,
        mut kept: Kept,
    ) -> Self {
        kept.checkpoints
            .sort_by_key(|(head, _)| head.unverified().size);
        Self {
            report: Report {
                log: log.clone(),
                records: 0,
                root: String::new(),
                first_time: None,
                last_time: None,
                kinds: BTreeMap::new(),
                starts: Vec::new(),
                tokens_trusted: 0,
                tokens_consistent: 0,
                tokens_unchecked: 0,
                tokens_absent: 0,
                checkpoints: 0,
                kept: 0,
                covered: 0,
                witnesses: 0,
                budget_uses: 0,
                budget_lost: 0,
                awaiting: Vec::new(),
                findings: Vec::new(),
                found: 0,
            },
            replay: Replay::new(log),
            authority,
            witness,
            seen: std::collections::HashSet::new(),
            own,
            own_good: 0,
            kept,
            keys: Vec::new(),
            tallies: BTreeMap::new(),
        }
    }

    /// Takes the record at place `seq`; `leaf` is the leaf stored in the tree for it.
    pub fn record(&mut self, seq: u64, bytes: &[u8], leaf: Option<Hash>) {
        let prev = self.replay.prev();
        let step = self.replay.accept(seq, bytes);
        if leaf != Some(step.hash) {
            self.find(seq, seq, "is not what was hashed into the tree".to_owned());
        }
        for Fault { seq, problem } in step.faults {
            self.find(seq, seq, problem);
        }
        if let Some(hash) = self.kept.hashes.remove(&seq) {
            if hash == step.hash {
                self.report.kept += 1;
            } else {
                self.find(
                    seq,
                    seq,
                    "is not the record whose hash is kept elsewhere".to_owned(),
                );
            }
        }
        if let Some(record) = &step.record {
            self.read(record, &prev);
        }
        self.report.records += 1;
        self.own_checkpoint();
        self.kept_checkpoints();
    }

    /// What was found.
    pub fn finish(mut self) -> Report {
        let size = self.replay.next();
        let newest = size.saturating_sub(1);
        for (beyond, _) in std::mem::take(&mut self.own) {
            if beyond > size {
                let problem = "is missing: a checkpoint stored with the log covers it";
                self.find(size, beyond - 1, problem.to_owned());
            } else {
                self.find(
                    newest,
                    newest,
                    format!("a checkpoint of size {beyond} fits no record"),
                );
            }
        }
        for (head, _) in std::mem::take(&mut self.kept.checkpoints) {
            let head = head.unverified();
            if head.origin != self.report.log.origin() {
                let problem = format!("a kept checkpoint is of {}, not of this log", head.origin);
                self.find(0, 0, problem);
            } else if head.size > size {
                let problem = "is missing: a checkpoint kept elsewhere covers it".to_owned();
                self.find(size, head.size - 1, problem);
            }
        }
        for (seq, _) in std::mem::take(&mut self.kept.hashes) {
            self.find(
                seq,
                seq,
                "is missing: its hash is kept elsewhere".to_owned(),
            );
        }
        for tally in std::mem::take(&mut self.tallies).into_values() {
            self.late(tally);
        }
        self.report.awaiting = self.replay.awaiting().take(1000).collect();
        match self.replay.tree().root() {
            Ok(root) => self.report.root = to_base64url(&root),
            Err(error) => self.find(newest, newest, error.to_string()),
        }
        self.report
    }

    fn find(&mut self, first: u64, last: u64, problem: String) {
        self.report.found += 1;
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding {
                first,
                last,
                problem,
            });
        }
    }

    fn read(&mut self, record: &Record, prev: &Hash) {
        self.report.first_time.get_or_insert(record.time);
        self.report.last_time = Some(record.time);
        *self.report.kinds.entry(record.entry.kind()).or_default() += 1;
        if let Entry::Start(start) = &record.entry {
            let statement = start_statement(&record.log, record.seq, prev, &start.key);
            let signed = match self.authority {
                None => Ok(Signed::Unchecked("nobody to ask".to_owned())),
                Some(authority) => {
                    authority.start(&statement, start.signature.as_ref(), record.time / 1000)
                }
            };
            self.keys.push(start.key.clone());
            match signed {
                Ok(signed) => self.report.starts.push(StartSeen {
                    seq: record.seq,
                    key: start.key.clone(),
                    software: start.software.clone(),
                    signed,
                }),
                Err(error) => self.find(record.seq, record.seq, format!("its signature: {error}")),
            }
        }
        if let Entry::Allow(decision) | Entry::Denial(decision) = &record.entry {
            self.token_agrees(record, decision);
        }
        match &record.entry {
            Entry::Allow(decision) | Entry::Denial(decision) => match &decision.jws {
                Some(jws) => self.token(record, jws, Whose::Own),
                None => self.report.tokens_absent += 1,
            },
            // What was refused need not be a token at all.
            Entry::Verdict(verdict) if verdict.admitted => match &verdict.sae {
                Some(sae) => self.token(record, sae, Whose::Caller),
                None => self.report.tokens_absent += 1,
            },
            _ => {}
        }
        if let Some(id) = record.entry.witness()
            && !self.seen.contains(&id)
        {
            match (self.witness)(&id) {
                Some(bytes) if WitnessId::of(&bytes) == id => {
                    self.report.witnesses += 1;
                    self.seen.insert(id);
                }
                Some(_) => self.find(record.seq, record.seq, format!("witness {id} was changed")),
                None => self.find(record.seq, record.seq, format!("witness {id} is missing")),
            }
        }
        if let Some(counted) = record.entry.budget() {
            self.count(counted, record.seq);
        }
    }

    /// The token must name this place and the Action that stands beside it.
    fn token_agrees(&mut self, record: &Record, decision: &Decision) {
        let Some(jws) = &decision.jws else { return };
        let seq = record.seq;
        let Some(claims) = payload(jws) else {
            self.find(seq, seq, "its token is no JWS".to_owned());
            return;
        };
        let log = claims.pointer("/ctx/log/id").and_then(|v| v.as_str());
        let place = claims.pointer("/ctx/log/seq").and_then(|v| v.as_u64());
        if log != Some(record.log.as_str()) || place != Some(seq) {
            self.find(seq, seq, "its token names another place".to_owned());
        }
        let input = claims.pointer("/pol/input").and_then(|v| v.as_str());
        let action = decision
            .action
            .as_ref()
            .map(|a| to_base64url(&Sha256::digest(a)));
        if input.is_some() && action.is_some() && input != action.as_deref() {
            self.find(
                seq,
                seq,
                "its token was decided on another Action".to_owned(),
            );
        }
        let issuer = claims.get("iss").and_then(|v| v.as_str());
        if issuer != Some(decision.names.agent.as_str()) {
            self.find(seq, seq, "its token is of another agent".to_owned());
        }
    }

    fn token(&mut self, record: &Record, jws: &str, whose: Whose) {
        let Some(authority) = self.authority else {
            self.report.tokens_unchecked += 1;
            return;
        };
        match authority.token(jws, whose, record.time / 1000, self.witness) {
            Ok(Signed::Trusted(_)) => self.report.tokens_trusted += 1,
            Ok(Signed::Consistent(_)) => self.report.tokens_consistent += 1,
            Ok(Signed::Unchecked(_)) => self.report.tokens_unchecked += 1,
            Err(error) => self.find(record.seq, record.seq, format!("its token: {error}")),
        }
    }

    fn count(&mut self, counted: &BudgetUse, seq: u64) {
        self.report.budget_uses += 1;
        let tally = self
            .tallies
            .entry((counted.key(), counted.index))
            .or_default();
        if counted.calls < tally.expected.calls
            || tally
                .ahead
                .insert(counted.calls, (counted.clone(), seq))
                .is_some()
        {
            self.find(
                seq,
                seq,
                format!("counts call {} of its budget again", counted.calls),
            );
            return;
        }
        let mut wrong = Vec::new();
        while let Some((counted, seq)) = tally.ahead.remove(&tally.expected.calls) {
            if counted.spent != tally.expected.spent {
                wrong.push((seq, tally.expected.spent));
            }
            // The bounds of the format keep the sum within 256 bits.
            tally.expected = counted.after().unwrap_or(tally.expected);
        }
        for (seq, spent) in wrong {
            self.find(
                seq,
                seq,
                format!("its budget had {spent} spent, not what it says"),
            );
        }
    }

    /// Counts after one whose record was lost: totals may only be higher than what is recorded.
    fn late(&mut self, mut tally: Tally) {
        while let Some((calls, (counted, seq))) = tally.ahead.pop_first() {
            self.report.budget_lost += calls.saturating_sub(tally.expected.calls);
            let lost = calls > tally.expected.calls;
            if counted.spent < tally.expected.spent
                || (!lost && counted.spent != tally.expected.spent)
            {
                self.find(
                    seq,
                    seq,
                    "its budget had more spent than it says".to_owned(),
                );
            }
            tally.expected = counted.after().unwrap_or(tally.expected);
        }
    }

    fn own_checkpoint(&mut self) {
        let size = self.replay.next();
        let Some(note) = self.own.remove(&size) else {
            return;
        };
        if !self.replay.is_whole() {
            return;
        }
        let checked = SignedHead::parse(&note).and_then(|signed| {
            let key = self.replay.key().unwrap_or_default();
            signed.verify(key).cloned()
        });
        let first = self.own_good;
        match (checked, self.replay.tree().root()) {
            (Ok(head), Ok(root)) if head.size == size && head.root == root => {
                self.report.checkpoints += 1;
                self.own_good = size;
            }
            (Ok(_), _) => {
                self.find(
                    first,
                    size - 1,
                    "do not fit the checkpoint stored with them".to_owned(),
                );
            }
            (Err(error), _) => {
                let problem = format!("the stored checkpoint of size {size}: {error}");
                self.find(size - 1, size - 1, problem);
            }
        }
    }

    fn kept_checkpoints(&mut self) {
        let size = self.replay.next();
        while self
            .kept
            .checkpoints
            .first()
            .is_some_and(|(head, _)| head.unverified().size <= size)
        {
            let (signed, known) = self.kept.checkpoints.remove(0);
            let first = self.report.covered;
            let verified = match &known {
                Some(key) => signed.verify(key).map(|_| ()),
                None => {
                    let mut keys = self.keys.iter();
                    match keys.any(|key| signed.verify(key).is_ok()) {
                        true => Ok(()),
                        false => Err(crate::FormatError::Checkpoint(
                            "no start in this log names the key that signed it".to_owned(),
                        )),
                    }
                }
            };
            let head = signed.unverified().clone();
            if let Err(error) = verified {
                let problem = format!("the kept checkpoint of size {}: {error}", head.size);
                self.find(first, size - 1, problem);
            } else if head.size == size
                && self.replay.is_whole()
                && self
                    .replay
                    .tree()
                    .root()
                    .is_ok_and(|root| root == head.root)
            {
                self.report.kept += 1;
                self.report.covered = size;
            } else {
                let problem = "one of them is not the record that the kept checkpoint covers";
                self.find(first, size - 1, problem.to_owned());
            }
        }
    }
}

fn payload(jws: &str) -> Option<serde_json::Value> {
    let mut parts = jws.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&from_base64url(payload)?).ok()
}
