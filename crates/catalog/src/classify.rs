//! From canonical request to intent.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use writ_canonical::json::{JsonLimits, parse_strict, to_jcs};
use writ_canonical::{CanonicalRequest, content_digest, decoded_segments, sha256};

use crate::body::{self, BodyView, Content};
use crate::detect::Finding;
use crate::index::{HttpRoute, McpKey};
use crate::intent::{Intent, Kind};
use crate::model::{AgentTls, EntrySpec, Protocol, QuerySpec, ResourceSpec, Scalar};
use crate::refusal::{Reason, Refusal};
use crate::{Catalog, Destination, amount};

/// Longest resource name, bytes.
const MAX_RESOURCE: usize = 256;
/// Selected parameters together, bytes of canonical JSON: they travel in a 4 KiB envelope.
const MAX_SELECTED: usize = 1024;

impl Catalog {
    /// How requests on this path of the destination are read.
    #[must_use]
    pub fn protocol(&self, destination: &Destination, request: &CanonicalRequest) -> Protocol {
        if destination.agent_tls == AgentTls::Opaque {
            Protocol::Opaque
        } else if self
            .index
            .is_mcp_endpoint(destination.at, &decoded_path(request))
        {
            Protocol::Mcp
        } else {
            Protocol::Http
        }
    }

    /// What an HTTP request is. On an MCP endpoint only the GET that opens the event stream and the
    /// DELETE that ends the session are HTTP requests; messages go through
    /// [`Catalog::classify_mcp`].
    ///
    /// # Errors
    /// A [`Refusal`]: the request is denied without asking the policy.
    pub fn classify(
        &self,
        destination: &Destination,
        request: &CanonicalRequest,
        body: BodyView<'_>,
    ) -> Result<Intent, Refusal> {
        let path = decoded_path(request);
        if matches!(destination.agent_tls, AgentTls::Opaque | AgentTls::Refuse) {
            return Err(Refusal::unlisted(Reason::ProtocolMismatch));
        }
        if self.index.is_mcp_endpoint(destination.at, &path) {
            return self.mcp_session(destination, request, &path, body);
        }
        let (entry, variables) = self.http_entry(destination, request, &path)?;
        self.http_intent(entry, &variables, request, body)
            .map_err(|reason| refused(entry, reason))
    }

    /// What an opaque connection is. `sni` is the server name of its ClientHello.
    ///
    /// # Errors
    /// A [`Refusal`]: the connection is denied without asking the policy.
    pub fn classify_opaque(&self, destination: &Destination, sni: &str) -> Result<Intent, Refusal> {
        if destination.agent_tls != AgentTls::Opaque
            || !crate::destination::host_matches(&destination.host, sni)
        {
            return Err(Refusal::unlisted(Reason::ProtocolMismatch));
        }
        let entry = self
            .index
            .opaque(destination.at)
            .and_then(|at| self.entries.get(at));
        let entry = entry.ok_or_else(|| Refusal::unlisted(Reason::Unlisted))?;
        let params = json!({ "port": destination.port, "sni": sni });
        let facts = Facts {
            resource: constant(entry),
            ..Facts::default()
        };
        Ok(intent(Kind::Opaque, entry, &params, facts))
    }

    fn mcp_session(
        &self,
        destination: &Destination,
        request: &CanonicalRequest,
        path: &str,
        body: BodyView<'_>,
    ) -> Result<Intent, Refusal> {
        let word = match (request.method.as_str(), body) {
            ("GET", BodyView::Bytes([])) => "stream",
            ("DELETE", BodyView::Bytes([])) => "close",
            _ => return Err(Refusal::unlisted(Reason::McpExpected)),
        };
        let entry = self
            .index
            .mcp(destination.at, path, McpKey::Method(word))
            .and_then(|at| self.entries.get(at));
        let entry = entry.ok_or_else(|| Refusal::unlisted(Reason::Unlisted))?;
        Ok(intent(
            Kind::Mcp,
            entry,
            &request_params(request, Some(b"")),
            Facts::default(),
        ))
    }

