//! The watch on AgentPolicies, against an API server of the test's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;
use writ_webhook::Code;
use writ_webhook::choice::{Choice, Static};
use writ_webhook::policies::Policies;
use writ_webhook::settings::Trust;

type Chunks = UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;

/// An API server: what it answers to lists, and what its watches tell.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    list: (u16, Value),
    watches: Vec<UnboundedSender<Result<Frame<Bytes>, Infallible>>>,
}

impl Server {
    fn new(list: (u16, Value)) -> Self {
        let watches = Vec::new();
        Self(Arc::new(Mutex::new(State { list, watches })))
    }

    fn lists(&self, list: (u16, Value)) {
        self.0.lock().unwrap().list = list;
    }

    fn answer(&self, request: &Request<Body>) -> Response<StreamBody<Chunks>> {
        assert_eq!(
            request.uri().path(),
            "/apis/writ.dev/v1alpha1/agentpolicies"
        );
        let (sender, chunks) = unbounded();
        let mut state = self.0.lock().unwrap();
        let query = request.uri().query().unwrap_or_default();
        let mut status = 200;
        if query.contains("watch=true") {
            state.watches.push(sender);
        } else {
            status = state.list.0;
            let body = state.list.1.to_string();
            sender.unbounded_send(Ok(Frame::data(body.into()))).unwrap();
        }
        let response = Response::builder().status(status);
        response.body(StreamBody::new(chunks)).unwrap()
    }

    /// Tells the watches that are open; there must be one.
    async fn tell(&self, kind: &str, object: Value) {
        until("a watch is open", || {
            !self.0.lock().unwrap().watches.is_empty()
        })
        .await;
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        for watch in &self.0.lock().unwrap().watches {
            let _ = watch.unbounded_send(Ok(Frame::data(line.clone().into())));
        }
    }

    /// Ends the watches that are open.
    fn hang_up(&self) {
        self.0.lock().unwrap().watches.clear();
    }

    /// Policies by this server, kept until the test ends.
    fn watched(&self, fallback: Option<Static>) -> Arc<Policies> {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let response = server.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let (policies, keep) = Policies::watch(Client::new(service, "default"), fallback);
        tokio::spawn(keep);
        Arc::new(policies)
    }
}

/// Time is the test's, so that waiting for a retry takes none.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(600);
    while !holds() {
        assert!(tokio::time::Instant::now() < limit, "not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn policy(name: &str, namespace: &str, version: &str) -> Value {
    json!({"apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"selector": {"matchLabels": {"app": "buyer"}}}})
}

fn list(items: &[Value]) -> (u16, Value) {
    let body = json!({"apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicyList",
        "metadata": {"resourceVersion": "10"}, "items": items});
    (200, body)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure",
        "message": "no", "reason": reason, "code": code});
    (code, body)
}

fn fixed() -> Option<Static> {
    let first = "writ-sidecar".to_owned();
    Some(Static::new(first, vec![], vec![], Trust::Bundle))
}

fn config(policies: &Policies, namespace: &str) -> Result<String, Code> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"labels": {"app": "buyer"}},
        "spec": {"containers": [], "serviceAccountName": "agent"},
    }))
    .unwrap();
    match policies.choose(namespace, &pod) {
        Ok(chosen) => Ok(chosen.config),
        Err(refusals) => Err(refusals.iter().next().unwrap().code),
    }
}

fn named(config: &str) -> Result<String, Code> {
    Ok(config.to_owned())
}

#[tokio::test(start_paused = true)]
async fn before_the_policies_are_listed_every_pod_is_refused_whatever_else_is_configured() {
    let server = Server::new(failure(403, "Forbidden"));
    let policies = server.watched(fixed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(policies.ready().is_err());
    assert_eq!(config(&policies, "shop"), Err(Code::PoliciesUnknown));
    server.lists(list(&[policy("buyers", "shop", "1")]));
    until("listed", || policies.ready().is_ok()).await;
    assert_eq!(config(&policies, "shop"), named("writ-buyers-agent"));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_appears_later_takes_the_pods_that_were_refused_until_then() {
    let server = Server::new(list(&[]));
    let policies = server.watched(None);
    until("listed", || policies.ready().is_ok()).await;
    assert_eq!(config(&policies, "shop"), Err(Code::NoPolicy));
    server.tell("ADDED", policy("buyers", "shop", "11")).await;
    until("chosen", || {
        config(&policies, "shop") == named("writ-buyers-agent")
    })
    .await;
    assert_eq!(config(&policies, "elsewhere"), Err(Code::NoPolicy));
    server.tell("DELETED", policy("buyers", "shop", "12")).await;
    until("refused again", || {
        config(&policies, "shop") == Err(Code::NoPolicy)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_static_configuration_holds_in_namespaces_without_policies_alone() {
    let server = Server::new(list(&[policy("buyers", "shop", "1")]));
    let policies = server.watched(fixed());
    until("listed", || policies.ready().is_ok()).await;
    assert_eq!(config(&policies, "shop"), named("writ-buyers-agent"));
    assert_eq!(config(&policies, "elsewhere"), named("writ-sidecar"));
}

#[tokio::test(start_paused = true)]
async fn in_a_cluster_without_the_kind_only_a_static_configuration_admits() {
    let server = Server::new(failure(404, "NotFound"));
    let (with, without) = (server.watched(fixed()), server.watched(None));
    until("known to be absent", || with.ready().is_ok()).await;
    assert_eq!(config(&with, "shop"), named("writ-sidecar"));
    assert!(without.ready().is_err());
    assert_eq!(config(&without, "shop"), Err(Code::PoliciesUnknown));
    server.lists(list(&[policy("buyers", "shop", "1")]));
    until("installed since", || {
        config(&with, "shop") == named("writ-buyers-agent")
    })
    .await;
    until("the other too", || {
        config(&without, "shop") == named("writ-buyers-agent")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn policies_stay_in_force_while_the_api_server_does_not_know_them_any_more() {
    let server = Server::new(list(&[policy("buyers", "shop", "1")]));
    let policies = server.watched(fixed());
    until("listed", || policies.ready().is_ok()).await;
    server.lists(failure(404, "NotFound"));
    let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old"});
    server.tell("ERROR", gone).await;
    server.hang_up();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(config(&policies, "shop"), named("writ-buyers-agent"));
    server.lists(list(&[policy("others", "shop", "20")]));
    until("listed anew", || {
        config(&policies, "shop") == named("writ-others-agent")
    })
    .await;
}
