//! From MCP message to intent.

use std::collections::HashMap;

use serde_json::{Value, json};
use writ_canonical::CanonicalRequest;
use writ_canonical::mcp::Message;

use crate::classify::{Facts, decoded_path, facts, intent, needs_body, refused};
use crate::index::McpKey;
use crate::intent::{Intent, Kind};
use crate::model::{AgentTls, EntrySpec};
use crate::refusal::{Reason, Refusal};
use crate::{Catalog, Destination};

impl Catalog {
    /// What an MCP message is. `message` is the parsed body of `request`.
    ///
    /// # Errors
    /// A [`Refusal`]: the message is denied without asking the policy.
    pub fn classify_mcp(
        &self,
        destination: &Destination,
        request: &CanonicalRequest,
        message: &Message,
    ) -> Result<Intent, Refusal> {
        let path = decoded_path(request);
        if matches!(destination.agent_tls, AgentTls::Opaque | AgentTls::Refuse) {
            return Err(Refusal::unlisted(Reason::ProtocolMismatch));
        }
        if !self.index.is_mcp_endpoint(destination.at, &path) {
            return Err(Refusal::unlisted(Reason::Unlisted));
        }
        check_transport(request).map_err(Refusal::unlisted)?;
        let entry = self
            .index
            .mcp(destination.at, &path, key(message))
            .and_then(|at| self.entries.get(at));
        let entry = entry.ok_or_else(|| Refusal::unlisted(Reason::Unlisted))?;
        let params = params(message);
        let mut facts = message_facts(entry, message).map_err(|reason| refused(entry, reason))?;
        facts.findings = self.detectors.request_line(request);
        facts
            .findings
            .extend(self.detectors.json(&scanned(message)));
        Ok(intent(Kind::Mcp, entry, &params, facts))
    }
}

/// A message is a POST of unencoded JSON, without a query that could change the endpoint's mind.
fn check_transport(request: &CanonicalRequest) -> Result<(), Reason> {
    if request
        .field("content-encoding")
        .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Reason::BodyEncoded);
    }
    let content_type = request
        .field("content-type")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let essence = content_type
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default();
    if request.method != "POST" || essence.trim_ascii() != b"application/json" {
        return Err(Reason::McpExpected);
    }
    Ok(())
}

fn key(message: &Message) -> McpKey<'_> {
    match message {
        Message::Request {
            tool: Some(tool), ..
        } => McpKey::Tool(&tool.name),
        // The words of the preset are not JSON-RPC methods, so a message cannot name them.
        Message::Request { method, .. } | Message::Notification { method, .. }
            if matches!(method.as_str(), "response" | "stream" | "close") =>
        {
            McpKey::Method("")
        }
        Message::Request { method, .. } | Message::Notification { method, .. } => {
            McpKey::Method(method)
        }
        Message::Response { .. } => McpKey::Method("response"),
    }
}

/// What the params digest covers: `{tool, arguments}`, `{method, params}` or `{response}`. The id is
/// left out: it says nothing about the action and changes with every retry.
fn params(message: &Message) -> Value {
    match message {
        Message::Request {
            tool: Some(tool), ..
        } => json!({ "tool": tool.name, "arguments": tool.arguments }),
        Message::Request { method, params, .. } | Message::Notification { method, params } => {
            json!({ "method": method, "params": params })
        }
        Message::Response { body, .. } => {
            let mut body = body.clone();
            body.remove("id");
            json!({ "response": body })
        }
    }
}

/// The message as sent, for the detectors: `_meta` and the id can carry content too.
fn scanned(message: &Message) -> Value {
    match message {
        Message::Request {
            id, method, params, ..
        } => json!({ "id": id, "method": method, "params": params }),
        Message::Notification { method, params } => json!({ "method": method, "params": params }),
        Message::Response { body, .. } => Value::Object(body.clone()),
    }
}

fn message_facts(entry: &EntrySpec, message: &Message) -> Result<Facts, Reason> {
    let variables = HashMap::new();
    match message {
        Message::Request {
            tool: Some(tool), ..
        } => {
            let arguments = Value::Object(tool.arguments.clone());
            facts(entry, &variables, Some((&arguments, &tool.arguments_text)))
        }
        Message::Request { params, .. } | Message::Notification { params, .. } => {
            // An amount is read from a tool's arguments only; a catalog with one here does not load.
            facts(
                entry,
                &variables,
                Some((&Value::Object(params.clone()), "{}")),
            )
        }
        Message::Response { .. } if needs_body(entry) => Err(Reason::BodyMissing),
        Message::Response { .. } => facts(entry, &variables, None),
    }
}
