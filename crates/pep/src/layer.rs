//! The PEP in front of a `tower` service.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri, request::Parts};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tower::{Layer, Service};
use tracing::{Instrument, Span};
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};
use writ_sae::{BodyDigest, Envelope, Unverified, fields, sae_hash};

use crate::answer::Answer;
use crate::check::{Body, Inbound};
use crate::paced::Paced;
use crate::receipt_body::{End, Finisher, ReceiptBody};
use crate::receipts::{Draft, ReceiptBook, ReceiptSource};
use crate::record::{Recorder, Refused};
use crate::sender::{Peer, single};
use crate::{Admitted, BoxFuture, Pep, Refusal, TRACE_TARGET};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body broke off.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(BoxError);

/// Body of requests and responses that pass the layer.
pub type PepBody = UnsyncBoxBody<Bytes, BodyError>;

fn boxed<B>(body: B) -> PepBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(|error| BodyError(error.into())).boxed_unsync()
}

/// A wall clock.
pub trait Clock: Send + Sync {
    /// Milliseconds since the unix epoch.
    fn unix_millis(&self) -> u64;
}

/// What the server knows of the connection; it puts this into the request's extensions.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Scheme under which the target is addressed.
    pub scheme: Scheme,
    /// The peer.
    pub peer: Option<Peer>,
    /// TLS exporter (RFC 9266).
    pub channel_binding: Option<[u8; 32]>,
}

/// What a [`PepLayer`] is made of.
pub struct LayerConfig {
    /// The checks.
    pub pep: Arc<Pep>,
    /// Signs receipts.
    pub receipts: Arc<dyn ReceiptSource>,
    /// Keeps final receipts.
    pub book: ReceiptBook,
    /// Keeps verdicts.
    pub recorder: Arc<dyn Recorder>,
    /// Tells refusals.
    pub answer: Arc<dyn Answer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Makes decision ids.
    pub decision_ids: Arc<dyn Fn() -> String + Send + Sync>,
    /// Limits of the canonical form.
    pub limits: Limits,
    /// Whether refusals are enforced, asked for each request.
    pub mode: Arc<dyn Fn() -> Mode + Send + Sync>,
    /// Most bytes of body that are read to compare a digest: 1 MiB.
    pub max_body: usize,
    /// How long a body that is compared may take to arrive, and how long a body that is not may
    /// pause: 30 s.
    pub body_timeout: Duration,
}

/// Whether refusals are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What is refused is stopped.
    Enforce,
    /// What is refused is recorded and goes on, where [`Refusal::observable`] allows.
    Observe,
}

/// In the extensions of a request that goes on although it was refused: nothing that it says of
/// itself was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetThrough;

/// A request's body, as far as it was touched.
enum Held<B> {
    /// Not at all.
    Unread(B),
    /// Read to its end.
    Whole(Bytes),
    /// To be forwarded as it comes.
    Stream(PepBody),
    /// Not to be had any more.
    Lost,
}

/// Lets only admitted requests through to the inner service.
///
/// What is forwarded is exactly what was checked: the canonical fields, the bytes that were
/// hashed, and an [`Admitted`] in the extensions. A request without a [`Connection`] in its
/// extensions comes from nobody and is refused.
#[derive(Clone)]
pub struct PepLayer {
    config: Arc<LayerConfig>,
}

impl PepLayer {
    /// A layer with this configuration.
    pub fn new(config: LayerConfig) -> Self {
        Self {
            config: Arc::new(config),
        }
    }
}

impl<S> Layer<S> for PepLayer {
    type Service = PepService<S>;
    fn layer(&self, inner: S) -> PepService<S> {
        PepService {
            inner,
            config: self.config.clone(),
        }
    }
}

/// A service behind a [`PepLayer`].
#[derive(Clone)]
pub struct PepService<S> {
    inner: S,
    config: Arc<LayerConfig>,
}

