//! The layer: nothing reaches the target unless it is checked and recorded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, ServiceExt};
use writ_canonical::{Limits, Scheme};
use writ_pep::*;
use writ_sae::*;

/// What happened, in order.
#[derive(Default)]
struct Journal {
    events: Mutex<Vec<String>>,
    receipts: Mutex<Vec<ReceiptClaims>>,
}

impl Journal {
    fn note(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }
    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

struct TestRecorder {
    journal: Arc<Journal>,
    fails: Option<RecordError>,
}

impl Recorder for TestRecorder {
    fn admitted<'a>(
        &'a self,
        _: &'a Admitted,
        decision_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<LogRef>, RecordError>> {
        Box::pin(async move {
            if let Some(error) = &self.fails {
                return Err(error.clone());
            }
            self.journal.note(format!("recorded {decision_id}"));
            Ok(Some(LogRef {
                id: "pep-log".into(),
                seq: 5,
            }))
        })
    }
    fn refused<'a>(&'a self, refused: Refused<'a>) -> BoxFuture<'a, ()> {
        let peer = refused.peer.unwrap_or("nobody");
        let verdict = if refused.observed {
            "observed"
        } else {
            "refused"
        };
        self.journal
            .note(format!("{verdict} {} of {peer}", refused.refusal.code()));
        Box::pin(async {})
    }
    fn completed(&self, completed: Completed<'_>) {
        self.journal.note(format!("{:?}", completed.claims.outcome));
        self.journal
            .receipts
            .lock()
            .unwrap()
            .push(completed.claims.clone());
    }
}

struct Fixed(u64);
impl Clock for Fixed {
    fn unix_millis(&self) -> u64 {
        self.0
    }
}

struct ToolReceipts {
    broken: bool,
}

struct BrokenKey(Es256Signer);
impl Signer for BrokenKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn kid(&self) -> &str {
        self.0.kid()
    }
    fn sign(&self, _: &[u8]) -> Result<[u8; 64], SignError> {
        Err(SignError("the token is gone".into()))
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        self.0.certificate_chain()
    }
    fn key_statement(&self) -> Option<&str> {
        None
    }
}

impl ReceiptSource for ToolReceipts {
    fn current(&self) -> ReceiptIdentity {
        let tool = identity("tool");
        let signer: Arc<dyn Signer> = if self.broken {
            Arc::new(BrokenKey(tool.signer))
        } else {
            Arc::new(tool.signer)
        };
        ReceiptIdentity {
            signer,
            spiffe_id: TOOL.into(),
            subject_dn: "CN=tool,O=SPIRE".into(),
        }
    }
}

struct Stage {
    world: World,
    journal: Arc<Journal>,
    book: ReceiptBook,
    unrecordable: Option<RecordError>,
    unsigned: bool,
    connection: bool,
    mode: Mode,
    max_body: usize,
}

impl Stage {
    fn new() -> Self {
        let mut world = World::new();
        world
            .fields
            .insert("host", "payments.example.org".parse().unwrap());
        let claims = world.claims();
        world.stamp(&claims);
        Self {
            world,
            journal: Arc::default(),
            book: ReceiptBook::new(10),
            unrecordable: None,
            unsigned: false,
            connection: true,
            mode: Mode::Enforce,
            max_body: 1024,
        }
    }

    fn layer(&self) -> PepLayer {
        PepLayer::new(LayerConfig {
            pep: Arc::new(self.world.pep()),
            receipts: Arc::new(ToolReceipts {
                broken: self.unsigned,
            }),
            book: self.book.clone(),
            recorder: Arc::new(TestRecorder {
                journal: self.journal.clone(),
                fails: self.unrecordable.clone(),
            }),
            answer: Arc::new(ProblemJson),
            clock: Arc::new(Fixed((NOW + 1) * 1000)),
            decision_ids: Arc::new(|| "decision-1".to_owned()),
            limits: Limits::default(),
            mode: {
                let mode = self.mode;
                Arc::new(move || mode)
            },
            max_body: self.max_body,
            body_timeout: Duration::from_secs(30),
        })
    }

    fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.world.method.clone();
        *request.uri_mut() = self.world.target.parse().unwrap();
        *request.headers_mut() = self.world.fields.clone();
        if self.connection {
            request.extensions_mut().insert(Connection {
                scheme: Scheme::Https,
                peer: self.world.peer.clone(),
                channel_binding: self.world.exporter,
            });
        }
        request
    }

    /// Sends the request to a target that answers 201 and notes what it saw.
    async fn send(&self) -> Response<PepBody> {
        let body = Full::new(Bytes::from(self.world.body.clone()));
        self.send_to(body, Bytes::from_static(b"done")).await
    }

    async fn send_to<B>(&self, body: B, answer: Bytes) -> Response<PepBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let journal = self.journal.clone();
        let target = tower::service_fn(move |request: Request<PepBody>| {
            let (journal, answer) = (journal.clone(), answer.clone());
            async move {
                let admitted = request.extensions().get::<Admitted>().is_some();
                let let_through = request.extensions().get::<LetThrough>().is_some();
                assert!(
                    admitted != let_through,
                    "the target can read why it got this"
                );
                if let_through {
                    journal.note("let through".to_owned());
                }
                let seen: Vec<_> = request.headers().keys().map(|k| k.to_string()).collect();
                let uri = request.uri().to_string();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                journal.note(format!("target {uri} {seen:?} {}", body.len()));
                let mut response = Response::new(Full::new(answer));
                *response.status_mut() = StatusCode::CREATED;
                Ok::<_, Infallible>(response)
            }
        });
        let service = self.layer().layer(target);
        service.oneshot(self.request(body)).await.unwrap()
    }
}

async fn problem(response: Response<PepBody>) -> serde_json::Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn verified(compact: &str, sae: &[u8; 32]) -> ReceiptClaims {
    let key = VerifyKey::from_svid(&identity("tool").svid).unwrap();
    let parsed = Unverified::<ReceiptClaims>::parse(compact).unwrap();
    parsed.verify(&key, sae).unwrap().into_claims()
}

#[tokio::test]
async fn an_admitted_request_is_recorded_then_forwarded_as_checked() {
    let stage = Stage::new();
    let response = stage.send().await;
    assert_eq!(response.status(), StatusCode::CREATED);
    response.into_body().collect().await.unwrap();
    assert_eq!(
        stage.journal.events(),
        [
            "recorded decision-1",
            "target /v1/transfers?dry=1 [\"content-type\", \"host\"] 31",
            "Completed"
        ]
    );
}

#[tokio::test]
async fn the_response_bears_signed_receipts_first_accepted_then_final() {
    let stage = Stage::new();
    let sae = sae_hash(stage.world.fields["sae"].to_str().unwrap());
    let response = stage.send().await;
    let accepted = response.headers()["sae-receipt"]
        .to_str()
        .unwrap()
        .to_owned();
    let accepted = verified(&accepted, &sae);
    assert_eq!(accepted.outcome, Outcome::Accepted);
    assert_eq!(accepted.log.unwrap().seq, 5);

    let body = response.into_body().collect().await.unwrap();
    let trailers: HeaderMap = body.trailers().cloned().unwrap();
    assert_eq!(body.to_bytes(), "done");
    let last = trailers["sae-receipt"].to_str().unwrap();
    let claims = verified(last, &sae);
    assert_eq!(claims.outcome, Outcome::Completed);
    assert_eq!(claims.status, Some(201));
    assert_eq!(claims.response, Some(BodyDigest::Sha256(hash("done"))));
    assert_eq!(stage.book.get(&sae).unwrap().as_str(), last);
}

#[tokio::test]
async fn a_response_nobody_reads_has_its_end_recorded_too() {
    let stage = Stage::new();
    drop(stage.send().await);
    assert_eq!(
        stage.journal.receipts.lock().unwrap()[0].outcome,
        Outcome::Failed
    );

    let empty = Stage::new();
    let body = Full::new(Bytes::from(empty.world.body.clone()));
    drop(empty.send_to(body, Bytes::new()).await);
    let receipts = empty.journal.receipts.lock().unwrap();
    assert_eq!(receipts[0].outcome, Outcome::Completed);
    assert_eq!(receipts[0].response, Some(BodyDigest::Sha256(hash(""))));
}

