//! The webhook over real HTTPS: reviews, rotation, and a folder whose symlink is swapped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_webhook::Settings;
use writ_webhook::certs::{
    Authorities, Authority, CertError, Current, Folder, Lifetimes, Publisher, Rotation, Saved,
    Store, follow,
};
use writ_webhook::choice::Static;
use writ_webhook::lookup::Lookup;
use writ_webhook::metrics::Metrics;
use writ_webhook::review::Covered;
use writ_webhook::server::{self, MAX_BODY, Reviews};
use writ_webhook::settings::Trust;

const NAME: &str = "writ-webhook.writ-system.svc";
const START: u64 = 1_900_000_000;
const DAY: u64 = 86_400;

/// What the replicas share: a Secret and the registrations, in memory.
#[derive(Clone, Debug, Default)]
struct Cluster {
    stored: Arc<Mutex<(Authorities, u64)>>,
    bundle: Arc<Mutex<String>>,
    refuses: Arc<AtomicBool>,
    /// Stored by another replica just before the next save.
    faster: Arc<Mutex<Option<Authorities>>>,
}

impl Store for Cluster {
    async fn load(&self) -> Result<(Authorities, String), CertError> {
        let stored = self.stored.lock().unwrap();
        Ok((stored.0.clone(), stored.1.to_string()))
    }

    async fn save(&self, authorities: &Authorities, version: &str) -> Result<Saved, CertError> {
        let mut stored = self.stored.lock().unwrap();
        if let Some(faster) = self.faster.lock().unwrap().take() {
            *stored = (faster, stored.1 + 1);
        }
        if stored.1.to_string() != version {
            return Ok(Saved::Theirs);
        }
        *stored = (authorities.clone(), stored.1 + 1);
        Ok(Saved::Ours)
    }
}

impl Publisher for Cluster {
    async fn publish(&self, bundle: &str) -> Result<(), CertError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(CertError::Kubernetes {
                what: "patching".to_owned(),
                reason: "forbidden".to_owned(),
            });
        }
        *self.bundle.lock().unwrap() = bundle.to_owned();
        Ok(())
    }
}

fn lifetimes() -> Lifetimes {
    let days = |days| Duration::from_secs(days * DAY);
    Lifetimes::new(days(90), days(1), Duration::from_secs(3600)).unwrap()
}

fn rotation(cluster: &Cluster) -> Rotation<Cluster, Cluster> {
    let names = vec![NAME.to_owned()];
    Rotation::new(cluster.clone(), cluster.clone(), names, lifetimes())
}

/// A clock that clients verify by.
#[derive(Debug)]
struct Now(AtomicU64);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(self.0.load(Ordering::SeqCst));
        Some(UnixTime::since_unix_epoch(now))
    }
}

struct NoPods;

impl Lookup for NoPods {
    fn covered<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Covered> {
        let covered = if name == "agent" {
            Covered::Pod
        } else {
            Covered::No
        };
        Box::pin(async move { covered })
    }
}

struct Webhook {
    port: u16,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    leaving: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Webhook {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let current = Arc::new(Current::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let reviews = Arc::new(Reviews {
            settings: Settings::default(),
            choice: Arc::new(Static::new(
                "writ-sidecar".to_owned(),
                vec![],
                vec![],
                Trust::Bundle,
            )),
            lookup: Arc::new(NoPods),
            random: Arc::new(ring::rand::SystemRandom::new()),
            metrics: Arc::clone(&metrics),
        });
        let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let tls = server::tls(Arc::clone(&current) as _).unwrap();
        tasks.spawn(server::serve(
            listener,
            tls,
            reviews,
            leaving.clone(),
            stop.clone(),
            tasks.clone(),
        ));
        Self {
            port,
            current,
            metrics,
            leaving,
            stop,
            tasks,
        }
    }

    /// Asks as an API server that trusts `bundle` at `now`.
    async fn ask(
        &self,
        bundle: &str,
        now: u64,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), String> {
        let response = self.answer(bundle, now, request).await?;
        let (parts, body) = response.into_parts();
        Ok((parts.status, body.collect().await.unwrap().to_bytes()))
    }

    async fn answer(
        &self,
        bundle: &str,
        now: u64,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let clock = Arc::new(Now(AtomicU64::new(now)));
        let config = rustls::ClientConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_webpki_verifier(verifier.build().unwrap())
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Ok(sender.send_request(request).await.unwrap())
    }

    async fn trusted(&self, bundle: &str, now: u64) -> bool {
        self.ask(bundle, now, post("/mutate", "{}")).await.is_ok()
    }
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", NAME);
    request.body(Full::new(body.into())).unwrap()
}

fn review(operation: &str, sub: &str, name: &str, object: &Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "subResource": sub,
            "name": name, "namespace": "agents", "operation": operation,
            "userInfo": {"username": "alice"}, "object": object, "oldObject": null}})
    .to_string()
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"},
        "spec": {"containers": [{"name": "agent", "image": "a"}]}})
}

