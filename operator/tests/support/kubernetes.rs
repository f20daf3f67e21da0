//! A Kubernetes API for the operator's own kinds: lists, watches, and keeps what is patched.

#![allow(dead_code, reason = "not everybody uses all of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// What these kinds are called.
const KINDS: [(&str, &str); 3] = [
    ("chains", "Chain"),
    ("agentrevocations", "AgentRevocation"),
    ("agentpolicies", "AgentPolicy"),
];

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    patches: Vec<(String, String, Value)>,
    /// ConfigMaps, by path.
    maps: BTreeMap<String, Value>,
    /// Answers to writes of ConfigMaps that fail, with this code, before one is let through.
    failures: Vec<u16>,
}

struct Shared {
    state: Mutex<State>,
    /// Kind and event.
    events: broadcast::Sender<(String, Value)>,
}

pub struct Kubernetes {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubernetes {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version: 1,
                objects: BTreeMap::new(),
                patches: Vec::new(),
                maps: BTreeMap::new(),
                failures: Vec::new(),
            }),
            events: broadcast::Sender::new(64),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// Makes or replaces an object, and tells those who watch.
    pub fn put(&self, kind: &str, mut object: Value) {
        let mut state = self.shared.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let before = state
            .objects
            .insert((kind.to_owned(), name), object.clone());
        let event = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let event = json!({"type": event, "object": object});
        // Nobody may be watching yet.
        let _ = self.shared.events.send((kind.to_owned(), event));
    }

    /// A ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        self.shared.state.lock().unwrap().maps.get(&path).cloned()
    }

    /// Lets the next writes of ConfigMaps fail.
    pub fn fail(&self, codes: &[u16]) {
        self.shared.state.lock().unwrap().failures = codes.to_vec();
    }

    /// Query and body of every patch of this path.
    pub fn patches(&self, path: &str) -> Vec<(String, Value)> {
        let state = self.shared.state.lock().unwrap();
        let of = state.patches.iter().filter(|(at, ..)| at.ends_with(path));
        of.map(|(_, query, body)| (query.clone(), body.clone()))
            .collect()
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let full = |value: Value| Full::new(Bytes::from(value.to_string())).boxed_unsync();
    if path.contains("/configmaps") {
        let object: Value = serde_json::from_slice(&body).unwrap();
        let mut state = shared.state.lock().unwrap();
        let (code, answer) = config_map(&mut state, &head.method, &path, &query, object);
        let response = Response::builder().status(code).body(full(answer));
        return Ok(response.unwrap());
    }
    if head.method == Method::PATCH {
        let object: Value = serde_json::from_slice(&body).unwrap();
        let mut state = shared.state.lock().unwrap();
        state.patches.push((path, query, object.clone()));
        let mut whole = object;
        whole["spec"] = json!({"spiffeId": "spiffe://relay.test/a", "reason": "patched"});
        return Ok(Response::new(full(whole)));
    }
    let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
    let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == plural) else {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
        let response = Response::builder().status(404).body(full(status));
        return Ok(response.unwrap());
    };
    let state = shared.state.lock().unwrap();
    if query.contains("watch=true") || query.contains("watch=1") {
        // What changed since the list, then what changes from now on.
        let since = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="));
        let since: u64 = since.unwrap_or("0").parse().unwrap_or_default();
        let version = |object: &Value| -> u64 {
            object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        };
        let missed: Vec<Value> = state
            .objects
            .iter()
            .filter(|((kind, _), object)| *kind == plural && version(object) > since)
            .map(|(_, object)| json!({"type": "MODIFIED", "object": object}))
            .collect();
        let events = shared.events.subscribe();
        let later = futures::stream::unfold(events, |mut events| async {
            Some((events.recv().await.ok()?, events))
        });
        let later = later.filter_map(move |(kind, event)| {
            futures::future::ready((kind == plural).then_some(event))
        });
        let lines = futures::stream::iter(missed).chain(later);
        let frames = lines.map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        return Ok(Response::new(StreamBody::new(frames).boxed_unsync()));
    }
    let items: Vec<Value> = state
        .objects
        .iter()
        .filter(|((kind, _), _)| *kind == plural)
        .map(|(_, object)| object.clone())
        .collect();
    Ok(Response::new(full(json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": state.version.to_string()}, "items": items,
    }))))
}

/// Creates, reads by a patch that changes nothing, and applies, with versions as the real one has them.
fn config_map(
    state: &mut State,
    method: &Method,
    path: &str,
    query: &str,
    mut object: Value,
) -> (u16, Value) {
    let failed = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": reason});
        (code, status)
    };
    let path = match *method {
        Method::POST => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
        _ => path.to_owned(),
    };
    let there = state.maps.get(&path).cloned();
    let applies = query.contains("force=true");
    match (&there, method) {
        (None, &Method::PATCH) => return failed(404, "NotFound"),
        (Some(_), &Method::POST) => return failed(409, "AlreadyExists"),
        (Some(there), &Method::PATCH) if !applies => {
            assert_eq!(object, json!({}), "a patch that changes nothing");
            return (200, there.clone());
        }
        _ => {}
    }
    assert!(query.contains("fieldManager=writ-relay"), "{query}");
    if !state.failures.is_empty() {
        let code = state.failures.remove(0);
        return failed(code, "Failed");
    }
    if let Some(there) = there
        && there["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"]
    {
        return failed(409, "Conflict");
    }
    state.version += 1;
    object["metadata"]["resourceVersion"] = json!(state.version.to_string());
    state.maps.insert(path, object.clone());
    (200, object)
}
