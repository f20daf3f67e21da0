//! The application's probes, asked in the kubelet's stead.
//!
//! Captured inbound connections need an SVID, which the kubelet has not; so the webhook points the
//! pod's probes at the admin port, and hands their targets over in `WRIT_PROBES`. Only those are
//! ever asked, and the answer says no more than whether the application is well.

mod ask;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, Uri};
use serde::Deserialize;

/// Largest `WRIT_PROBES`, in bytes.
const MAX_BYTES: usize = 32 << 10;
/// Most targets.
const MAX_TARGETS: usize = 128;
/// Longest that a probe may take. Lifecycle hooks are bounded by the pod's grace period.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Where every probe's path starts.
const PREFIX: &str = "/probe/";

/// Why `WRIT_PROBES` was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Larger than any webhook makes it.
    #[error("WRIT_PROBES has {0} bytes, more than {MAX_BYTES}; remove probes from the pod")]
    TooLarge(usize),
    /// Not the JSON that the webhook writes.
    #[error("WRIT_PROBES: {0}; the webhook and the sidecar must be of the same version")]
    Malformed(String),
}

impl ProbesError {
    fn malformed(why: impl ToString) -> Self {
        Self::Malformed(why.to_string())
    }
}

/// The declared probes, by path.
#[derive(Debug, Default)]
pub struct Probes {
    targets: HashMap<String, Target>,
}

/// One declared probe.
#[derive(Debug)]
struct Target {
    ask: Ask,
    address: SocketAddr,
    timeout: Duration,
}

#[derive(Debug)]
enum Ask {
    Http(HttpGet),
    Tcp,
    Grpc { service: String },
}

#[derive(Debug)]
struct HttpGet {
    tls: Tls,
    path: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    None,
    Unverified,
}

impl Probes {
    /// Reads the targets, which are at the pod's own address `pod`: what listens on loopback alone
    /// is not reachable for the kubelet either.
    ///
    /// # Errors
    /// [`ProbesError`]; nothing of a refused declaration is answered.
    pub fn parse(declared: Option<&str>, pod: Option<IpAddr>) -> Result<Self, ProbesError> {
        let Some(text) = declared.filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        if text.len() > MAX_BYTES {
            return Err(ProbesError::TooLarge(text.len()));
        }
        let declared: Vec<Declared> = serde_json::from_str(text).map_err(ProbesError::malformed)?;
        if declared.len() > MAX_TARGETS {
            return Err(ProbesError::malformed("too many targets"));
        }
        let pod = pod.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut targets = HashMap::with_capacity(declared.len());
        for one in declared {
            let (path, target) = one.checked(pod)?;
            if targets.insert(path, target).is_some() {
                return Err(ProbesError::malformed("a path is declared twice"));
            }
        }
        Ok(Self { targets })
    }

    /// Whether this path is of a probe, declared or not.
    #[must_use]
    pub fn is_probe(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Asks the application: 200, or 503 with the reason, or 404 for what was not declared.
    pub async fn answer(&self, path: &str, agent: Option<&HeaderValue>) -> (StatusCode, String) {
        let Some(target) = self.targets.get(path) else {
            return (StatusCode::NOT_FOUND, "no such probe\n".to_owned());
        };
        match tokio::time::timeout(target.timeout, target.ask(agent)).await {
            Ok(Ok(())) => (StatusCode::OK, "ok\n".to_owned()),
            Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            Err(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("no answer within {} s\n", target.timeout.as_secs()),
            ),
        }
    }
}

/// The form that the webhook writes: Kubernetes' own, with ports as numbers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Declared {
    path: String,
    timeout_seconds: u32,
    http_get: Option<DeclaredHttp>,
    tcp_socket: Option<DeclaredTcp>,
    grpc: Option<DeclaredGrpc>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclaredHttp {
    port: u16,
    path: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    http_headers: Vec<DeclaredHeader>,
    // The webhook leaves probes of other hosts alone; an empty one means the pod.
    host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredTcp {
    port: u16,
    host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredGrpc {
    port: u16,
    service: Option<String>,
}

impl Declared {
    fn checked(self, pod: IpAddr) -> Result<(String, Target), ProbesError> {
        if !Probes::is_probe(&self.path) {
            return Err(ProbesError::malformed("a path outside of /probe/"));
        }
        let (ask, port) = match (self.http_get, self.tcp_socket, self.grpc) {
            (Some(http), None, None) => (Ask::Http(http.checked()?), http.port),
            (None, Some(tcp), None) => {
                here(tcp.host.as_deref())?;
                (Ask::Tcp, tcp.port)
            }
            (None, None, Some(grpc)) => {
                let service = grpc.service.unwrap_or_default();
                (Ask::Grpc { service }, grpc.port)
            }
            _ => return Err(ProbesError::malformed("a probe asks one thing")),
        };
        if port == 0 {
            return Err(ProbesError::malformed("port 0"));
        }
        let timeout = Duration::from_secs(self.timeout_seconds.max(1).into());
        Ok((
            self.path,
            Target {
                ask,
                address: SocketAddr::new(pod, port),
                timeout: timeout.min(MAX_TIMEOUT),
            },
        ))
    }
}

impl DeclaredHttp {
    fn checked(&self) -> Result<HttpGet, ProbesError> {
        here(self.host.as_deref())?;
        let tls = match self.scheme.as_deref() {
            None | Some("" | "HTTP") => Tls::None,
            Some("HTTPS") => Tls::Unverified,
            Some(other) => return Err(ProbesError::malformed(format!("scheme {other:?}"))),
        };
        let path = match self.path.as_deref() {
            None | Some("") => "/".to_owned(),
            // As the kubelet reads it.
            Some(path) if !path.starts_with('/') => format!("/{path}"),
            Some(path) => path.to_owned(),
        };
        let headers = self.http_headers.iter().map(|header| {
            let name = HeaderName::try_from(&header.name).map_err(ProbesError::malformed)?;
            let value = HeaderValue::try_from(&header.value).map_err(ProbesError::malformed)?;
            Ok((name, value))
        });
        Ok(HttpGet {
            tls,
            path: Uri::try_from(path).map_err(ProbesError::malformed)?,
            headers: headers.collect::<Result<_, ProbesError>>()?,
        })
    }
}

fn here(host: Option<&str>) -> Result<(), ProbesError> {
    match host {
        None | Some("") => Ok(()),
        Some(host) => Err(ProbesError::malformed(format!("{host} is not this pod"))),
    }
}

#[cfg(test)]
mod tests;