#[tokio::test]
async fn a_refused_request_is_answered_with_a_problem_and_the_target_gets_nothing() {
    let mut stage = Stage::new();
    stage.world.fields.remove("sae");
    let response = stage.send().await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    let problem = problem(response).await;
    assert_eq!(
        problem["type"],
        "https://writ.dev/problems#envelope-missing"
    );
    assert_eq!(problem["code"], "envelope-missing");
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["title"], "Action refused");
    assert_eq!(problem["decision_id"], "decision-1");
    assert!(problem["detail"].as_str().unwrap().contains("sidecar"));
    let events = stage.journal.events();
    assert_eq!(events, [format!("refused envelope-missing of {AGENT}")]);
}

#[tokio::test]
async fn where_refusals_are_only_observed_a_refused_request_goes_on_as_it_came() {
    let mut bare = Stage::new();
    bare.mode = Mode::Observe;
    bare.world.fields.remove("sae");
    let mut altered = Stage::new();
    altered.mode = Mode::Observe;
    altered.world.body.push(b' ');
    for (stage, code, length) in [
        (bare, "envelope-missing", 31),
        (altered, "body-mismatch", 32),
    ] {
        let response = stage.send().await;
        assert_eq!(response.status(), StatusCode::CREATED);
        assert!(!response.headers().contains_key("sae-receipt"));
        response.into_body().collect().await.unwrap();
        assert_eq!(
            stage.journal.events(),
            [
                format!("observed {code} of {AGENT}"),
                "let through".to_owned(),
                format!("target /v1/transfers?dry=1 [\"content-type\", \"host\"] {length}"),
            ]
        );
    }
}

#[tokio::test]
async fn what_cannot_be_observed_is_refused_where_refusals_are_only_observed() {
    let mut unrecordable = Stage::new();
    unrecordable.unrecordable = Some(RecordError("the disk is full".into()));
    let mut repeated = Stage::new();
    let envelope = repeated.world.fields["sae"].clone();
    repeated.world.fields.append("sae", envelope);
    let mut long = Stage::new();
    long.max_body = 8;
    let mut nobody = Stage::new();
    nobody.connection = false;
    for (mut stage, code) in [
        (unrecordable, "not-recorded"),
        (repeated, "sae-field-repeated"),
        (long, "body-too-large"),
        (nobody, "peer-unknown"),
    ] {
        stage.mode = Mode::Observe;
        assert_eq!(problem(stage.send().await).await["code"], code);
        let forwarded = stage.journal.events();
        assert!(!forwarded.iter().any(|event| event.starts_with("target")));
    }
}

#[tokio::test]
async fn nothing_is_forwarded_that_could_not_be_recorded_or_receipted() {
    let mut stage = Stage::new();
    stage.unrecordable = Some(RecordError("the disk is full".into()));
    let response = stage.send().await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(problem(response).await["code"], "not-recorded");

    let mut unsigned = Stage::new();
    unsigned.unsigned = true;
    assert_eq!(
        problem(unsigned.send().await).await["code"],
        "receipt-not-signed"
    );
    for stage in [stage, unsigned] {
        let forwarded = stage
            .journal
            .events()
            .iter()
            .any(|e| e.starts_with("target"));
        assert!(!forwarded);
    }
}

#[tokio::test]
async fn a_request_from_no_known_connection_is_refused() {
    let mut stage = Stage::new();
    stage.connection = false;
    assert_eq!(problem(stage.send().await).await["code"], "peer-unknown");
    assert_eq!(stage.journal.events(), ["refused peer-unknown of nobody"]);
}

