//! What an agent did, as its sidecar reports it: a claim of that sidecar about its own agent, and about nobody else.

use std::sync::Arc;

use alloy_primitives::U256;
use tokio::sync::oneshot;
use tonic::Status;
use writ_proto::relay::v1;

use crate::limits::{MAX_SEEN, MAX_SEEN_TEXT};
use crate::{RelayError, wire};

/// Most decimals of a unit: more than 256 bits have.
const MAX_SCALE: u8 = 77;
/// The highest data class.
const MAX_CLASS: u8 = 3;

/// A kind of action, and how often it was asked for since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAction {
    /// Capability, `unlisted` where the catalog has none.
    pub capability: String,
    /// Data class, 0 to 3.
    pub class: u8,
    /// What was acted on.
    pub resource: Option<String>,
    /// `host:port`, as the agent named or dialled it.
    pub destination: String,
    /// HTTP method, JSON-RPC method of an MCP message, or `custom action`.
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// MCP tool, or the capability that a custom action was asked for as.
    pub tool: Option<String>,
    /// Why it was denied; `None` where it was allowed.
    pub denied: Option<String>,
    /// The rule that decided, lower-case hex.
    pub rule: Option<String>,
    /// How often.
    pub count: u64,
    /// First time, unix seconds.
    pub first: u64,
    /// Last time, unix seconds.
    pub last: u64,
    /// The highest amount.
    pub amount: Option<SeenAmount>,
}

/// An amount: `12.34` EUR at scale 2 is 1234.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAmount {
    /// In the smallest part of the unit.
    pub value: U256,
    /// Decimals of the unit, at most 77.
    pub scale: u8,
    /// Unit, as the catalog's entry names it.
    pub unit: String,
}

/// One report, for whoever keeps them.
#[derive(Debug)]
pub struct Report {
    /// SPIFFE ID of the sidecar, and so of its agent: the connection's, not the report's.
    pub agent: Arc<str>,
    /// What it did.
    pub actions: Vec<SeenAction>,
    /// Answered when it is kept, or cannot be. Dropped: it cannot be now.
    pub kept: oneshot::Sender<Result<(), Unkept>>,
}

/// Why a report is not kept. The sidecar reports the same again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unkept {
    /// No AgentPolicy names the agent.
    #[error("no AgentPolicy names this agent yet")]
    Nobody,
    /// As much waits as may.
    #[error("as many reports as are taken at one time wait")]
    Busy,
    /// It could not be written.
    #[error("it could not be written")]
    Failed,
}

impl From<Unkept> for Status {
    fn from(unkept: Unkept) -> Self {
        let text = unkept.to_string();
        match unkept {
            Unkept::Nobody => Self::not_found(text),
            Unkept::Busy => Self::resource_exhausted(text),
            Unkept::Failed => Self::unavailable(text),
        }
    }
}

/// Reads a report, within its bounds.
pub(crate) fn read(message: v1::ReportActionsRequest) -> Result<Vec<SeenAction>, RelayError> {
    if message.actions.len() > MAX_SEEN {
        return Err(RelayError::Protocol("too many actions in a report"));
    }
    message.actions.into_iter().map(action).collect()
}

/// A report of these actions.
pub(crate) fn write(actions: &[SeenAction]) -> v1::ReportActionsRequest {
    let action = |seen: &SeenAction| v1::SeenAction {
        capability: seen.capability.clone(),
        class: seen.class.into(),
        resource: seen.resource.clone(),
        destination: seen.destination.clone(),
        method: seen.method.clone(),
        path: seen.path.clone(),
        tool: seen.tool.clone(),
        denied: seen.denied.clone(),
        rule: seen.rule.clone(),
        count: seen.count,
        first: seen.first,
        last: seen.last,
        amount: seen.amount.as_ref().map(|amount| v1::SeenAmount {
            value: wire::from_number(&amount.value),
            scale: amount.scale.into(),
            unit: amount.unit.clone(),
        }),
    };
    v1::ReportActionsRequest {
        actions: actions.iter().map(action).collect(),
    }
}

fn action(seen: v1::SeenAction) -> Result<SeenAction, RelayError> {
    let class = u8::try_from(seen.class).ok().filter(|c| *c <= MAX_CLASS);
    if seen.count == 0 || seen.first > seen.last {
        return Err(RelayError::Protocol("an action that was never seen"));
    }
    Ok(SeenAction {
        capability: text(seen.capability)?,
        class: class.ok_or(RelayError::Protocol("no data class"))?,
        resource: seen.resource.map(text).transpose()?,
        destination: text(seen.destination)?,
        method: seen.method.map(text).transpose()?,
        path: seen.path.map(text).transpose()?,
        tool: seen.tool.map(text).transpose()?,
        denied: seen.denied.map(text).transpose()?,
        rule: seen.rule.map(text).transpose()?,
        count: seen.count,
        first: seen.first,
        last: seen.last,
        amount: seen.amount.map(amount).transpose()?,
    })
}

fn amount(seen: v1::SeenAmount) -> Result<SeenAmount, RelayError> {
    let scale = u8::try_from(seen.scale).ok().filter(|s| *s <= MAX_SCALE);
    Ok(SeenAmount {
        value: wire::number(&seen.value)?,
        scale: scale.ok_or(RelayError::Protocol("too many decimals"))?,
        unit: text(seen.unit)?,
    })
}

fn text(text: String) -> Result<String, RelayError> {
    if text.len() > MAX_SEEN_TEXT || text.chars().any(char::is_control) {
        return Err(RelayError::Protocol(
            "a text of a report is too long, or has control characters",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn transfer() -> SeenAction {
        SeenAction {
            capability: "payments.transfer".to_owned(),
            class: 2,
            resource: Some("DE-17".to_owned()),
            destination: "bank.example:80".to_owned(),
            method: Some("POST".to_owned()),
            path: Some("/v1/transfers".to_owned()),
            tool: None,
            denied: Some("amount-over-limit".to_owned()),
            rule: None,
            count: 3,
            first: 10,
            last: 12,
            amount: Some(SeenAmount {
                value: U256::from(1234),
                scale: 2,
                unit: "EUR".to_owned(),
            }),
        }
    }

    #[test]
    fn a_report_survives_the_wire() {
        let mut plain = transfer();
        (plain.amount, plain.denied) = (None, None);
        let actions = [transfer(), plain];
        assert_eq!(read(write(&actions)).unwrap(), actions);
    }

    #[test]
    fn what_is_beyond_the_bounds_of_a_report_is_refused() {
        let long = "x".repeat(MAX_SEEN_TEXT + 1);
        type Spoil = fn(&mut v1::SeenAction, &str);
        let spoilt: [Spoil; 9] = [
            |a, long| a.capability = long.to_owned(),
            |a, long| a.tool = Some(long.to_owned()),
            |a, _| a.path = Some("/a\nb".to_owned()),
            |a, _| a.class = 4,
            |a, _| a.class = 256,
            |a, _| a.count = 0,
            |a, _| a.first = 13,
            |a, _| a.amount.as_mut().unwrap().scale = 78,
            |a, _| a.amount.as_mut().unwrap().value = vec![1; 31].into(),
        ];
        for (n, spoil) in spoilt.into_iter().enumerate() {
            let mut report = write(&[transfer()]);
            spoil(&mut report.actions[0], &long);
            assert!(read(report).is_err(), "{n}");
        }
        assert!(read(write(&vec![transfer(); MAX_SEEN])).is_ok());
        assert!(read(write(&vec![transfer(); MAX_SEEN + 1])).is_err());
    }
}
