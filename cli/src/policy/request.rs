//! One request as it is described on the command line, classified by a catalog.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args as ClapArgs;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use writ_canonical::json::JsonLimits;
use writ_canonical::{Limits, RawHead, Scheme, canonicalize, mcp, remove_excluded};
use writ_catalog::{BodyView, Catalog, Destination, Intent, Protocol};

use crate::error::CliError;
use crate::output::read_text;

/// A request.
#[derive(Debug, Default, Clone, ClapArgs, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Request")]
pub struct Described {
    /// HTTP method. Default: GET, or POST where there is a body.
    #[arg(long, short = 'X')]
    pub method: Option<String>,
    /// URL as the agent calls it.
    #[arg(long)]
    pub url: Option<String>,
    /// Header, `name: value`; repeat it.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Body; `@FILE` reads it from a file. JSON unless a Content-Type says otherwise.
    #[arg(long, value_name = "TEXT|@FILE")]
    pub body: Option<String>,
    /// MCP tool that is called at --url.
    #[arg(long, value_name = "NAME")]
    pub mcp_tool: Option<String>,
    /// Arguments of the tool, JSON.
    #[arg(long, value_name = "JSON", requires = "mcp_tool")]
    pub mcp_arguments: Option<String>,
    /// File that describes the request by the same names, YAML or JSON: {method, url, headers, body, ...}.
    #[arg(long = "request", value_name = "FILE", conflicts_with_all = ["url", "body", "mcp_tool"])]
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What the catalog says of a request.
#[derive(Debug)]
pub enum Classified {
    /// It is named: the policy is asked.
    Named {
        destination: Box<Destination>,
        intent: Box<Intent>,
        /// Canonical target URI.
        target: String,
    },
    /// It is denied before the policy is asked.
    Refused {
        /// Stable code.
        code: String,
        /// What to change.
        why: String,
        capability: Option<String>,
        entry: Option<String>,
        /// Names of entries of the same destination.
        others: Vec<String>,
    },
}

impl Described {
    /// Reads `--request`, where it is given.
    pub fn read(self) -> Result<Self, CliError> {
        let Some(file) = &self.file else {
            return Ok(self);
        };
        serde_saphyr::from_str(&read_text(file)?).map_err(|e| CliError::File {
            path: file.clone(),
            reason: format!("{e}; a request is {{method, url, headers: ['name: value'], body, mcp-tool, mcp-arguments}}"),
        })
    }

    /// What the catalog says of it.
    pub fn classify(&self, catalog: &Catalog) -> Result<Classified, CliError> {
        let argument = |text: String| CliError::Argument(text);
        let url = self.url.as_deref().ok_or_else(|| {
            argument("name the request: --url URL (with --method, --body, --mcp-tool), or --request FILE".to_owned())
        })?;
        let url = Url::parse(url).map_err(|e| argument(format!("--url {url}: {e}")))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(argument(format!("--url: {other} is not http or https"))),
        };
        let body = self.payload()?;
        let mut headers = self.header_map()?;
        if !body.is_empty() && !headers.contains_key(http::header::CONTENT_TYPE) {
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        }
        remove_excluded(&mut headers);
        let host = url.host_str().unwrap_or_default();
        let port = url.port().unwrap_or_else(|| scheme.default_port());
        let Some(destination) = catalog.destination(host, port) else {
            return Ok(Classified::Refused {
                code: "unlisted-destination".to_owned(),
                why: format!(
                    "no destination of the catalog is {host}:{port}: add one, or correct the URL"
                ),
                capability: None,
                entry: None,
                others: Vec::new(),
            });
        };
        let method = self.method(&body)?;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let raw = RawHead {
            scheme: destination.scheme(),
            method: &method,
            authority: &format!("{host}:{}", destination.upstream.port),
            path_and_query: &path,
            headers: &headers,
        };
        let canonical = match canonicalize(raw, &Limits::default()) {
            Ok(canonical) => canonical,
            Err(refusal) => {
                return Ok(Classified::Refused {
                    code: refusal.code().to_owned(),
                    why: refusal.to_string(),
                    capability: None,
                    entry: None,
                    others: Vec::new(),
                });
            }
        };
        let result = match catalog.protocol(destination, &canonical) {
            Protocol::Opaque => catalog.classify_opaque(destination, host),
            Protocol::Mcp if method == Method::POST => {
                match mcp::parse(&body, &JsonLimits::default()) {
                    Ok(message) => catalog.classify_mcp(destination, &canonical, &message),
                    Err(refusal) => {
                        return Ok(Classified::Refused {
                            code: refusal.code().to_owned(),
                            why: refusal.to_string(),
                            capability: None,
                            entry: None,
                            others: Vec::new(),
                        });
                    }
                }
            }
            _ => catalog.classify(destination, &canonical, BodyView::Bytes(&body)),
        };
        Ok(match result {
            Ok(intent) => Classified::Named {
                target: canonical.target_uri(),
                destination: Box::new(destination.clone()),
                intent: Box::new(intent),
            },
            Err(refusal) => Classified::Refused {
                code: refusal.code().to_owned(),
                why: refusal.to_string(),
                others: match &refusal.entry {
                    Some(_) => Vec::new(),
                    None => entries_of(catalog, &destination.name),
                },
                capability: refusal.entry.is_some().then(|| refusal.capability.clone()),
                entry: refusal.entry,
            },
        })
    }