    fn http_entry<'c>(
        &'c self,
        destination: &Destination,
        request: &CanonicalRequest,
        path: &str,
    ) -> Result<(&'c EntrySpec, HashMap<String, String>), Refusal> {
        let unlisted = || Refusal::unlisted(Reason::Unlisted);
        let (routes, values) = self
            .index
            .http(destination.at, &request.method, path)
            .ok_or_else(unlisted)?;
        let query = Query::of(request);
        for HttpRoute { entry, template } in routes {
            let entry = self.entries.get(*entry).ok_or_else(unlisted)?;
            if query
                .satisfies(entry.query.as_ref())
                .map_err(|reason| refused(entry, reason))?
            {
                let named = template
                    .bindings()
                    .filter_map(|(at, name)| Some((name.to_owned(), values.get(&at)?.clone())))
                    .collect();
                return Ok((entry, named));
            }
        }
        Err(unlisted())
    }

    fn http_intent(
        &self,
        entry: &EntrySpec,
        variables: &HashMap<String, String>,
        request: &CanonicalRequest,
        body: BodyView<'_>,
    ) -> Result<Intent, Reason> {
        let content = body::read(request, body, &JsonLimits::default())?;
        let mut findings = self.detectors.request_line(request);
        let (facts, params) = match &content {
            Content::Json { value, text } => {
                findings.extend(self.detectors.json(value));
                (facts(entry, variables, Some((value, text)))?, value.clone())
            }
            Content::Empty if needs_body(entry) => return Err(Reason::BodyMissing),
            Content::Opaque(_) if needs_body(entry) => return Err(Reason::BodyNotJson),
            Content::Unbound if needs_body(entry) => return Err(Reason::BodyUnbound),
            Content::Empty => (
                facts(entry, variables, None)?,
                request_params(request, Some(b"")),
            ),
            Content::Opaque(bytes) => {
                findings.extend(self.unread(request, bytes));
                (
                    facts(entry, variables, None)?,
                    request_params(request, Some(bytes)),
                )
            }
            Content::Unbound => (
                facts(entry, variables, None)?,
                request_params(request, None),
            ),
        };
        Ok(intent(
            Kind::Http,
            entry,
            &params,
            Facts { findings, ..facts },
        ))
    }
}

impl Catalog {
    /// Findings in a body that is not declared as JSON. Targets guess content types and undo escapes,
    /// so it is searched as JSON and as a form too where it can be read so.
    fn unread(&self, request: &CanonicalRequest, body: &[u8]) -> Vec<Finding> {
        let mut findings = self.detectors.bytes(body);
        if let Ok(value) = parse_strict(body, &JsonLimits::default()) {
            findings.extend(self.detectors.json(&value));
        }
        let content_type = request
            .field("content-type")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if content_type.starts_with(b"application/x-www-form-urlencoded") {
            findings.extend(self.detectors.form(body));
        }
        findings
    }
}

/// What an entry reads from one request.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) resource: Option<String>,
    pub(crate) amount: Option<crate::Amount>,
    pub(crate) selected: Map<String, Value>,
    pub(crate) findings: Vec<Finding>,
}

pub(crate) fn refused(entry: &EntrySpec, reason: Reason) -> Refusal {
    Refusal {
        capability: entry.capability.clone(),
        entry: Some(entry.name.clone()),
        reason,
    }
}

pub(crate) fn intent(kind: Kind, entry: &EntrySpec, params: &Value, facts: Facts) -> Intent {
    let raised = facts
        .findings
        .iter()
        .map(|finding| finding.class.level())
        .max()
        .unwrap_or(0);
    Intent {
        kind,
        entry: entry.name.clone(),
        capability: entry.capability.clone(),
        class: entry.class.level().max(raised),
        resource: facts.resource,
        amount: facts.amount,
        window: entry.window,
        risk: entry.risk,
        params_digest: sha256(&to_jcs(params)),
        selected: facts.selected,
        findings: facts.findings,
    }
}

pub(crate) fn decoded_path(request: &CanonicalRequest) -> String {
    format!("/{}", decoded_segments(&request.path).join("/"))
}

/// Parameters of a request without a JSON body. `content` is `None` when the body is unbound.
fn request_params(request: &CanonicalRequest, content: Option<&[u8]>) -> Value {
    json!({
        "content": content.map_or_else(|| "unbound".to_owned(), content_digest),
        "method": request.method,
        "path": request.path,
        "query": URL_SAFE_NO_PAD.encode(request.query_digest()),
    })
}

