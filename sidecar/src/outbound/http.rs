//! One HTTP request of the agent: understood, decided, stamped, sent, answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::Instrument;
use writ_canonical::CanonicalRequest;
use writ_catalog::model::Pep;
use writ_catalog::{Destination, Peer, UpstreamMode};
use writ_ledger::OutcomeResult;

use super::authority::authority_of;
use super::connection::{AgentSide, Live, Outbound};
use super::message::{is_to_be_decided_anew, passed_on, request};
use super::understand::{Course, Outgoing, Refused, Route, Understood, idempotency};
use crate::body::{self, Body};
use crate::gate::claims::{Asked, Stamping, http_binding};
use crate::gate::{Denied, Granted, Released, Sent};
use crate::metrics::Stage;
use crate::seen::Sight;
use crate::traces::{Trace, stage};
use crate::upstream::{self, Lease, Security, Target, UpstreamError, Version};

/// How often an action whose connection had closed before a byte left is decided anew.
const ATTEMPTS: usize = 2;

impl Outbound {
    /// Answers one request of the agent: with the target's response, or with a refusal.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        side: &AgentSide,
    ) -> Response<Body> {
        let trace = Trace::action(request.headers());
        let span = trace.span().clone();
        self.answer_traced(request, side, trace)
            .instrument(span)
            .await
    }

    async fn answer_traced(
        self: Arc<Self>,
        request: Request<Incoming>,
        side: &AgentSide,
        trace: Trace,
    ) -> Response<Body> {
        let began = Instant::now();
        let live = self.live.load_full();
        let version = request.version();
        let mut sight = sight(&request, side);
        let understood = self.understand(request, side, &live, &mut sight);
        let answered = match understood.instrument(stage!("classify")).await {
            Ok(understood) => {
                self.metrics.observe(Stage::Classify, began.elapsed());
                let mcp = understood.mcp.clone();
                let carried =
                    self.carry_out(understood, &live, (version, began), &mut sight, &trace);
                carried.await.map_err(|denied| Refused { denied, mcp })
            }
            Err(refused) => Err(refused),
        };
        if let Err(refused) = &answered {
            sight.denied(&refused.denied);
        }
        self.seen.note(sight, self.gate.now());
        let refused = match answered {
            Ok(response) => return response,
            Err(refused) => refused,
        };
        let problem = refused.denied.problem;
        match refused.mcp {
            Some(id) => problem.into_mcp_response::<http_body_util::Full<Bytes>>(&id),
            None => problem.into_response(),
        }
        .map(|full| full.map_err(|never| match never {}).boxed())
    }

    /// Decides, connects, signs, records and sends; once more from the start when the connection
    /// had closed before a byte left, since an envelope is never sent twice.
    async fn carry_out(
        self: &Arc<Self>,
        understood: Understood,
        live: &Live,
        (version, began): (http::Version, Instant),
        sight: &mut Sight,
        trace: &Trace,
    ) -> Result<Response<Body>, Denied> {
        let Understood {
            course,
            canonical,
            binding,
            mut body,
            catalog_hash,
            approval,
            ..
        } = understood;
        let sub = canonical.target_uri();
        let mut named = None;
        let mut pep = Pep::None;
        let (target, asked, mut observed) = match course {
            Course::Named(destination, intent) => {
                sight.named(&intent);
                pep = destination.pep;
                let asked = Asked {
                    http: Some(http_binding(&canonical, binding)),
                    target: sub.clone(),
                    audience: destination.audience.clone(),
                    stamping: Stamping::of(&destination),
                    idempotency: idempotency(&canonical),
                    approval,
                    intent: *intent,
                };
                let target = self.target(&destination, &canonical, version);
                (target, Some(asked), None)
            }
            Course::Observed(released, Route::Listed(destination)) => {
                let target = self.target(&destination, &canonical, version);
                (target, None, Some(released))
            }
            Course::Observed(released, Route::Dialled(to, host)) => {
                let target = self.dialled(to, version);
                named = Some(Target {
                    host,
                    ..target.clone()
                });
                (target, None, Some(released))
            }
        };
        let mut attempt = 1;
        loop {
            let (released, lease) = match (observed.take(), &asked) {
                (None, Some(asked)) => {
                    let decided = self.gate.decide(asked.clone(), binding, catalog_hash);
                    match decided.await {
                        Ok(granted) => self.issued(granted, &target).await?,
                        Err(mut denied) => {
                            sight.denied(&denied);
                            let released = denied.observed.take().ok_or(denied)?;
                            self.observed(released, &target, named.as_ref(), &sub)
                                .await?
                        }
                    }
                }
                (Some(released), _) => {
                    self.observed(released, &target, named.as_ref(), &sub)
                        .await?
                }
                (None, None) => {
                    let why = "the target closes connections as they open";
                    return Err(self.gate.refuse(&sub, "target-unreachable", why, 502).await);
                }
            };
            let proved = lease.proved.clone();
            let outgoing = match &mut body {
                Outgoing::Whole(bytes) => body::full(bytes.clone()),
                Outgoing::Stream(stream) => std::mem::replace(stream, body::full(Bytes::new())),
            };
            let mut request = request(&canonical, &released, lease.version(), outgoing);
            let span = stage!("send");
            trace.pass_on(&span, request.headers_mut());
            self.metrics.observe(Stage::Inline, began.elapsed());
            let sending = lease.send(request).instrument(span);
            let sent = tokio::time::timeout(live.settings.response_timeout, sending).await;
            match sent {
                Ok(upstream::Sent::Answered(response)) => {
                    let anew = attempt < ATTEMPTS
                        && !released.is_observed()
                        && matches!(body, Outgoing::Whole(_))
                        && is_to_be_decided_anew(&response, pep);
                    if !anew {
                        return Ok(passed_on(response, released, proved));
                    }
                    // The target's chain state is another than ours: decide anew, once, on the next.
                    let why = "the target has seen another state of the chain";
                    released.close(Sent::failed(OutcomeResult::Refused, why), None);
                    self.gate.await_newer_head().await;
                    attempt += 1;
                }
                Ok(upstream::Sent::NotSent(request)) => {
                    if released.is_observed() && attempt < ATTEMPTS {
                        // A denial is tied to no connection.
                        observed = Some(released);
                    } else {
                        released.close(
                            Sent::failed(OutcomeResult::NotSent, "the connection had closed"),
                            None,
                        );
                    }
                    if let Outgoing::Stream(stream) = &mut body {
                        *stream = request.into_body();
                    }
                    if attempt >= ATTEMPTS {
                        let why = "the target closes connections as they open";
                        return Err(self.gate.refuse(&sub, "target-unreachable", why, 502).await);
                    }
                    attempt += 1;
                }
                Ok(upstream::Sent::Unprocessed)
                    if attempt < ATTEMPTS && matches!(body, Outgoing::Whole(_)) =>
                {
                    if released.is_observed() {
                        observed = Some(released);
                    } else {
                        let why = "the target was closing the connection";
                        released.close(Sent::failed(OutcomeResult::NotSent, why), None);
                    }
                    attempt += 1;
                }
                Ok(upstream::Sent::Unprocessed) => {
                    let why = "the target did nothing with the request; send it again";
                    released.close(Sent::failed(OutcomeResult::NotSent, why), None);
                    return Err(self.gate.refuse(&sub, "target-unreachable", why, 502).await);
                }
                Ok(upstream::Sent::Broken(error)) => {
                    released.close(
                        Sent::failed(OutcomeResult::Failed, &error.to_string()),
                        None,
                    );
                    let why =
                        format!("the connection to the target broke: {error}; it may have acted");
                    return Err(self.gate.refuse(&sub, "target-broke", why, 502).await);
                }
                Err(_) => {
                    released.close(
                        Sent::failed(OutcomeResult::Failed, "no answer in time"),
                        None,
                    );
                    let why = "the target did not answer in time; it may have acted";
                    return Err(self.gate.refuse(&sub, "target-timeout", why, 504).await);
                }
            }
        }
    }

    /// Connects for an allowed action and issues its envelope for that connection.
    async fn issued(&self, granted: Granted, target: &Target) -> Result<(Released, Lease), Denied> {
        let connecting = Instant::now();
        let connection = self.upstreams.connect(target);
        let lease = match connection.instrument(stage!("connect")).await {
            Ok(lease) => lease,
            Err(error) => {
                let (code, status) = unreachable(&error);
                return Err(granted.give_up(code, &error.to_string(), status).await);
            }
        };
        self.metrics.observe(Stage::Connect, connecting.elapsed());
        let proved = lease.proved.as_ref();
        let released = granted
            .issue(proved.map(|proved| proved.channel_binding))
            .await?;
        Ok((released, lease))
    }

    /// Connects for an action that goes on although it was denied.
    async fn observed(
        &self,
        released: Released,
        target: &Target,
        otherwise: Option<&Target>,
        sub: &str,
    ) -> Result<(Released, Lease), Denied> {
        let connected = match (self.upstreams.connect(target).await, otherwise) {
            (Err(_), Some(otherwise)) => self.upstreams.connect(otherwise).await,
            (connected, _) => connected,
        };
        match connected {
            Ok(lease) => Ok((released, lease)),
            Err(error) => {
                let why = error.to_string();
                released.close(Sent::failed(OutcomeResult::NotSent, &why), None);
                let (code, status) = unreachable(&error);
                Err(self.gate.refuse(sub, code, why, status).await)
            }
        }
    }

    /// The address that the agent dialled, in the clear as it came.
    fn dialled(&self, to: SocketAddr, version: http::Version) -> Target {
        Target {
            host: to.ip().to_string(),
            port: to.port(),
            security: Security::Plain,
            version: match version {
                http::Version::HTTP_2 => Version::Http2,
                _ => Version::Http1,
            },
            generation: self.gate.identity_generation(),
        }
    }

    fn target(
        &self,
        destination: &Destination,
        canonical: &CanonicalRequest,
        version: http::Version,
    ) -> Target {
        let security = match (destination.upstream.mode, &destination.peer) {
            (UpstreamMode::Mtls, Peer::Spiffe(peer)) => Security::Mtls { peer: peer.clone() },
            (UpstreamMode::Tls | UpstreamMode::Mtls, Peer::Ca(name)) => Security::Tls {
                authority: (name != "webpki").then(|| name.clone()),
            },
            // A server that must have a SPIFFE ID is reached by mutual TLS whatever the mode says.
            (UpstreamMode::Tls, Peer::Spiffe(peer)) => Security::Mtls { peer: peer.clone() },
            (UpstreamMode::Plain, _) | (_, Peer::Unverified) => Security::Plain,
        };
        let version = match (&security, version) {
            // Between sidecars one multiplexed connection carries everything.
            (Security::Mtls { .. }, _) => Version::Http2,
            (Security::Tls { .. }, _) => Version::Negotiated,
            (Security::Plain, http::Version::HTTP_2) => Version::Http2,
            (Security::Plain, _) => Version::Http1,
        };
        Target {
            host: canonical.host.clone(),
            port: canonical.port,
            security,
            version,
            generation: self.gate.identity_generation(),
        }
    }
}

/// What can be told of a request before it is understood.
fn sight<B>(request: &Request<B>, side: &AgentSide) -> Sight {
    let named = authority_of(request.uri(), request.headers());
    let destination = match named.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) => named,
        _ => format!("{named}:{}", side.port),
    };
    Sight::of_request(
        &destination,
        request.method().as_str(),
        request.uri().path(),
    )
}

fn unreachable(error: &UpstreamError) -> (&'static str, u16) {
    match error {
        UpstreamError::Identity { .. } => ("target-identity", 502),
        UpstreamError::ConnectTimeout { .. } => ("target-timeout", 504),
        _ => ("target-unreachable", 502),
    }
}