#[tokio::test]
async fn from_when_it_is_told_to_end_reviews_are_answered_and_their_connections_given_up() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let certified = rotation(&cluster).tick(START).await.unwrap().unwrap();
    webhook.current.set(certified);
    let bundle = cluster.bundle.lock().unwrap().clone();
    let ask = async || {
        let asked = post("/mutate", review("CREATE", "", "agent", &pod()));
        let answer = webhook.answer(&bundle, START, asked).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers().get("connection").cloned()
    };
    assert_eq!(ask().await, None);
    webhook.leaving.cancel();
    assert_eq!(ask().await.unwrap(), "close");
}

#[tokio::test]
async fn an_admission_review_is_answered_over_https() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let certified = rotation(&cluster).tick(START).await.unwrap().unwrap();
    webhook.current.set(certified);
    let bundle = cluster.bundle.lock().unwrap().clone();
    let ask = async |path: &str, body: String| {
        let (status, body) = webhook.ask(&bundle, START, post(path, body)).await.unwrap();
        assert_eq!(status, 200, "{body:?}");
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].take()
    };

    let answer = ask("/mutate", review("CREATE", "", "agent", &pod())).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["patchType"], "JSONPatch");
    let patch: Vec<u8> = serde_json::from_value(answer["patch"].clone()).unwrap();
    let mut injected = pod();
    json_patch::patch(
        &mut injected,
        &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap(),
    )
    .unwrap();
    let answer = ask("/validate", review("CREATE", "", "agent", &injected)).await;
    assert_eq!(answer["allowed"], true);
    let answer = ask("/validate", review("CREATE", "", "agent", &pod())).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(
        answer["status"]["details"]["causes"][0]["reason"],
        "not-injected"
    );

    for (path, name, allowed) in [
        ("/connect", "agent", false),
        ("/connect", "other", false),
        ("/connect/lookup", "agent", false),
        ("/connect/lookup", "other", true),
    ] {
        let answer = ask(path, review("CONNECT", "exec", name, &json!({}))).await;
        assert_eq!(answer["allowed"], allowed, "{path} {name}");
    }
    let metrics = String::from_utf8(webhook.metrics.text()).unwrap();
    for line in [
        r#"writ_webhook_reviews_total{outcome="allowed",path="/mutate"} 1"#,
        r#"writ_webhook_refusals_total{code="exec"} 3"#,
        r#"writ_webhook_refusals_total{code="not-injected"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn two_pods_get_different_uids() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let certified = rotation(&cluster).tick(START).await.unwrap().unwrap();
    webhook.current.set(certified);
    let bundle = cluster.bundle.lock().unwrap().clone();
    let mut patches = Vec::new();
    for _ in 0..2 {
        let body = review("CREATE", "", "agent", &pod());
        let answer = webhook.ask(&bundle, START, post("/mutate", body)).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap().1).unwrap();
        patches.push(answer["response"]["patch"].clone());
    }
    assert_ne!(patches[0], patches[1]);
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_an_error() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let certified = rotation(&cluster).tick(START).await.unwrap().unwrap();
    webhook.current.set(certified);
    let bundle = cluster.bundle.lock().unwrap().clone();
    let get = Request::get("/mutate").body(Full::default()).unwrap();
    for (request, expected) in [
        (post("/mutate", "{}"), 400),
        (post("/mutate", vec![b' '; MAX_BODY + 1]), 413),
        (post("/", "{}"), 404),
        (get, 405),
    ] {
        let (status, _) = webhook.ask(&bundle, START, request).await.unwrap();
        assert_eq!(status, expected);
    }
}

#[tokio::test]
async fn through_a_whole_rotation_a_published_authority_is_always_served() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let mut replica = rotation(&cluster);
    let bundle = || cluster.bundle.lock().unwrap().clone();
    let certificates = |bundle: &str| bundle.matches("BEGIN CERTIFICATE").count();
    let mut first = String::new();
    let (mut most, mut renewed) = (0, 0);
    // An hour and a quarter of an hour at a time: both overlaps are passed through.
    let mut now = START;
    while now < START + 70 * DAY {
        // The API server's view may be one tick behind.
        let before = bundle();
        if let Some(certified) = replica.tick(now).await.unwrap() {
            webhook.current.set(certified);
            renewed += 1;
        }
        if first.is_empty() {
            first = bundle();
        } else if now % DAY < 4500 || certificates(&before) > 1 {
            assert!(
                webhook.trusted(&before, now).await,
                "day {}",
                (now - START) / DAY
            );
        }
        assert!(replica.expires().unwrap() > now);
        most = most.max(certificates(&bundle()));
        now += if certificates(&bundle()) > 1 {
            900
        } else {
            4500
        };
    }
    assert_eq!(most, 2, "old and new stood side by side");
    assert!(
        renewed > 100,
        "serving certificates are renewed after half a day"
    );
    assert_eq!(certificates(&bundle()), 1);
    assert_ne!(bundle(), first, "the authority was replaced");
    assert!(
        !webhook.trusted(&first, now).await,
        "the old authority is gone"
    );
}