pub(crate) fn needs_body(entry: &EntrySpec) -> bool {
    entry.amount.is_some()
        || !entry.require.is_empty()
        || !entry.params.is_empty()
        || matches!(entry.resource, Some(ResourceSpec::Pointer(_)))
}

fn constant(entry: &EntrySpec) -> Option<String> {
    match &entry.resource {
        Some(ResourceSpec::Constant(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Reads what the entry names. `document` is the JSON body (MCP: the arguments) and its text.
pub(crate) fn facts(
    entry: &EntrySpec,
    variables: &HashMap<String, String>,
    document: Option<(&Value, &str)>,
) -> Result<Facts, Reason> {
    let value_at = |pointer: &str| document.and_then(|(value, _)| value.pointer(pointer));
    for require in &entry.require {
        let expected = match &require.equals {
            Scalar::Bool(value) => json!(value),
            Scalar::Integer(value) => json!(value),
            Scalar::Text(value) => json!(value),
        };
        if value_at(&require.pointer) != Some(&expected) {
            return Err(Reason::Require {
                pointer: require.pointer.clone(),
            });
        }
    }
    let resource = match &entry.resource {
        None => None,
        Some(ResourceSpec::Constant(text)) => Some(text.clone()),
        Some(ResourceSpec::Variable(name)) => Some(resource(
            name,
            variables.get(name).map(|v| json!(v)).as_ref(),
        )?),
        Some(ResourceSpec::Pointer(pointer)) => Some(resource(pointer, value_at(pointer))?),
    };
    let amount = match (&entry.amount, document) {
        (None, _) => None,
        (Some(spec), Some((_, text))) => Some(amount::read(spec, text)?),
        (Some(spec), None) => {
            return Err(Reason::AmountMissing {
                pointer: spec.pointer.clone(),
            });
        }
    };
    Ok(Facts {
        resource,
        amount,
        selected: select(entry, value_at)?,
        findings: Vec::new(),
    })
}

fn resource(pointer: &str, value: Option<&Value>) -> Result<String, Reason> {
    let text = match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_i64() => number.to_string(),
        _ => String::new(),
    };
    if text.is_empty() || text.len() > MAX_RESOURCE {
        return Err(Reason::Resource {
            pointer: pointer.to_owned(),
            limit: MAX_RESOURCE,
        });
    }
    Ok(text)
}

fn select<'v>(
    entry: &EntrySpec,
    value_at: impl Fn(&str) -> Option<&'v Value>,
) -> Result<Map<String, Value>, Reason> {
    let mut selected = Map::new();
    let mut bytes = 0;
    for pointer in &entry.params {
        let Some(value) = value_at(pointer) else {
            continue;
        };
        bytes += pointer.len() + to_jcs(value).len();
        if value.is_array() || value.is_object() || bytes > MAX_SELECTED {
            return Err(Reason::Param {
                pointer: pointer.clone(),
                limit: MAX_SELECTED,
            });
        }
        selected.insert(pointer.clone(), value.clone());
    }
    Ok(selected)
}

/// The query as `application/x-www-form-urlencoded`.
struct Query {
    pairs: Vec<(String, String)>,
    semicolons: bool,
}

impl Query {
    fn of(request: &CanonicalRequest) -> Self {
        let query = request.query.as_deref().unwrap_or_default();
        Self {
            pairs: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            semicolons: query.contains(';'),
        }
    }

    fn satisfies(&self, spec: Option<&QuerySpec>) -> Result<bool, Reason> {
        let Some(spec) = spec else { return Ok(true) };
        if self.semicolons {
            return Err(Reason::QueryAmbiguous);
        }
        for (key, wanted) in &spec.equals {
            let mut values = self
                .pairs
                .iter()
                .filter(|(k, _)| k == key)
                .map(|(_, value)| value);
            match (values.next(), values.next()) {
                (Some(value), None) if value == wanted => {}
                (Some(_), Some(_)) => return Err(Reason::QueryAmbiguous),
                _ => return Ok(false),
            }
        }
        let allowed = |key: &String| {
            spec.equals.contains_key(key)
                || spec.allow.as_ref().is_none_or(|names| names.contains(key))
        };
        Ok(self.pairs.iter().all(|(key, _)| allowed(key)))
    }
}
