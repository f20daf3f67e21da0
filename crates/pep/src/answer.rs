//! How a refusal is told: problem details (RFC 9457), unless the protocol has a language of its own.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::Refusal;

const TYPE_BASE: &str = "https://writ.dev/problems#";
const PROBLEM_JSON: &str = "application/problem+json";

/// Problem details of one refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// URI naming the kind of refusal.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, the same for every refusal with this status.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Why, for this request.
    pub detail: String,
    /// Stable code.
    pub code: &'static str,
    /// Id of the record that holds the decision.
    pub decision_id: String,
}

impl Problem {
    /// The problem that `refusal` is.
    pub fn of(refusal: &Refusal, decision_id: &str) -> Self {
        let code = refusal.code();
        Self {
            kind: format!("{TYPE_BASE}{code}"),
            title: title(refusal.status()),
            status: refusal.status().as_u16(),
            detail: refusal.to_string(),
            code,
            decision_id: decision_id.to_owned(),
        }
    }
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request too large to bind",
        StatusCode::BAD_REQUEST => "Request cannot be understood",
        StatusCode::CONFLICT => "Policy changed",
        StatusCode::SERVICE_UNAVAILABLE => "Action cannot be decided now",
        _ => "Action refused",
    }
}

/// Answers a refused request in the language of its protocol.
pub trait Answer: Send + Sync {
    /// The response; `request` and `body` are what had been read of the request.
    fn answer(
        &self,
        refusal: &Refusal,
        decision_id: &str,
        request: &http::request::Parts,
        body: Option<&Bytes>,
    ) -> Response<Bytes>;
}

/// Answers with `application/problem+json`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProblemJson;

impl Answer for ProblemJson {
    fn answer(
        &self,
        refusal: &Refusal,
        decision_id: &str,
        _: &http::request::Parts,
        _: Option<&Bytes>,
    ) -> Response<Bytes> {
        let problem = Problem::of(refusal, decision_id);
        // Strings and a number always serialise.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = refusal.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
