//! A recorded action under another policy. No I/O.
//!
//! A record holds no bodies. What a catalog would read from one is therefore taken from the record
//! where it says so (the amount, the class that detectors raised), and told to be unknown where not.

use alloy_primitives::{B256, U256};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value};
use writ_canonical::mcp::{Message, ToolCall};
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};
use writ_catalog::model::{AmountSpec, EntrySpec, Protocol as Kind, ResourceSpec};
use writ_catalog::{BodyView, CUSTOM_ACTION, Catalog, Destination, Intent, Protocol, Refusal};

use super::engine::{Asked, Engine, decision};
use super::local::{destination, units};
use super::seen::{Seen, SeenAmount};
use super::source::Written;
use crate::error::CliError;

/// Reasons that a rule gives, or a catalog without having read a body: another policy may say otherwise.
const OF_THE_POLICY: [&str; 24] = [
    "allowed",
    "no-rule",
    "denied-by-rule",
    "class-over-ceiling",
    "risk-over-ceiling",
    "binding-not-allowed",
    "state-too-old",
    "outside-time-window",
    "model-not-allowed",
    "model-mismatch",
    "amount-over-limit",
    "window-mismatch",
    "budget-spent",
    "budget-calls",
    "approval-required",
    "approval-invalid",
    "unlisted",
    "unlisted-destination",
    "plain-http-not-allowed",
    "agent-tls-not-allowed",
    "agent-tls-refused",
    "no-interception",
    "protocol-mismatch",
    "mcp-expected",
];

/// Reasons that a catalog gives after it read a body: another entry may demand less of it.
const OF_THE_BODY: [&str; 13] = [
    "query-ambiguous",
    "body-missing",
    "body-unbound",
    "body-not-json",
    "require-mismatch",
    "resource-missing",
    "param-not-scalar",
    "amount-missing",
    "amount-type",
    "amount-sign",
    "amount-exponent",
    "amount-form",
    "amount-digits",
];

/// Whether another policy could say otherwise of a denial. The rest is refused under every policy.
pub fn is_of_the_policy(reason: &str) -> bool {
    reason.is_empty() || OF_THE_POLICY.contains(&reason) || is_of_the_body(reason)
}

/// Whether a request was refused for what stood in it.
pub fn is_of_the_body(reason: &str) -> bool {
    OF_THE_BODY.contains(&reason) || reason == "amount-decimals"
}

/// What another policy says of a recorded action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It decides.
    Decided {
        /// `allow` or `deny`.
        decision: &'static str,
        reason: String,
        rule: Option<String>,
        /// What the request is called now.
        capability: String,
    },
    /// The record does not hold what it would need.
    Unknown(String),
}

impl Outcome {
    fn deny(reason: impl Into<String>) -> Self {
        Self::Decided {
            decision: "deny",
            reason: reason.into(),
            rule: None,
            capability: writ_catalog::UNLISTED.to_owned(),
        }
    }
}

/// What a catalog makes of a recorded action.
pub struct Named {
    /// Name of the entry; a preset's are not in the document.
    pub entry: String,
    pub capability: String,
    pub class: u8,
    pub risk: u8,
    pub window: u32,
    pub amount: Option<AmountSpec>,
    pub opaque: bool,
    /// Whether it demands something of the content.
    pub reads: bool,
}

impl Named {
    fn of(entry: &EntrySpec) -> Self {
        Self {
            entry: entry.name.clone(),
            capability: entry.capability.clone(),
            class: entry.class.level(),
            risk: entry.risk,
            window: entry.window,
            amount: entry.amount.clone(),
            opaque: entry.protocol == Kind::Opaque,
            reads: entry.amount.is_some()
                || entry.query.is_some()
                || !entry.require.is_empty()
                || !entry.params.is_empty()
                || matches!(entry.resource, Some(ResourceSpec::Pointer(_))),
        }
    }
}

