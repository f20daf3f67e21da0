//! MCP messages (JSON-RPC 2.0 over streamable HTTP), one at a time.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::json::{self, JsonError, JsonLimits};

/// Longest method or tool name, bytes.
const MAX_NAME: usize = 128;

/// Why a body is not one MCP message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum McpRefusal {
    /// Not strict JSON.
    #[error("the MCP message is not acceptable JSON: {0}")]
    Json(#[from] JsonError),
    /// An array of messages.
    #[error(
        "JSON-RPC batches are not accepted (MCP 2025-06-18 removed them): send one message per request"
    )]
    Batch,
    /// Not an object with `jsonrpc: "2.0"`, or members outside JSON-RPC 2.0.
    #[error(
        "the body is not a JSON-RPC 2.0 message: send an object with jsonrpc \"2.0\" and only its members"
    )]
    NotJsonRpc,
    /// Neither method nor exactly one of result and error, or both.
    #[error(
        "the message is neither a request, a notification nor a response: send method, or id with either result or error"
    )]
    Shape,
    /// `id` is not a string or an integer.
    #[error("the id is not a string or an integer (MCP does not allow null): send one")]
    Id,
    /// Method name not made of printable ASCII without spaces, or too long.
    #[error(
        "the method name is empty, longer than {MAX_NAME} bytes or has characters outside printable ASCII"
    )]
    Method,
    /// `params` is not an object.
    #[error("params is not an object: MCP uses named parameters only")]
    Params,
    /// `tools/call` without a valid name, or with arguments that are no object.
    #[error(
        "tools/call needs params.name (printable ASCII, at most {MAX_NAME} bytes) and, if present, params.arguments as an object"
    )]
    ToolCall,
    /// A method that needs an id was sent as a notification, or the other way round.
    #[error("requests carry an id and notifications/* carry none: correct the message")]
    NotificationForm,
}

impl McpRefusal {
    /// Stable identifier, kebab-case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Json(error) => error.code(),
            Self::Batch => "mcp-batch",
            Self::NotJsonRpc => "mcp-not-json-rpc",
            Self::Shape => "mcp-shape",
            Self::Id => "mcp-id",
            Self::Method => "mcp-method",
            Self::Params => "mcp-params",
            Self::ToolCall => "mcp-tool-call",
            Self::NotificationForm => "mcp-notification-form",
        }
    }
}

/// The call of one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Tool name.
    pub name: String,
    /// Arguments; an empty object when the message has none.
    pub arguments: Map<String, Value>,
    /// The arguments as written, so that amounts are read from their digits.
    pub arguments_text: String,
}

/// One message from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Expects an answer.
    Request {
        /// String or integer.
        id: Value,
        /// Method, such as `tools/call`.
        method: String,
        /// Present for `tools/call`.
        tool: Option<ToolCall>,
        /// Parameters; empty when the message has none.
        params: Map<String, Value>,
    },
    /// `notifications/*`.
    Notification {
        /// Method, such as `notifications/initialized`.
        method: String,
        /// Parameters; empty when the message has none.
        params: Map<String, Value>,
    },
    /// Answers a request that the server made.
    Response {
        /// String or integer.
        id: Value,
        /// The whole message.
        body: Map<String, Value>,
    },
}

impl Message {
    /// The id to answer with; `None` for a notification.
    #[must_use]
    pub fn id(&self) -> Option<&Value> {
        match self {
            Self::Request { id, .. } | Self::Response { id, .. } => Some(id),
            Self::Notification { .. } => None,
        }
    }
}

/// Parses one MCP message.
///
/// # Errors
/// A [`McpRefusal`]; batches are refused.
pub fn parse(body: &[u8], limits: &JsonLimits) -> Result<Message, McpRefusal> {
    let message = match json::parse_strict(body, limits)? {
        Value::Object(message) => message,
        Value::Array(_) => return Err(McpRefusal::Batch),
        _ => return Err(McpRefusal::NotJsonRpc),
    };
    let known = ["jsonrpc", "id", "method", "params", "result", "error"];
    let version_ok = message.get("jsonrpc").and_then(Value::as_str) == Some("2.0");
    if !version_ok || message.keys().any(|key| !known.contains(&key.as_str())) {
        return Err(McpRefusal::NotJsonRpc);
    }
    if message.contains_key("method") {
        call(message, body)
    } else {
        response(message)
    }
}

fn response(message: Map<String, Value>) -> Result<Message, McpRefusal> {
    let one_outcome = message.contains_key("result") != message.contains_key("error");
    if !one_outcome || message.contains_key("params") {
        return Err(McpRefusal::Shape);
    }
    let id = checked_id(message.get("id"))?.ok_or(McpRefusal::Id)?;
    Ok(Message::Response { id, body: message })
}

fn call(mut message: Map<String, Value>, body: &[u8]) -> Result<Message, McpRefusal> {
    if message.contains_key("result") || message.contains_key("error") {
        return Err(McpRefusal::Shape);
    }
    let method = message
        .get("method")
        .and_then(Value::as_str)
        .filter(|m| is_name(m))
        .ok_or(McpRefusal::Method)?;
    let method = method.to_owned();
    let params = match message.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(McpRefusal::Params),
    };
    let id = checked_id(message.get("id"))?;
    match (id, method.starts_with("notifications/")) {
        (None, true) => Ok(Message::Notification { method, params }),
        (Some(id), false) => {
            let tool = if method == "tools/call" {
                Some(tool_call(&params, body)?)
            } else {
                None
            };
            Ok(Message::Request {
                id,
                method,
                tool,
                params,
            })
        }
        _ => Err(McpRefusal::NotificationForm),
    }
}

fn checked_id(id: Option<&Value>) -> Result<Option<Value>, McpRefusal> {
    match id {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_NAME => Ok(id.cloned()),
        Some(Value::Number(number)) if number.is_i64() => Ok(id.cloned()),
        Some(_) => Err(McpRefusal::Id),
    }
}

fn tool_call(params: &Map<String, Value>, body: &[u8]) -> Result<ToolCall, McpRefusal> {
    let name = params
        .get("name")
        .and_then(Value::as_str)
        .filter(|n| is_name(n))
        .ok_or(McpRefusal::ToolCall)?;
    let arguments = match params.get("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(_) => return Err(McpRefusal::ToolCall),
    };
    let text: Envelope<'_> = serde_json::from_slice(body).map_err(|_| McpRefusal::ToolCall)?;
    let arguments_text = text.params.arguments.map_or("{}", RawValue::get).to_owned();
    Ok(ToolCall {
        name: name.to_owned(),
        arguments,
        arguments_text,
    })
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Only to reach the arguments as text.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    params: EnvelopeParams<'a>,
}

#[derive(Deserialize)]
struct EnvelopeParams<'a> {
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}