#[tokio::test]
async fn an_authority_that_cannot_be_published_does_not_serve() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    let mut replica = rotation(&cluster);
    webhook
        .current
        .set(replica.tick(START).await.unwrap().unwrap());
    let published = cluster.bundle.lock().unwrap().clone();
    cluster.refuses.store(true, Ordering::SeqCst);
    let turn = START + 60 * DAY;
    for now in [turn, turn + 3600, turn + 7000] {
        if let Ok(Some(certified)) = replica.tick(now).await {
            webhook.current.set(certified);
        }
        // Serving certificates are still renewed, with the authority that is published.
        assert!(webhook.trusted(&published, now).await, "{}", now - turn);
    }
    cluster.refuses.store(false, Ordering::SeqCst);
    let certified = replica.tick(turn + 7200).await.unwrap().unwrap();
    webhook.current.set(certified);
    let published = cluster.bundle.lock().unwrap().clone();
    assert!(webhook.trusted(&published, turn + 7200).await);
}

#[tokio::test]
async fn of_two_replicas_that_start_together_both_use_one_authority() {
    let cluster = Cluster::default();
    let other = Authorities::default()
        .advanced(START, &lifetimes())
        .unwrap();
    *cluster.faster.lock().unwrap() = Some(other.clone());
    let webhook = Webhook::start().await;
    let certified = rotation(&cluster).tick(START).await.unwrap().unwrap();
    webhook.current.set(certified);
    assert_eq!(cluster.stored.lock().unwrap().0, other);
    assert!(webhook.trusted(&other.bundle(), START).await);
}

#[tokio::test]
async fn a_restarted_replica_goes_on_with_what_is_stored() {
    let cluster = Cluster::default();
    rotation(&cluster).tick(START).await.unwrap();
    let bundle = cluster.bundle.lock().unwrap().clone();
    rotation(&cluster).tick(START + DAY).await.unwrap();
    assert_eq!(*cluster.bundle.lock().unwrap(), bundle);
}

/// Writes a certificate as the kubelet does: a new folder, then one rename of a symlink.
fn mount(folder: &Path, version: &str, authority: &Authority) {
    let serving = authority.serve(&[NAME.to_owned()], START, &lifetimes());
    let serving = serving.unwrap();
    let data = folder.join(version);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("tls.crt"), &serving.certificate).unwrap();
    std::fs::write(data.join("tls.key"), serving.key.serialize_pem()).unwrap();
    let temporary = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &temporary).unwrap();
    std::fs::rename(&temporary, folder.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let link = folder.join(file);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), link).unwrap();
        }
    }
}

#[tokio::test]
async fn a_swapped_symlink_is_served_without_a_restart() {
    let webhook = Webhook::start().await;
    let folder = tempfile::tempdir().unwrap();
    let authorities = [START, START + 1].map(|made| {
        let authority = Authority::make(made, made, &lifetimes());
        authority.unwrap()
    });
    mount(folder.path(), "..2026_a", &authorities[0]);
    let kept = tokio::spawn(follow(
        Folder::new(folder.path().to_owned()),
        Arc::clone(&webhook.current),
    ));
    let until = async |authority: &Authority| {
        while !webhook.trusted(&authority.certificate, START).await {
            assert!(!kept.is_finished());
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, until(&authorities[0]))
        .await
        .unwrap();
    mount(folder.path(), "..2026_b", &authorities[1]);
    tokio::time::timeout(limit, until(&authorities[1]))
        .await
        .unwrap();
    kept.abort();
}

#[test]
fn a_key_of_another_certificate_is_refused_and_what_was_read_before_stays() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::make(START, START, &lifetimes()).unwrap();
    mount(folder.path(), "..a", &authority);
    let mut read = Folder::new(folder.path().to_owned());
    assert!(read.changed().unwrap().is_some());
    assert!(read.changed().unwrap().is_none(), "nothing changed");
    let other = authority
        .serve(&[NAME.to_owned()], START, &lifetimes())
        .unwrap();
    std::fs::write(
        folder.path().join("..data/tls.key"),
        other.key.serialize_pem(),
    )
    .unwrap();
    assert!(read.changed().is_err());
    std::fs::write(folder.path().join("..data/tls.crt"), other.certificate).unwrap();
    assert!(read.changed().unwrap().is_some(), "whole again");
}

#[tokio::test]
async fn an_open_review_ends_before_the_webhook_does() {
    let (webhook, cluster) = (Webhook::start().await, Cluster::default());
    webhook
        .current
        .set(rotation(&cluster).tick(START).await.unwrap().unwrap());
    let bundle = cluster.bundle.lock().unwrap().clone();
    let body = review("CREATE", "", "agent", &pod());
    let asked = webhook.ask(&bundle, START, post("/mutate", body));
    let (answer, ()) = tokio::join!(asked, async {
        tokio::task::yield_now().await;
    });
    assert_eq!(answer.unwrap().0, 200);
    webhook.stop.cancel();
    webhook.tasks.close();
    let ended = tokio::time::timeout(Duration::from_secs(10), webhook.tasks.wait());
    ended.await.unwrap();
}
