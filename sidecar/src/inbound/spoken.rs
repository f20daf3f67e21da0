//! A PEP's refusal in the language of the protocol: problem JSON, or a JSON-RPC error for MCP.

use bytes::Bytes;
use http::{HeaderValue, Response};
use writ_canonical::json::JsonLimits;
use writ_canonical::mcp::{self, Message};
use writ_pep::{Answer, ProblemJson, Refusal};

use crate::config::InboundProtocol;
use crate::problem::{Problem, REFUSAL};

/// Answers refusals as the application's protocol does.
#[derive(Debug, Clone, Copy)]
pub struct Spoken {
    protocol: InboundProtocol,
}

impl Spoken {
    /// Answers in this protocol.
    pub const fn new(protocol: InboundProtocol) -> Self {
        Self { protocol }
    }
}

impl Answer for Spoken {
    fn answer(
        &self,
        refusal: &Refusal,
        decision_id: &str,
        request: &http::request::Parts,
        body: Option<&Bytes>,
    ) -> Response<Bytes> {
        let message = match (self.protocol, body) {
            (InboundProtocol::Mcp, Some(body)) => mcp::parse(body, &JsonLimits::default()).ok(),
            _ => None,
        };
        let mut response = match message {
            Some(Message::Request { id, .. }) => {
                Problem::new(refusal.status(), refusal.code(), refusal.to_string())
                    .with_decision(decision_id)
                    .into_mcp_response(&id)
            }
            _ => ProblemJson.answer(refusal, decision_id, request, body),
        };
        let code = HeaderValue::from_static(refusal.code());
        response.headers_mut().insert(REFUSAL, code);
        response
    }
}
