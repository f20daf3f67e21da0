//! Destinations, validated.

use std::net::Ipv4Addr;

use crate::error::CatalogError;
use crate::model::{AgentTls, DestinationSpec, Envelope, PeerSpec, Pep, UpstreamMode};
use crate::validate;
use writ_canonical::{Authority, Scheme};

/// Identity expected of the peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// This SPIFFE ID exactly.
    Spiffe(String),
    /// A certificate for the host's name from this CA bundle; `webpki` means the public roots.
    Ca(String),
    /// No identity (plain connections only).
    Unverified,
}

/// Where a request goes and who must be there. Settings that contradict each other do not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Unique name in the catalog.
    pub name: String,
    /// Canonical host, `*.suffix`, or IP literal.
    pub host: String,
    /// Port that the agent addresses.
    pub port: u16,
    /// Identity expected.
    pub peer: Peer,
    /// Mode and port of the connection that the sidecar makes.
    pub upstream: UpstreamAt,
    /// What happens to the agent's own TLS.
    pub agent_tls: AgentTls,
    /// Whether the request carries the envelope.
    pub envelope: Envelope,
    /// Who verifies it.
    pub pep: Pep,
    /// Claim `aud`.
    pub audience: String,
    /// Position in the catalog.
    pub(crate) at: usize,
}

/// The connection that the sidecar makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamAt {
    /// TLS mode.
    pub mode: UpstreamMode,
    /// Port dialled.
    pub port: u16,
}

impl Destination {
    /// Scheme of the canonical target URI: what the sidecar speaks upstream.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self.upstream.mode {
            UpstreamMode::Mtls | UpstreamMode::Tls => Scheme::Https,
            UpstreamMode::Plain => Scheme::Http,
        }
    }
}

/// True for `192.0.2.1` and `[2001:db8::1]`.
pub(crate) fn is_ip_literal(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[')
}

/// True when `pattern` (exact or `*.suffix`) covers `host`.
pub(crate) fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix) && !is_ip_literal(host),
        None => pattern == host,
    }
}

/// Checks one destination.
pub(crate) fn build(spec: &DestinationSpec, at: usize) -> Result<Destination, CatalogError> {
    let item = format!("destination {}", spec.name);
    validate::name(&item, &spec.name)?;
    check_host(&item, &spec.host)?;
    if spec.port == 0 || spec.upstream.port == Some(0) {
        return Err(invalid(&item, "port 0 is not a port: write 1 to 65535"));
    }
    let peer = build_peer(&item, &spec.peer)?;
    check_combination(&item, spec)?;
    let audience = match (&spec.audience, &peer) {
        (Some(audience), _) => audience.clone(),
        (None, Peer::Spiffe(id)) => id.clone(),
        (None, _) if !spec.host.starts_with('*') => format!("{}:{}", spec.host, spec.port),
        (None, _) => {
            return Err(invalid(
                &item,
                "a wildcard host without a SPIFFE peer needs an audience: add one",
            ));
        }
    };
    if audience.is_empty()
        || audience.len() > 256
        || !audience.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(invalid(
            &item,
            "audience must be 1 to 256 printable ASCII characters",
        ));
    }
    Ok(Destination {
        name: spec.name.clone(),
        host: spec.host.clone(),
        port: spec.port,
        peer,
        upstream: UpstreamAt {
            mode: spec.upstream.mode,
            port: spec.upstream.port.unwrap_or(spec.port),
        },
        agent_tls: spec.agent_tls,
        envelope: spec.envelope,
        pep: spec.pep,
        audience,
        at,
    })
}

fn invalid(item: &str, problem: &str) -> CatalogError {
    CatalogError::Invalid {
        item: item.to_owned(),
        problem: problem.to_owned(),
    }
}

fn check_host(item: &str, host: &str) -> Result<(), CatalogError> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let canonical =
        Authority::parse(name, Scheme::Https).map_err(|refusal| CatalogError::Invalid {
            item: item.to_owned(),
            problem: format!("host: {refusal}"),
        })?;
    if canonical.host != name {
        let problem = format!("host is not in canonical form: write {}", canonical.host);
        return Err(CatalogError::Invalid {
            item: item.to_owned(),
            problem,
        });
    }
    if host.starts_with('*') && (is_ip_literal(name) || !name.contains('.')) {
        return Err(invalid(
            item,
            "a wildcard needs a DNS suffix of at least two labels, such as *.example.com",
        ));
    }
    Ok(())
}

fn build_peer(item: &str, peer: &PeerSpec) -> Result<Peer, CatalogError> {
    match peer {
        PeerSpec::Spiffe(id) => {
            validate::spiffe_id(item, id)?;
            Ok(Peer::Spiffe(id.clone()))
        }
        PeerSpec::Ca(bundle) => {
            validate::name(item, bundle)?;
            Ok(Peer::Ca(bundle.clone()))
        }
        PeerSpec::Unverified => Ok(Peer::Unverified),
    }
}

fn check_combination(item: &str, spec: &DestinationSpec) -> Result<(), CatalogError> {
    let contradiction = |problem| {
        Err(CatalogError::Contradiction {
            item: item.to_owned(),
            problem,
        })
    };
    let stamps = spec.envelope == Envelope::Stamp;
    let plain = spec.upstream.mode == UpstreamMode::Plain;
    let unverified = spec.peer == PeerSpec::Unverified;
    if stamps && spec.pep == Pep::None {
        return contradiction(
            "envelope: stamp with pep: none would hand envelopes to a party that does not verify them; write envelope: withhold, or name the PEP",
        );
    }
    if !stamps && spec.pep != Pep::None {
        return contradiction(
            "a PEP without an envelope refuses every request; write envelope: stamp, or pep: none",
        );
    }
    if plain != unverified {
        return contradiction(
            "upstream.mode: plain and peer: unverified belong together; use tls or mtls to expect an identity",
        );
    }
    if stamps && plain {
        return contradiction(
            "an envelope does not travel without TLS; write upstream.mode: mtls or tls",
        );
    }
    if spec.pep == Pep::Sidecar && spec.upstream.mode != UpstreamMode::Mtls {
        return contradiction(
            "the PEP in the target's sidecar must see the caller's SVID; write upstream.mode: mtls",
        );
    }
    match spec.agent_tls {
        AgentTls::Opaque if stamps => contradiction(
            "nothing can be stamped into an opaque connection; write envelope: withhold",
        ),
        AgentTls::Opaque if spec.upstream.mode != UpstreamMode::Tls => contradiction(
            "an opaque connection carries the agent's own TLS; write upstream.mode: tls",
        ),
        AgentTls::Intercept if plain => contradiction(
            "TLS from the agent would go on as plain text; write upstream.mode: tls or mtls",
        ),
        _ => Ok(()),
    }
}