#[tokio::test]
async fn a_body_over_the_limit_or_cut_off_is_refused() {
    let mut stage = Stage::new();
    stage.max_body = 30;
    let response = stage.send().await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem(response).await["code"], "body-too-large");

    let stage = Stage::new();
    let reset = Err::<http_body::Frame<Bytes>, _>(std::io::Error::other("reset"));
    let broken = StreamBody::new(futures::stream::iter([reset]));
    let response = stage.send_to(broken, Bytes::new()).await;
    assert_eq!(problem(response).await["code"], "body-broken");
}

/// A body that sends one frame and then nothing more.
fn stalled() -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let frame = Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"{")));
    let frames = futures::stream::iter([frame]);
    StreamBody::new(futures::StreamExt::chain(
        frames,
        futures::stream::pending(),
    ))
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stalls_in_the_middle_of_a_bound_body_is_refused() {
    let stage = Stage::new();
    let response = stage.send_to(stalled(), Bytes::new()).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(problem(response).await["code"], "body-late");
}

#[tokio::test(start_paused = true)]
async fn an_unbound_body_that_pauses_for_too_long_breaks_off_at_the_target() {
    let mut stage = Stage::new();
    let mut claims = stage.world.claims();
    claims.act.http.as_mut().unwrap().content_digest = BodyDigest::Unbound;
    stage.world.stamp(&claims);
    let journal = stage.journal.clone();
    let target = tower::service_fn(move |request: Request<PepBody>| {
        let journal = journal.clone();
        async move {
            let error = request.into_body().collect().await.unwrap_err();
            journal.note(format!("target: {error}"));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let service = stage.layer().layer(target);
    service.oneshot(stage.request(stalled())).await.unwrap();
    let paused = "target: the body paused for longer than 30s".to_owned();
    assert!(stage.journal.events().contains(&paused));
}

#[tokio::test]
async fn a_request_without_a_canonical_form_is_refused() {
    let mut stage = Stage::new();
    stage.world.target = "/v1/a/../transfers".into();
    let response = stage.send().await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(problem(response).await["code"], "request-not-canonical");
}

#[tokio::test]
async fn an_unbound_body_streams_through_unread() {
    let mut stage = Stage::new();
    let mut claims = stage.world.claims();
    claims.act.http.as_mut().unwrap().content_digest = BodyDigest::Unbound;
    stage.world.stamp(&claims);
    stage.max_body = 3;
    assert_eq!(stage.send().await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_target_that_fails_leaves_a_receipt_that_says_so() {
    let stage = Stage::new();
    let target = tower::service_fn(|_: Request<PepBody>| async {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("no route"))
    });
    let body = Full::new(Bytes::from(stage.world.body.clone()));
    let answer = stage
        .layer()
        .layer(target)
        .oneshot(stage.request(body))
        .await;
    assert!(answer.is_err());
    assert_eq!(stage.journal.events(), ["recorded decision-1", "Failed"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_receipt_that_says_so() {
    let stage = Stage::new();
    let target = tower::service_fn(|_: Request<PepBody>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let body = Full::new(Bytes::from(stage.world.body.clone()));
    let mut call = Box::pin(stage.layer().layer(target).oneshot(stage.request(body)));
    while stage.journal.events().is_empty() {
        let polled = futures::future::poll_immediate(&mut call).await;
        assert!(polled.is_none(), "the target does not answer");
        tokio::task::yield_now().await;
    }
    drop(call);
    assert_eq!(stage.journal.events(), ["recorded decision-1", "Failed"]);
}

#[tokio::test]
async fn a_target_cannot_forge_a_receipt() {
    let stage = Stage::new();
    let target = tower::service_fn(|_: Request<PepBody>| async {
        let mut response = Response::new(Full::new(Bytes::new()));
        response
            .headers_mut()
            .insert("sae-receipt", "forged".parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let body = Full::new(Bytes::from(stage.world.body.clone()));
    let answer = stage
        .layer()
        .layer(target)
        .oneshot(stage.request(body))
        .await
        .unwrap();
    assert_eq!(answer.headers().get_all("sae-receipt").iter().count(), 1);
    assert_ne!(answer.headers()["sae-receipt"], "forged");
}