impl<S, B, R> Service<Request<B>> for PepService<S>
where
    S: Service<Request<PepBody>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<PepBody>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone takes the place of the one that was polled ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let config = self.config.clone();
        Box::pin(async move {
            let decision_id = (config.decision_ids)();
            // Whoever traces arrivals left a field for it in the span around this.
            Span::current().record("decision.id", &decision_id);
            let (parts, body) = request.into_parts();
            let mut held = Held::Unread(body);
            let verifying = tracing::trace_span!(target: TRACE_TARGET, "verify");
            let checked = config.check(&parts, &mut held).instrument(verifying);
            let ready = match checked.await {
                Ok(checked) => {
                    let recording = tracing::trace_span!(target: TRACE_TARGET, "record");
                    config
                        .record(checked, &decision_id)
                        .instrument(recording)
                        .await
                }
                Err(refusal) => Err(refusal),
            };
            let ready = match ready {
                Ok(ready) => ready,
                Err(refusal) => {
                    let observed = config.observed(&refusal, &parts);
                    config
                        .note(&refusal, &parts, &decision_id, observed.is_some())
                        .await;
                    let Some(head) = observed else {
                        let read = match &held {
                            Held::Whole(bytes) => Some(bytes),
                            _ => None,
                        };
                        let answer = config.answer.answer(&refusal, &decision_id, &parts, read);
                        return Ok(answer.map(|bytes| boxed(Full::new(bytes))));
                    };
                    let body = held.forward(config.body_timeout);
                    let request = forwarded(parts, head, body, LetThrough);
                    let response = inner.call(request).await?;
                    return Ok(response.map(boxed));
                }
            };
            let body = held.forward(config.body_timeout);
            let request = forwarded(parts, ready.head, body, ready.admitted);
            match inner.call(request).await {
                Ok(response) => Ok(receipted(response, ready.accepted, ready.finisher)),
                Err(error) => {
                    ready.finisher.finish(None, None);
                    Err(error)
                }
            }
        })
    }
}

impl<B> Held<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body, to be forwarded.
    fn forward(self, pause: Duration) -> PepBody {
        match self {
            Self::Unread(body) => boxed(Paced::new(body, pause)),
            Self::Whole(bytes) => boxed(Full::new(bytes)),
            Self::Stream(body) => body,
            Self::Lost => boxed(Full::default()),
        }
    }
}

struct Checked {
    head: CanonicalRequest,
    admitted: Admitted,
}

struct Ready {
    head: CanonicalRequest,
    admitted: Admitted,
    accepted: HeaderValue,
    finisher: Finisher,
}

impl LayerConfig {
    async fn check<B>(&self, parts: &Parts, held: &mut Held<B>) -> Result<Checked, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Form first: nothing is read of a request that carries no envelope.
        let compact = single(&parts.headers, fields::SAE)?.ok_or(Refusal::EnvelopeMissing)?;
        let envelope = Unverified::<Envelope>::parse(compact)?;
        let connection = parts
            .extensions
            .get::<Connection>()
            .ok_or(Refusal::PeerUnknown)?;
        let bound = envelope.unverified_claims().act.http.as_ref();
        let unbound = bound.is_some_and(|http| http.content_digest == BodyDigest::Unbound);

