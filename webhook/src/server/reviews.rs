//! Reviews over HTTP: `/mutate`, `/validate`, `/warn`, `/connect` and `/connect/lookup`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use ring::rand::SecureRandom;
use writ_service::admin::{self, text};

use super::MAX_BODY;
use crate::choice::Choice;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::review::{self, Answer, Covered};
use crate::settings::Settings;
use crate::uid;

/// Everything that a review is answered from.
pub struct Reviews {
    /// The installation's settings.
    pub settings: Settings,
    /// Chooses a pod's configuration.
    pub choice: Arc<dyn Choice>,
    /// Finds out whether a running pod has a sidecar.
    pub lookup: Arc<dyn Lookup>,
    /// Draws uids.
    pub random: Arc<dyn SecureRandom + Send + Sync>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

#[derive(Clone, Copy)]
enum Path {
    Mutate,
    Validate,
    Warn,
    Connect,
    ConnectLookup,
}

impl Path {
    fn of(path: &str) -> Option<(Self, &'static str)> {
        Some(match path {
            "/mutate" => (Self::Mutate, "/mutate"),
            "/validate" => (Self::Validate, "/validate"),
            "/warn" => (Self::Warn, "/warn"),
            "/connect" => (Self::Connect, "/connect"),
            "/connect/lookup" => (Self::ConnectLookup, "/connect/lookup"),
            _ => return None,
        })
    }
}

impl Reviews {
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        within: Duration,
    ) -> admin::Answer {
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        }
        let Some((path, name)) = Path::of(request.uri().path()) else {
            return text(
                StatusCode::NOT_FOUND,
                "only /mutate, /validate, /warn, /connect and /connect/lookup\n",
            );
        };
        let answered = tokio::time::timeout(within, self.reviewed(path, name, request)).await;
        answered.unwrap_or_else(|_| text(StatusCode::REQUEST_TIMEOUT, "too slow\n"))
    }

    async fn reviewed(
        &self,
        path: Path,
        name: &'static str,
        request: Request<Incoming>,
    ) -> admin::Answer {
        let invalid = |status, why: String| {
            let count = self.metrics.reviews.with_label_values(&[name, "invalid"]);
            count.inc();
            tracing::warn!(path = name, why, "not an admission review");
            text(status, format!("{why}\n"))
        };
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return invalid(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        };
        let started = Instant::now();
        let request = match review::parse(&body) {
            Ok(request) => request,
            Err(why) => return invalid(StatusCode::BAD_REQUEST, why),
        };
        let answer = match self.decide(path, &request).await {
            Ok(answer) => answer,
            Err(why) => return invalid(StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        self.count(name, &request, &answer, started);
        match review::encode(answer) {
            Ok(body) => json(body),
            Err(why) => invalid(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    }

    async fn decide(&self, path: Path, request: &review::Request) -> Result<Answer, String> {
        let (settings, choice) = (&self.settings, self.choice.as_ref());
        Ok(match path {
            Path::Mutate => {
                let uid = uid::draw(self.random.as_ref()).ok_or("no random numbers")?;
                review::mutate(request, settings, uid, choice)
            }
            Path::Validate => review::check(request, settings, choice),
            Path::Warn => review::warn(request, settings, choice),
            Path::Connect => review::connect(request, Covered::Namespace),
            Path::ConnectLookup => {
                let namespace = request.namespace.as_deref().unwrap_or_default();
                let covered = self.lookup.covered(namespace, &request.name).await;
                review::connect(request, covered)
            }
        })
    }

    fn count(&self, path: &str, request: &review::Request, answer: &Answer, started: Instant) {
        let outcome = if answer.response.allowed {
            "allowed"
        } else {
            "refused"
        };
        let metrics = &self.metrics;
        metrics.reviews.with_label_values(&[path, outcome]).inc();
        let seconds = metrics.seconds.with_label_values(&[path]);
        seconds.observe(started.elapsed().as_secs_f64());
        for refusal in answer.refusals.iter() {
            let code = refusal.code.as_str();
            metrics.refusals.with_label_values(&[code]).inc();
            tracing::info!(
                path,
                namespace = request.namespace,
                name = request.name,
                user = request.user_info.username,
                code,
                field = refusal.field,
                reason = refusal.reason,
                "refused"
            );
        }
    }
}

fn json(body: impl Into<Bytes>) -> admin::Answer {
    let mut response = Response::new(Full::new(body.into()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
