//! What a request of the agent is: its destination, its canonical form, and the catalog's name for it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use writ_canonical::json::JsonLimits;
use writ_canonical::{
    Authority, BodyBinding, CanonicalRequest, Limits, RawHead, Scheme, canonicalize, mcp,
    remove_excluded,
};
use writ_catalog::{AgentTls, BodyView, Destination, Intent, Protocol};

use super::authority::{authority_of, one_authority};
use super::connection::{AgentSide, Live, Outbound};
use crate::body::{self, Body, Collected};
use crate::gate::claims::Stamping;
use crate::gate::{Denied, Released};
use crate::seen::Sight;

/// Header in which an agent presents a human approval, 64 hex digits.
const APPROVAL: &str = "writ-approval";

/// A refusal, with the JSON-RPC id to answer it to where the request was an MCP message.
pub(super) struct Refused {
    pub(super) denied: Denied,
    pub(super) mcp: Option<serde_json::Value>,
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self { denied, mcp: None }
    }
}

/// A request, understood.
pub(super) struct Understood {
    pub(super) course: Course,
    pub(super) canonical: CanonicalRequest,
    pub(super) binding: BodyBinding,
    pub(super) body: Outgoing,
    pub(super) mcp: Option<serde_json::Value>,
    pub(super) catalog_hash: [u8; 32],
    pub(super) approval: Option<[u8; 32]>,
}

/// What the catalog makes of a request.
pub(super) enum Course {
    /// An action that it names.
    Named(Box<Destination>, Box<Intent>),
    /// None: it was denied, and goes on only because denials are just observed.
    Observed(Released, Route),
}

/// Where a request is sent.
pub(super) enum Route {
    /// To a destination of the catalog.
    Listed(Box<Destination>),
    /// To the address that the agent dialled, as it came, or to another of the host it named: the
    /// agent's own client would have tried them all.
    Dialled(SocketAddr, String),
}

/// A request's body on its way out.
pub(super) enum Outgoing {
    /// All of it: it can be sent again if not a byte of it left.
    Whole(Bytes),
    /// A stream, which can be sent once.
    Stream(Body),
}

/// Where an authority leads.
enum Found {
    Listed(Box<Destination>),
    Dialled(Released, Route),
}

impl Outbound {
    /// Reads, checks and names one request.
    pub(super) async fn understand(
        &self,
        request: Request<Incoming>,
        side: &AgentSide,
        live: &Live,
        sight: &mut Sight,
    ) -> Result<Understood, Refused> {
        let (mut parts, incoming) = request.into_parts();
        let authority = authority_of(&parts.uri, &parts.headers);
        let shown = format!(
            "{}://{}{}",
            if side.server_name.is_some() {
                "https"
            } else {
                "http"
            },
            authority,
            parts.uri.path()
        );
        if let Err(refusal) = one_authority(&parts.uri, &parts.headers) {
            let (why, status) = (refusal.to_string(), refusal.status());
            return Err(self
                .gate
                .refuse(&shown, refusal.code(), why, status)
                .await
                .into());
        }
        let (found, scheme, canonical_authority) = self
            .destination(&authority, side, live, &shown, sight)
            .await?;

        remove_excluded(&mut parts.headers);
        let approval = self.approval(&mut parts.headers, &shown).await?;
        // The Host that the agent sent names its own port; the canonical one names the target's.
        parts.headers.remove(HOST);
        let raw = RawHead {
            scheme,
            method: &parts.method,
            authority: &canonical_authority,
            path_and_query: parts.uri.path_and_query().map_or("/", |path| path.as_str()),
            headers: &parts.headers,
        };
        let canonical = match canonicalize(raw, &Limits::default()) {
            Ok(canonical) => canonical,
            Err(refusal) => {
                let why = refusal.to_string();
                return Err(self
                    .gate
                    .refuse(&shown, refusal.code(), why, refusal.status())
                    .await
                    .into());
            }
        };
        let (binding, body) = self.read_body(incoming, live, &shown).await?;
        let (course, mcp) = match found {
            Found::Listed(destination) => {
                self.classify(live, destination, &canonical, &body, &shown, sight)
                    .await?
            }
            Found::Dialled(released, route) => (Course::Observed(released, route), None),
        };
        Ok(Understood {
            course,
            canonical,
            binding,
            body,
            mcp,
            catalog_hash: live.catalog.hash(),
            approval,
        })
    }

    /// Where the authority that the agent named leads, and scheme and authority as the target is to
    /// see them.
    async fn destination(
        &self,
        authority: &str,
        side: &AgentSide,
        live: &Live,
        shown: &str,
        sight: &mut Sight,
    ) -> Result<(Found, Scheme, String), Denied> {
        let scheme = match side.server_name {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        };
        let named = match Authority::parse(authority, scheme) {
            Ok(named) => named,
            Err(refusal) => {
                let why = refusal.to_string();
                return Err(self
                    .gate
                    .refuse(shown, refusal.code(), why, refusal.status())
                    .await);
            }
        };
        let misdirected = match &side.server_name {
            Some(name) if *name != named.host => {
                Some("the request names another host than the TLS connection")
            }
            _ if named.port != side.port => {
                Some("the request names another port than the one that was dialled")
            }
            _ => None,
        };
        if let Some(why) = misdirected {
            return Err(self.gate.refuse(shown, "misdirected", why, 421).await);
        }
        let Some(destination) = live.catalog.destination(&named.host, named.port) else {
            let why = if side.pod_local {
                format!(
                    "port {} inside this pod is not open; name it in localPorts, or add a catalog entry",
                    side.port
                )
            } else {
                "the catalog names no such destination; the platform team adds it".to_owned()
            };
            return self
                .unnamed(side, &named, shown, ("unlisted-destination", &why), sight)
                .await;
        };
        let allowed = match side.server_name {
            Some(_) => destination.agent_tls == AgentTls::Intercept,
            None => destination.agent_tls == AgentTls::Originate,
        };
        if !allowed {
            let why = "plain HTTP to this destination is not allowed; the catalog's agent_tls says how to reach it";
            return self
                .unnamed(side, &named, shown, ("plain-http-not-allowed", why), sight)
                .await;
        }
        let port = destination.upstream.port;
        let authority = format!("{}:{port}", named.host);
        let scheme = destination.scheme();
        Ok((
            Found::Listed(Box::new(destination.clone())),
            scheme,
            authority,
        ))
    }

