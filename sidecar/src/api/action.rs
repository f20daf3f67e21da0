//! The JSON of `POST /v1/actions`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use writ_canonical::json::{JsonLimits, parse_strict, token_at};
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};

use crate::config::Hex;
use crate::gate::{Custom, HandedOver};

/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 128;

/// What the agent sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionRequest {
    capability: String,
    target: String,
    params: Map<String, Value>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    approval: Option<Hex<32>>,
}

/// What it gets when the action is allowed.
#[derive(Debug, Serialize)]
struct ActionAllowed<'a> {
    decision_id: &'a str,
    /// base64url.
    sae_hash: String,
    target: &'a str,
    audience: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a str>,
}

/// Why a body is no action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Stable code.
    pub code: &'static str,
    /// What to change.
    pub why: String,
    /// The target, as far as one was read.
    pub target: Option<String>,
}

impl Malformed {
    fn new(code: &'static str, why: impl Into<String>) -> Self {
        Self {
            code,
            why: why.into(),
            target: None,
        }
    }
}

/// Reads a body strictly: one JSON object, no member twice, none unknown.
pub(super) fn parse(body: &[u8]) -> Result<Custom, Malformed> {
    let value = parse_strict(body, &JsonLimits::default())
        .map_err(|error| Malformed::new(error.code(), error.to_string()))?;
    let request = ActionRequest::deserialize(value)
        .map_err(|error| Malformed::new("action-malformed", error.to_string()))?;
    let text = std::str::from_utf8(body).ok();
    let params_text = text
        .and_then(|text| token_at(text, "/params"))
        .ok_or_else(|| Malformed::new("action-malformed", "params is missing"))?;
    let key_fits = |key: &String| {
        (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    let named = |refusal: Malformed| Malformed {
        target: Some(request.target.clone()),
        ..refusal
    };
    if !request.idempotency_key.iter().all(key_fits) {
        let why = "idempotency_key is 1 to 128 visible ASCII characters";
        return Err(named(Malformed::new("action-malformed", why)));
    }
    Ok(Custom {
        target: target(&request.target).map_err(named)?,
        capability: request.capability,
        params: Value::Object(request.params),
        params_text: params_text.to_owned(),
        idempotency: request.idempotency_key,
        approval: request.approval.map(|approval| approval.0),
    })
}

/// The canonical form of an absolute http or https URI. Parameters belong into `params`, where the
/// digest covers them.
fn target(text: &str) -> Result<CanonicalRequest, Malformed> {
    let refuse = |why: String| Malformed::new("target-malformed", why);
    let absolute = "target is an absolute http or https URI without query and fragment, such as https://host:443/path";
    let uri: Uri = text.parse().map_err(|_| refuse(absolute.to_owned()))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(refuse(absolute.to_owned())),
    };
    // A query stands in no claim of a custom action, and the parser drops a fragment without a word.
    if text.contains(['?', '#']) {
        return Err(refuse(absolute.to_owned()));
    }
    let raw = RawHead {
        scheme,
        method: &Method::POST,
        authority: uri.authority().map_or("", |authority| authority.as_str()),
        path_and_query: uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: &HeaderMap::new(),
    };
    canonicalize(raw, &Limits::default())
        .map_err(|refusal| Malformed::new(refusal.code(), refusal.to_string()))
}

/// The answer to an allowed action.
pub(super) fn allowed(handed_over: &HandedOver) -> Response<Full<Bytes>> {
    let answer = ActionAllowed {
        decision_id: &handed_over.decision_id,
        sae_hash: URL_SAFE_NO_PAD.encode(handed_over.sae_hash),
        target: &handed_over.target,
        audience: &handed_over.audience,
        envelope: handed_over.envelope.as_deref(),
        certificate: handed_over.certificate.as_deref(),
    };
    let body = serde_json::to_vec(&answer).unwrap_or_default();
    super::json(StatusCode::OK, body)
}