/// Decides a recorded action again. `now` stands for a time that is not known, in unix seconds.
pub fn again(
    seen: &Seen,
    written: &Written,
    engine: &Engine,
    now: u64,
) -> Result<Outcome, CliError> {
    let reason = seen.reason.as_deref().unwrap_or_default();
    if seen.decision == "deny" && !is_of_the_policy(reason) {
        return Ok(Outcome::deny(reason));
    }
    let named = match name(seen, &written.catalog) {
        Ok(named) => named,
        Err(outcome) => return Ok(outcome),
    };
    if is_of_the_body(reason) && named.reads {
        let why = format!("it was refused for its content ({reason}), which was not recorded");
        return Ok(Outcome::Unknown(why));
    }
    let amount = match amount(seen, named.amount.as_ref()) {
        Ok(amount) => amount,
        Err(why) => return Ok(Outcome::Unknown(why)),
    };
    let recorded = seen.recorded.as_ref();
    // Totals were counted in the window of that time.
    let counted = recorded.filter(|r| r.window == named.window);
    let asked = Asked {
        class: named.class.max(seen.class),
        risk: named.risk,
        amount,
        resource: seen.resource.clone(),
        window: named.window,
        spent: counted.map_or(U256::ZERO, |r| r.spent),
        calls: counted.map_or(0, |r| r.calls),
        binding: match (named.opaque, recorded) {
            (true, _) => 2,
            (false, recorded) => recorded.map_or(0, |r| r.binding),
        },
        time: time(seen).unwrap_or(now),
        model: written.model,
        approval: B256::ZERO,
        capability: named.capability,
        ..Asked::default()
    };
    let ruling = engine.decide(&seen.agent, &asked)?;
    Ok(Outcome::Decided {
        decision: decision(ruling.effect),
        rule: engine.rule(&ruling).map(|rule| rule.name.clone()),
        reason: ruling.reason,
        capability: asked.capability,
    })
}

fn time(seen: &Seen) -> Option<u64> {
    if let Some(recorded) = &seen.recorded {
        return Some(recorded.time);
    }
    let time = humantime::parse_rfc3339(&seen.last).ok()?;
    Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
}

/// The amount of a recorded action in the smallest part of the unit that an entry counts in.
pub fn amount(seen: &Seen, spec: Option<&AmountSpec>) -> Result<U256, String> {
    let Some(spec) = spec else {
        return Ok(U256::ZERO);
    };
    if let Some(recorded) = &seen.recorded {
        return Ok(recorded.amount);
    }
    let missing = || "its amount was not recorded".to_owned();
    let SeenAmount { value, unit } = seen.amount.as_ref().ok_or_else(missing)?;
    if !unit.is_empty() && *unit != spec.unit {
        return Err(format!(
            "it was counted in {unit}, the entry counts in {}",
            spec.unit
        ));
    }
    units(value, spec.scale).ok_or_else(|| {
        format!(
            "the amount {value} has more than {} decimal places",
            spec.scale
        )
    })
}

/// Host and port of `host:port` or a URL; the port may be missing.
pub fn host_and_port(text: &str) -> (&str, Option<u16>) {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split('/').next().unwrap_or_default();
    match text.rsplit_once(':') {
        // The last colon of an IPv6 address stands inside its brackets.
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

/// The destination that a recorded action went to.
pub fn place<'c>(seen: &Seen, catalog: &'c Catalog) -> Option<&'c Destination> {
    match host_and_port(&seen.destination) {
        (host, Some(port)) => destination(catalog, host, port),
        (name, None) => catalog.destinations().find(|d| d.name == name).or_else(|| {
            [443, 80]
                .iter()
                .find_map(|port| destination(catalog, name, *port))
        }),
    }
}

/// What a catalog makes of a recorded action.
pub fn name(seen: &Seen, catalog: &Catalog) -> Result<Named, Outcome> {
    let Some(place) = place(seen, catalog) else {
        return Err(Outcome::deny("unlisted-destination"));
    };
    if seen.method.as_deref() == Some(CUSTOM_ACTION) {
        return custom(seen, catalog, place);
    }
    let (host, _) = host_and_port(&seen.destination);
    let host = if host == place.name {
        place.host.as_str()
    } else {
        host
    };
    if place.agent_tls == writ_catalog::AgentTls::Opaque {
        return taken(catalog, catalog.classify_opaque(place, host));
    }
    let Some(path) = seen.path.as_deref().filter(|path| path.starts_with('/')) else {
        return by_capability(seen, catalog, place);
    };
    let method = seen.method.as_deref().unwrap_or("POST");
    let http = Method::from_bytes(method.as_bytes()).ok().filter(|m| {
        matches!(
            m.as_str(),
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS"
        )
    });
    let verb = match (&seen.tool, http) {
        (None, Some(method)) => method,
        _ => Method::POST,
    };
    let request = match canonical(place, host, &verb, path) {
        Ok(request) => request,
        Err(code) => return Err(Outcome::deny(code)),
    };
    let is_mcp = catalog.protocol(place, &request) == Protocol::Mcp;
    match (&seen.tool, is_mcp) {
        (Some(tool), _) => taken(catalog, catalog.classify_mcp(place, &request, &call(tool))),
        // A record names the POST that carried the message, not the message.
        (None, true) if method == "POST" => by_capability(seen, catalog, place),
        (None, true) if !matches!(method, "GET" | "DELETE") => taken(
            catalog,
            catalog.classify_mcp(place, &request, &message(method)),
        ),
        (None, true) => taken(
            catalog,
            catalog.classify(place, &request, BodyView::Bytes(&[])),
        ),
        (None, false) => taken(
            catalog,
            catalog.classify(place, &request, BodyView::Unbound),
        ),
    }
}