    /// A request to where the catalog leads nobody.
    async fn unnamed(
        &self,
        side: &AgentSide,
        named: &Authority,
        shown: &str,
        (code, why): (&str, &str),
        sight: &mut Sight,
    ) -> Result<(Found, Scheme, String), Denied> {
        // What came under TLS does not go on without it, and the sidecar does not call itself.
        if side.server_name.is_some() || side.to_itself {
            return Err(self.gate.refuse(shown, code, why, 403).await);
        }
        let mut denied = self
            .gate
            .object(shown, Stamping::Withhold, code, why, 403)
            .await;
        sight.denied(&denied);
        let Some(released) = denied.observed.take() else {
            return Err(denied);
        };
        let authority = format!("{}:{}", named.host, named.port);
        Ok((
            Found::Dialled(released, Route::Dialled(side.to, named.host.clone())),
            Scheme::Http,
            authority,
        ))
    }

    async fn approval(
        &self,
        headers: &mut HeaderMap,
        shown: &str,
    ) -> Result<Option<[u8; 32]>, Denied> {
        let Some(value) = headers.remove(APPROVAL) else {
            return Ok(None);
        };
        let mut approval = [0; 32];
        match hex::decode_to_slice(value.as_bytes(), &mut approval) {
            Ok(()) => Ok(Some(approval)),
            Err(_) => {
                let why = "Writ-Approval is not 64 hex digits; send the approval's id";
                Err(self
                    .gate
                    .refuse(shown, "approval-malformed", why, 400)
                    .await)
            }
        }
    }

    async fn read_body(
        &self,
        incoming: Incoming,
        live: &Live,
        shown: &str,
    ) -> Result<(BodyBinding, Outgoing), Denied> {
        let settings = &live.settings;
        match body::collect(incoming, settings.body_limit, settings.body_timeout).await {
            Ok(Collected::Whole(bytes)) => Ok((BodyBinding::of(&bytes), Outgoing::Whole(bytes))),
            Ok(Collected::TooLarge(stream)) => Ok((BodyBinding::Unbound, Outgoing::Stream(stream))),
            Err(error) => Err(self
                .gate
                .refuse(shown, "body-broken", error.to_string(), 400)
                .await),
        }
    }

    async fn classify(
        &self,
        live: &Live,
        destination: Box<Destination>,
        canonical: &CanonicalRequest,
        body: &Outgoing,
        shown: &str,
        sight: &mut Sight,
    ) -> Result<(Course, Option<serde_json::Value>), Refused> {
        let view = match body {
            Outgoing::Whole(bytes) => BodyView::Bytes(bytes),
            Outgoing::Stream(_) => BodyView::Unbound,
        };
        let protocol = live.catalog.protocol(&destination, canonical);
        let (result, id) = match (protocol, body) {
            (Protocol::Mcp, Outgoing::Whole(bytes)) if canonical.method == "POST" => {
                match mcp::parse(bytes, &JsonLimits::default()) {
                    Ok(message) => {
                        sight.message(&message);
                        let id = match &message {
                            mcp::Message::Request { id, .. } => Some(id.clone()),
                            _ => None,
                        };
                        let result = live.catalog.classify_mcp(&destination, canonical, &message);
                        (result, id)
                    }
                    Err(refusal) => {
                        let denied = (refusal.code(), refusal.to_string(), 400);
                        return self
                            .unclassified(destination, shown, denied, None, sight)
                            .await;
                    }
                }
            }
            _ => (live.catalog.classify(&destination, canonical, view), None),
        };
        match result {
            Ok(intent) => Ok((Course::Named(destination, Box::new(intent)), id)),
            Err(refusal) => {
                let status = match refusal.code() {
                    "body-unbound" | "body-too-large" => 413,
                    _ => 403,
                };
                let denied = (refusal.code(), refusal.to_string(), status);
                self.unclassified(destination, shown, denied, id, sight)
                    .await
            }
        }
    }

    /// A request to a destination of the catalog that is none of its actions.
    async fn unclassified(
        &self,
        destination: Box<Destination>,
        shown: &str,
        (code, why, status): (&str, String, u16),
        mcp: Option<serde_json::Value>,
        sight: &mut Sight,
    ) -> Result<(Course, Option<serde_json::Value>), Refused> {
        let stamping = Stamping::of(&destination);
        let mut denied = self.gate.object(shown, stamping, code, why, status).await;
        sight.denied(&denied);
        match denied.observed.take() {
            Some(released) => Ok((Course::Observed(released, Route::Listed(destination)), mcp)),
            None => Err(Refused { denied, mcp }),
        }
    }
}

/// The idempotency key, where it can stand in an envelope.
pub(super) fn idempotency(canonical: &CanonicalRequest) -> Option<String> {
    let value = canonical.field("idempotency-key")?;
    let text = std::str::from_utf8(value).ok()?;
    let fits = text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}