        let head = canonical_head(parts, connection.scheme, &self.limits)?;
        *held = match std::mem::replace(held, Held::Lost) {
            Held::Unread(body) if unbound => {
                Held::Stream(boxed(Paced::new(body, self.body_timeout)))
            }
            Held::Unread(body) => {
                Held::Whole(read_body(body, self.max_body, self.body_timeout).await?)
            }
            touched => touched,
        };
        let seen = match held {
            Held::Whole(bytes) => Body::Whole(bytes),
            _ => Body::Stream,
        };
        let inbound = Inbound {
            head: &head,
            body: seen,
            headers: &parts.headers,
            peer: connection.peer.as_ref(),
            channel_binding: connection.channel_binding,
            now: self.clock.unix_millis() / 1000,
        };
        let admitted = self.pep.check(inbound).await?;
        Ok(Checked { head, admitted })
    }

    /// Records the verdict and signs the receipt: both before anything is forwarded.
    async fn record(&self, checked: Checked, decision_id: &str) -> Result<Ready, Refusal> {
        let received = self.clock.unix_millis();
        let admitted = checked.admitted;
        let log = self
            .recorder
            .admitted(&admitted, decision_id)
            .await
            .map_err(|e| Refusal::NotRecorded(e.to_string()))?;
        let draft = Draft::new(self.receipts.current(), &admitted, log, received);
        let unsigned = |why: String| Refusal::ReceiptNotSigned(why);
        let accepted = draft.accepted().map_err(|e| unsigned(e.to_string()))?;
        let accepted =
            HeaderValue::from_str(accepted.as_str()).map_err(|e| unsigned(e.to_string()))?;
        let finisher = Finisher::new(End {
            draft,
            book: self.book.clone(),
            recorder: self.recorder.clone(),
            clock: self.clock.clone(),
            decision_id: decision_id.to_owned(),
        });
        Ok(Ready {
            head: checked.head,
            admitted,
            accepted,
            finisher,
        })
    }

    /// The canonical head of a refused request that goes on all the same.
    fn observed(&self, refusal: &Refusal, parts: &Parts) -> Option<CanonicalRequest> {
        if (self.mode)() == Mode::Enforce || !refusal.observable() {
            return None;
        }
        let connection = parts.extensions.get::<Connection>()?;
        canonical_head(parts, connection.scheme, &self.limits).ok()
    }

    /// Has a refusal recorded.
    async fn note(&self, refusal: &Refusal, parts: &Parts, decision_id: &str, observed: bool) {
        let peer = parts
            .extensions
            .get::<Connection>()
            .and_then(|connection| connection.peer.as_ref());
        let sae = single(&parts.headers, fields::SAE).ok().flatten();
        let refused = Refused {
            refusal,
            peer: peer.map(|peer| peer.spiffe_id.as_str()),
            sae: sae.map(sae_hash),
            decision_id,
            observed,
        };
        self.recorder.refused(refused).await;
    }
}

fn canonical_head(
    parts: &Parts,
    scheme: Scheme,
    limits: &Limits,
) -> Result<CanonicalRequest, Refusal> {
    let host = parts.headers.get(HOST).map(HeaderValue::to_str);
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(Ok(host))) => host,
        (None, _) => "",
    };
    let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let raw = RawHead {
        scheme,
        method: &parts.method,
        authority,
        path_and_query,
        headers: &parts.headers,
    };
    canonicalize(raw, limits).map_err(|e| Refusal::RequestNotCanonical(e.to_string()))
}

async fn read_body<B>(body: B, limit: usize, within: Duration) -> Result<Bytes, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let reading = Limited::new(body, limit).collect();
    let Ok(read) = tokio::time::timeout(within, reading).await else {
        return Err(Refusal::BodyLate);
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge),
        Err(_) => Err(Refusal::BodyBroken),
    }
}

/// The request as it was checked, and nothing else of it.
fn forwarded<M: Clone + Send + Sync + 'static>(
    mut parts: Parts,
    head: CanonicalRequest,
    body: PepBody,
    mark: M,
) -> Request<PepBody> {
    parts.headers = head.header_map();
    if let Ok(host) = HeaderValue::from_str(&head.authority()) {
        parts.headers.insert(HOST, host);
    }
    // The canonical path was parsed from this URI, so it is one.
    if let Ok(uri) = head.path_and_query().parse::<Uri>() {
        parts.uri = uri;
    }
    parts.extensions.insert(mark);
    Request::from_parts(parts, body)
}

fn receipted<R>(
    response: Response<R>,
    accepted: HeaderValue,
    finisher: Finisher,
) -> Response<PepBody>
where
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (mut parts, body) = response.into_parts();
    // Only the PEP speaks for the target here.
    parts.headers.insert(fields::SAE_RECEIPT, accepted);
    let body = ReceiptBody::new(boxed(body), parts.status.as_u16(), finisher);
    Response::from_parts(parts, body.boxed_unsync())
}
