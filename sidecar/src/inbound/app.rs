//! The application behind the PEP, on loopback: plain HTTP, its answers streamed as they come.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use tracing::Instrument;
use writ_canonical::{Authority, Scheme};
use writ_pep::{Admitted, LetThrough, PepBody};
use writ_sae::fields;

use crate::body::{Body, BodyError};
use crate::hops::remove_hop_by_hop;
use crate::parents::OpenRequests;
use crate::problem::Problem;
use crate::traces::{Trace, stage};

/// How long the application may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// An idle connection older than this is closed rather than used: applications close theirs too.
const IDLE: Duration = Duration::from_secs(3);

type SendRequest = http1::SendRequest<PepBody>;

/// The application at one address.
#[derive(Clone)]
pub struct App {
    address: SocketAddr,
    authorities: Arc<[String]>,
    open: OpenRequests,
    idle: Arc<Mutex<Vec<(SendRequest, Instant)>>>,
    max_idle: usize,
}

impl App {
    /// The application at `address`, known to callers by `authorities` (`host:port`); requests in
    /// it are registered with `open`.
    pub fn new(
        address: SocketAddr,
        authorities: Vec<String>,
        open: OpenRequests,
        max_idle: usize,
    ) -> Self {
        Self {
            address,
            authorities: authorities.into(),
            open,
            idle: Arc::default(),
            max_idle,
        }
    }

    /// Where the application listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    async fn forward(self, request: Request<PepBody>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let observed = parts.extensions.remove::<LetThrough>().is_some();
        if !observed && !self.named_by(&parts.headers) {
            let why = "the envelope is for another authority than this port's";
            return answered(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                why,
            ));
        }
        let entered = parts.extensions.remove::<Admitted>().map(|admitted| {
            // The application may log or check what let the request in.
            if let Ok(value) = HeaderValue::from_str(admitted.envelope.compact().as_str()) {
                parts.headers.insert(fields::SAE, value);
            }
            let claims = admitted.claims();
            self.open.enter(
                admitted.envelope.hash(),
                &claims.ctx.parent_chain,
                claims.ctx.principal.clone(),
                claims.ctx.session_id.clone(),
            )
        });
        parts.version = Version::HTTP_11;
        let span = stage!("application");
        if let Some(trace) = parts.extensions.remove::<Trace>() {
            trace.pass_on(&span, &mut parts.headers);
        }
        let request = Request::from_parts(parts, body);
        match self.send(request).instrument(span).await {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                remove_hop_by_hop(&mut parts.headers);
                let held = Held {
                    inner: body.map_err(|error| -> BodyError { error.into() }).boxed(),
                    _entered: entered,
                };
                Response::from_parts(parts, held.boxed())
            }
            Err(why) => answered(Problem::new(
                StatusCode::BAD_GATEWAY,
                "application-unreachable",
                format!("the application behind the PEP: {why}"),
            )),
        }
    }

    /// Whether the authority that was signed, and forwarded as Host, is one of this port's.
    fn named_by(&self, headers: &HeaderMap) -> bool {
        let Some(Ok(host)) = headers.get(HOST).map(HeaderValue::to_str) else {
            return false;
        };
        let Ok(named) = Authority::parse(host, Scheme::Https) else {
            return false;
        };
        let named = format!("{}:{}", named.host, named.port);
        self.authorities.contains(&named)
    }

    async fn send(&self, request: Request<PepBody>) -> Result<Response<Incoming>, String> {
        let mut sender = match self.parked() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // Not a byte had left, so this is no repetition.
                let Some(request) = error.take_message() else {
                    return Err(error.into_error().to_string());
                };
                sender = self.connect().await?;
                sender
                    .send_request(request)
                    .await
                    .map_err(|e| e.to_string())?
            }
        };
        let app = self.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                app.park(sender);
            }
        });
        Ok(response)
    }

    fn parked(&self) -> Option<SendRequest> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sender, since)) = idle.pop() {
            if !sender.is_closed() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }

    fn park(&self, sender: SendRequest) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push((sender, Instant::now()));
        }
    }

    async fn connect(&self) -> Result<SendRequest, String> {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(|_| format!("{} does not accept connections", self.address))?
            .map_err(|error| format!("{}: {error}", self.address))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to application ended");
            }
        });
        Ok(sender)
    }
}

impl Service<Request<PepBody>> for App {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<PepBody>) -> Self::Future {
        let app = self.clone();
        Box::pin(async move { Ok(app.forward(request).await) })
    }
}

fn answered(problem: Problem) -> Response<Body> {
    problem
        .into_response::<http_body_util::Full<bytes::Bytes>>()
        .map(|full| full.map_err(|never| match never {}).boxed())
}

/// A response body that keeps its request open until it ends.
struct Held {
    inner: Body,
    _entered: Option<crate::parents::Entered>,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_by(host: Option<&str>) -> bool {
        let authorities = vec!["payments.example:8443".into(), "10.0.0.7:8443".into()];
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let app = App::new(address, authorities, OpenRequests::default(), 1);
        let host = host.map(|host| HeaderValue::from_str(host).unwrap());
        app.named_by(&host.into_iter().map(|host| (HOST, host)).collect())
    }

    #[test]
    fn a_port_answers_to_its_own_authorities_in_any_spelling() {
        assert!(named_by(Some("payments.example:8443")));
        assert!(named_by(Some("PAYMENTS.example:8443")));
        assert!(named_by(Some("10.0.0.7:8443")));
    }

    #[test]
    fn a_port_does_not_answer_to_another_authority() {
        for host in [
            "payments.example",
            "payments.example:443",
            "other.example:8443",
            "x.payments.example:8443",
            "10.0.0.8:8443",
            "user@payments.example:8443",
            "",
        ] {
            assert!(!named_by(Some(host)), "{host}");
        }
        assert!(!named_by(None));
    }
}
