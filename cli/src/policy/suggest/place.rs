//! Where an action went, as a destination of the suggested catalog. No I/O.

use writ_canonical::{Authority, Scheme};
use writ_catalog::model::{DestinationSpec, Envelope, PeerSpec, Pep, Upstream, UpstreamMode};
use writ_catalog::{AgentTls, CUSTOM_ACTION};

use super::names::words;
use crate::policy::replay::{host_and_port, place};
use crate::policy::seen::Seen;
use crate::policy::source::Written;

/// A destination, and what to check about it.
#[derive(Debug, Clone)]
pub struct Place {
    pub spec: DestinationSpec,
    pub comments: Vec<String>,
}

/// The destination of an action: that of the base, or a new one.
///
/// # Errors
/// Why there can be none.
pub fn of(seen: &Seen, base: Option<&Written>) -> Result<Place, String> {
    // Its connection, if it makes one, is another action.
    let custom = seen.method.as_deref() == Some(CUSTOM_ACTION);
    if let Some(base) = base
        && let Some(found) = place(seen, &base.catalog)
    {
        let all = &base.catalog.document().destinations;
        let spec = all.iter().find(|d| d.name == found.name).cloned();
        return match (found.agent_tls, spec) {
            (AgentTls::Refuse, _) if !custom => Err(format!(
                "destination {} has agent_tls: refuse; say how agents may reach it",
                found.name
            )),
            (_, Some(_)) if seen.reason.as_deref() == Some("plain-http-not-allowed") => {
                Err(format!(
                    "the agent spoke plain HTTP to destination {}, whose agent_tls is for TLS",
                    found.name
                ))
            }
            (_, Some(spec)) => Ok(Place {
                spec,
                comments: Vec::new(),
            }),
            (_, None) => Err("its destination cannot be told".to_owned()),
        };
    }
    if custom {
        return Err(super::want::no_custom_entry(seen));
    }
    new(seen)
}

fn new(seen: &Seen) -> Result<Place, String> {
    let (host, port) = host_and_port(&seen.destination);
    let secure = ["https://", "tls://"]
        .iter()
        .any(|scheme| seen.destination.starts_with(scheme));
    let port = port.unwrap_or(if secure { 443 } else { 80 });
    let scheme = if secure { Scheme::Https } else { Scheme::Http };
    let authority = Authority::parse(&format!("{host}:{port}"), scheme).map_err(|_| {
        format!(
            "{} is no host and port that a catalog can name",
            seen.destination
        )
    })?;
    let tls = secure || matches!(port, 443 | 8443);
    let read = seen.path.is_some() || seen.tool.is_some();
    let inside = !authority.host.contains('.')
        || authority.host.ends_with(".svc")
        || authority.host.ends_with(".svc.cluster.local");
    let (peer, mode, agent_tls) = match (tls, read) {
        (true, true) => (
            PeerSpec::Ca("webpki".into()),
            UpstreamMode::Tls,
            AgentTls::Intercept,
        ),
        (true, false) => (
            PeerSpec::Ca("webpki".into()),
            UpstreamMode::Tls,
            AgentTls::Opaque,
        ),
        (false, true) => (
            PeerSpec::Unverified,
            UpstreamMode::Plain,
            AgentTls::Originate,
        ),
        (false, false) => {
            return Err(
                "neither a request nor TLS was seen of it, so there is nothing to name".to_owned(),
            );
        }
    };
    let mut comments = Vec::new();
    if inside {
        comments.push(
            "CHECK: inside the cluster. If its pods have a sidecar, say peer: {spiffe: ...}, upstream: {mode: mtls, port: ...},"
                .to_owned(),
        );
        comments.push("agent_tls: originate, envelope: stamp, pep: sidecar, so that it verifies what it is sent.".to_owned());
    } else if !tls {
        comments.push("CHECK: plain HTTP, so nobody proves to be this host.".to_owned());
    }
    if agent_tls == AgentTls::Opaque {
        comments.push(
            "CHECK: passes unread; requests are not told apart. intercept would read them."
                .to_owned(),
        );
    }
    let plain = authority.host.trim_matches(['[', ']']);
    let name = match port {
        80 | 443 => words(plain, 40),
        port => format!("{}-{port}", words(plain, 40)),
    };
    Ok(Place {
        spec: DestinationSpec {
            name,
            host: authority.host,
            port,
            peer,
            upstream: Upstream { mode, port: None },
            agent_tls,
            envelope: Envelope::Withhold,
            pep: Pep::None,
            audience: None,
        },
        comments,
    })
}