    /// Method and URL, or the tool.
    pub fn title(&self) -> String {
        let url = self.url.as_deref().unwrap_or_default();
        match &self.mcp_tool {
            Some(tool) => format!("tool {tool} at {url}"),
            None => {
                let body = self.payload().unwrap_or_default();
                let method = self.method(&body).unwrap_or(Method::GET);
                format!("{method} {url}")
            }
        }
    }

    fn method(&self, body: &[u8]) -> Result<Method, CliError> {
        match &self.method {
            Some(method) => Method::from_str(method)
                .map_err(|_| CliError::Argument(format!("--method {method}: no HTTP method"))),
            None if body.is_empty() => Ok(Method::GET),
            None => Ok(Method::POST),
        }
    }

    fn header_map(&self) -> Result<HeaderMap, CliError> {
        let mut headers = HeaderMap::new();
        for line in &self.headers {
            let pair = line.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_str(name.trim()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let (name, value) = pair.ok_or_else(|| {
                CliError::Argument(format!("--header {line:?}: write it as 'name: value'"))
            })?;
            headers.append(name, value);
        }
        Ok(headers)
    }

    fn payload(&self) -> Result<Vec<u8>, CliError> {
        if let Some(tool) = &self.mcp_tool {
            let arguments = self.mcp_arguments.as_deref().unwrap_or("{}");
            let arguments: Value = serde_json::from_str(arguments)
                .map_err(|e| CliError::Argument(format!("--mcp-arguments: {e}")))?;
            let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": tool, "arguments": arguments}});
            return Ok(message.to_string().into_bytes());
        }
        match self.body.as_deref() {
            None => Ok(Vec::new()),
            Some(body) => match body.strip_prefix('@') {
                Some(file) => Ok(read_text(file.as_ref())?.into_bytes()),
                None => Ok(body.as_bytes().to_vec()),
            },
        }
    }
}

/// `name (METHOD path)` of each entry of a destination, the first ten.
fn entries_of(catalog: &Catalog, destination: &str) -> Vec<String> {
    let entries = catalog.document().entries.iter();
    entries
        .filter(|entry| entry.destination == destination)
        .take(10)
        .map(|entry| {
            let what = match (&entry.tool, &entry.method) {
                (Some(tool), _) => format!("tool {tool}"),
                (None, Some(method)) => method.clone(),
                (None, None) => format!("{:?}", entry.protocol).to_lowercase(),
            };
            let path = entry.path.as_deref().unwrap_or_default();
            format!("{} ({what} {path})", entry.name)
        })
        .collect()
}
