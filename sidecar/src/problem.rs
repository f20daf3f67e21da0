//! Refusals as the agent sees them: RFC 9457 problem details over HTTP, a JSON-RPC error over MCP.
//!
//! A refusal must let a person, or a model, act on it: what was refused, why, which rule, what
//! would be allowed, and the decision id under which the record holds it.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// Base of the problem types; each stable code is one fragment of the published list.
const TYPE_BASE: &str = "https://writ.dev/problems#";

/// Media type of RFC 9457 problem details.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Response field in which a PEP says why it refused, so that the sender need not read the body,
/// whose form is the protocol's. It counts only in a response without a receipt.
pub const REFUSAL: &str = "writ-refusal";

/// JSON-RPC error code for a refused call, in the range that the specification leaves to servers.
pub const JSON_RPC_REFUSED: i64 = -32_403;

/// One refused action, as told to whoever asked for it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Problem {
    /// URI naming the kind of refusal.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in a few words, the same for every refusal of this kind.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// Why, for this request, and what to do about it.
    pub detail: String,
    /// Stable machine-readable code, kebab-case.
    pub code: String,
    /// Id under which the record holds this decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// Capability that the catalog gave the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Rule of the policy contract that decided, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What would be allowed instead, where the rule says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// How to ask for the approval that would turn this denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

impl Problem {
    /// A refusal with a stable `code` and a `detail` that names the fix.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_BASE}{code}"),
            title: title(status).to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            decision_id: None,
            capability: None,
            rule: None,
            allowed: None,
            approval: None,
        }
    }

    /// The same refusal, naming the record that holds it.
    #[must_use]
    pub fn with_decision(mut self, id: impl Into<String>) -> Self {
        self.decision_id = Some(id.into());
        self
    }

    /// The same refusal, naming the capability that was asked for.
    #[must_use]
    pub fn with_capability(mut self, capability: impl Into<String>) -> Self {
        self.capability = Some(capability.into());
        self
    }

    /// This refusal as an HTTP response.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::FORBIDDEN);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(B::from(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// This refusal as the answer to the MCP request `id`: HTTP 200 with a JSON-RPC error, since
    /// the official SDKs show that to the model and hide the body of a 403.
    pub fn into_mcp_response<B: From<Bytes>>(self, id: &serde_json::Value) -> Response<B> {
        let message = format!("refused by policy: {}", self.detail);
        let answer = serde_json::json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": { "code": JSON_RPC_REFUSED, "message": message, "data": self },
        });
        let body = serde_json::to_vec(&answer).unwrap_or_default();
        let mut response = Response::new(B::from(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "Action refused",
        StatusCode::PAYLOAD_TOO_LARGE => "Request too large to bind",
        StatusCode::MISDIRECTED_REQUEST => "Request for another authority",
        StatusCode::SERVICE_UNAVAILABLE => "Action cannot be decided now",
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => "Target not reachable",
        StatusCode::BAD_REQUEST => "Request cannot be understood",
        _ => "Action refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn a_refusal_is_problem_json_with_code_and_decision() {
        let response: Response<Full<Bytes>> = Problem::new(
            StatusCode::FORBIDDEN,
            "amount-over-limit",
            "at most 100.00 EUR",
        )
        .with_decision("d-1")
        .into_response();
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["code"], "amount-over-limit");
        assert_eq!(json["decision_id"], "d-1");
        assert_eq!(json["status"], 403);
    }

    #[tokio::test]
    async fn an_mcp_refusal_is_a_json_rpc_error_with_http_200() {
        let response: Response<Full<Bytes>> =
            Problem::new(StatusCode::FORBIDDEN, "unlisted", "no entry")
                .into_mcp_response(&serde_json::json!(7));
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["id"], 7);
        assert_eq!(json["error"]["data"]["code"], "unlisted");
    }
}