fn canonical(
    place: &Destination,
    host: &str,
    method: &Method,
    path: &str,
) -> Result<CanonicalRequest, &'static str> {
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let host = host
        .strip_prefix("*.")
        .map_or_else(|| host.to_owned(), |rest| format!("x.{rest}"));
    let raw = RawHead {
        scheme: match place.scheme() {
            Scheme::Http => Scheme::Http,
            Scheme::Https => Scheme::Https,
        },
        method,
        authority: &format!("{host}:{}", place.upstream.port),
        path_and_query: path,
        headers: &headers,
    };
    canonicalize(raw, &Limits::default()).map_err(|refusal| refusal.code())
}

fn call(tool: &str) -> Message {
    Message::Request {
        id: Value::from(1),
        method: "tools/call".to_owned(),
        tool: Some(ToolCall {
            name: tool.to_owned(),
            arguments: Map::new(),
            arguments_text: "{}".to_owned(),
        }),
        params: Map::new(),
    }
}

fn message(method: &str) -> Message {
    let (method, params) = (method.to_owned(), Map::new());
    if method.starts_with("notifications/") {
        Message::Notification { method, params }
    } else {
        Message::Request {
            id: Value::from(1),
            method,
            tool: None,
            params,
        }
    }
}

/// The entry that was found. That a value of the body is missing is the record's lack.
fn taken(catalog: &Catalog, result: Result<Intent, Refusal>) -> Result<Named, Outcome> {
    let found = match &result {
        Ok(intent) => Some(intent.entry.as_str()),
        Err(refusal) => refusal.entry.as_deref(),
    };
    let entries = &catalog.document().entries;
    let entry = found.and_then(|name| entries.iter().find(|e| e.name == name));
    match (result, entry) {
        (_, Some(entry)) => Ok(Named::of(entry)),
        // Of a preset.
        (Ok(intent), None) => Ok(Named {
            entry: intent.entry,
            capability: intent.capability,
            class: intent.class,
            risk: intent.risk,
            window: intent.window,
            amount: None,
            opaque: false,
            reads: false,
        }),
        (Err(refusal), None) => Err(Outcome::deny(refusal.code())),
    }
}

/// An action of the local API is found by the capability that it was asked for as.
fn custom(seen: &Seen, catalog: &Catalog, place: &Destination) -> Result<Named, Outcome> {
    let entries = catalog.document().entries.iter();
    let entry = entries
        .filter(|e| e.destination == place.name && e.protocol == Kind::Custom)
        .find(|e| Some(&e.capability) == seen.tool.as_ref());
    let unlisted = || Outcome::deny(writ_catalog::UNLISTED);
    entry.map(Named::of).ok_or_else(unlisted)
}

/// What has neither path nor tool is known by its capability alone.
fn by_capability(seen: &Seen, catalog: &Catalog, place: &Destination) -> Result<Named, Outcome> {
    let entries = catalog.document().entries.iter();
    let entry = entries
        .filter(|e| e.destination == place.name)
        .find(|e| e.capability == seen.capability);
    if let Some(entry) = entry {
        return Ok(Named::of(entry));
    }
    if catalog.capabilities().any(|c| c == seen.capability) {
        return Ok(Named {
            entry: String::new(),
            capability: seen.capability.clone(),
            class: seen.class,
            risk: 0,
            window: 0,
            amount: None,
            opaque: false,
            reads: false,
        });
    }
    Err(Outcome::Unknown(
        "the record has neither a path nor a tool, and the catalog does not know its capability"
            .to_owned(),
    ))
}
