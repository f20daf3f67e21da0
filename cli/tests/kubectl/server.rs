//! An API server that answers from a list of objects, over HTTP on loopback.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the server starts with.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    objects: Vec<Value>,
    /// Such as `list pods`: refused with 403.
    forbid: Vec<String>,
    /// Plural names of kinds that are not there.
    absent: Vec<String>,
    /// Objects that take the place of those of the same path, one at each reading of it.
    script: Vec<Value>,
    /// Seconds that the server's clock is ahead.
    ahead: i64,
    /// What a sidecar answers to /readyz: status and text.
    readyz: Option<(u16, String)>,
    minor: Option<String>,
    /// Whether our definitions are installed.
    #[serde(default)]
    no_crds: bool,
}

impl Setup {
    /// Reads YAML. `{{now}}`, `{{ca}}` and `{{expired-ca}}` stand for a time and for caBundles.
    pub fn read(text: &str) -> Self {
        // Ahead, so that a slow machine's lease is no old one.
        let now = SystemTime::now() + Duration::from_secs(3600);
        let now = humantime::format_rfc3339_micros(now).to_string();
        let text = text
            .replace("{{now}}", &now)
            .replace("{{ca}}", &ca(2100))
            .replace("{{expired-ca}}", &ca(2020));
        if text.trim().is_empty() {
            return Self::default();
        }
        serde_saphyr::from_str(&text).unwrap()
    }
}

fn ca(year: i32) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    base64(pem.as_bytes())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..three.len()].copy_from_slice(three);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for at in 0..4 {
            let digit = (word >> (18 - 6 * at)) & 63;
            text.push(if at > three.len() {
                '='
            } else {
                char::from(DIGITS[digit as usize])
            });
        }
    }
    text
}

struct State {
    setup: Setup,
    objects: BTreeMap<String, Value>,
    script: BTreeMap<String, VecDeque<Value>>,
    changes: String,
}

/// A server that ends with the process.
pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

/// `agentpolicies` of `AgentPolicy`.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(start) => format!("{start}ies"),
        None => format!("{kind}s"),
    }
}

fn path(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = plural(object["kind"].as_str().unwrap());
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{root}/{version}/{plural}/{name}"),
    }
}

fn crds() -> Vec<Value> {
    let all = writ_api::crds().into_iter().map(|(_, crd)| {
        let mut crd = serde_json::to_value(crd).unwrap();
        crd["apiVersion"] = json!("apiextensions.k8s.io/v1");
        crd["kind"] = json!("CustomResourceDefinition");
        crd["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        crd
    });
    all.collect()
}

impl Server {
    pub fn start(setup: Setup) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let mut objects: BTreeMap<String, Value> =
            setup.objects.iter().map(|o| (path(o), o.clone())).collect();
        if !setup.no_crds {
            objects.extend(crds().into_iter().map(|crd| (path(&crd), crd)));
        }
        let mut script: BTreeMap<String, VecDeque<Value>> = BTreeMap::new();
        for object in &setup.script {
            script
                .entry(path(object))
                .or_default()
                .push_back(object.clone());
        }
        let state = Arc::new(Mutex::new(State {
            setup,
            objects,
            script,
            changes: String::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, shared));
        });
        Self { address, state }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Seconds that its clock is ahead.
    pub fn ahead(&self) -> i64 {
        self.state.lock().unwrap().setup.ahead
    }

    /// Requests that changed something, in order.
    pub fn changes(&self) -> String {
        self.state.lock().unwrap().changes.clone()
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(request, &state).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut state = state.lock().unwrap();
    let (code, text) = state.answer(&head.method, head.uri.path(), &body);
    let clock = SystemTime::now();
    let ahead = Duration::from_secs(state.setup.ahead.unsigned_abs());
    let date = if state.setup.ahead < 0 {
        clock - ahead
    } else {
        clock + ahead
    };
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .header("date", http_date(date))
        .body(Full::new(Bytes::from(text)))
        .unwrap()
}

fn http_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let time = k8s_openapi::jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn failed(code: u16, reason: &str, message: &str) -> (u16, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message, "details": {}});
    (code, status.to_string())
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, String) {
        if path == "/version" {
            let minor = self.setup.minor.as_deref().unwrap_or("34");
            return (200, json!({"major": "1", "minor": minor}).to_string());
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let start = if parts[0] == "api" { 2 } else { 3 };
        let rest = &parts[start..];
        // `namespaces/shop` is the namespace itself, `namespaces/shop/pods` what is in it.
        let (kind, name, namespaced) = match rest {
            ["namespaces", _, kind, rest @ ..] => (*kind, rest.first(), true),
            [kind, rest @ ..] => (*kind, rest.first(), false),
            [] => return failed(404, "NotFound", "no such path"),
        };
        if path.ends_with("/proxy/readyz") {
            if self.setup.forbid.iter().any(|f| f == "get pods/proxy") {
                return failed(
                    403,
                    "Forbidden",
                    "pods is forbidden: cannot get resource pods/proxy",
                );
            }
            return self
                .setup
                .readyz
                .clone()
                .unwrap_or((200, "ready\n".to_owned()));
        }
        let verb = match (method.as_str(), name) {
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            other => panic!("{other:?} is not expected"),
        };
        if self.setup.absent.iter().any(|absent| absent == kind) {
            return (404, "404 page not found\n".to_owned());
        }
        if self
            .setup
            .forbid
            .iter()
            .any(|f| *f == format!("{verb} {kind}"))
        {
            return failed(
                403,
                "Forbidden",
                &format!("{kind} is forbidden: User \"u\" cannot {verb} resource \"{kind}\""),
            );
        }
        if verb != "get" && verb != "list" {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            self.changes.push_str(&format!("{method} {path} {body}\n"));
            return self.change(verb, path, body);
        }
        if verb == "get" {
            if let Some(next) = self.script.get_mut(path).and_then(VecDeque::pop_front) {
                self.objects.insert(path.to_owned(), next);
            }
            return match self.objects.get(path) {
                Some(object) => (200, object.to_string()),
                None => failed(
                    404,
                    "NotFound",
                    &format!("{kind} \"{}\" not found", name.unwrap()),
                ),
            };
        }
        let prefix = format!("/{}/", parts[..start].join("/"));
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(at, _)| at.starts_with(&prefix))
            .filter(|(at, _)| {
                let at: Vec<&str> = at.split('/').collect();
                at[at.len() - 2] == kind && (!namespaced || at[at.len() - 3] == rest[1])
            })
            .map(|(_, object)| object.clone())
            .collect();
        let api_version = parts[1..start].join("/");
        let list = json!({"kind": "List", "apiVersion": api_version, "metadata": {"resourceVersion": "1"}, "items": items});
        (200, list.to_string())
    }

    fn change(&mut self, verb: &str, path: &str, body: Value) -> (u16, String) {
        match verb {
            "create" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return failed(409, "AlreadyExists", "already exists");
                }
                self.objects.insert(path, body.clone());
                (201, body.to_string())
            }
            "patch" => {
                let there = self
                    .objects
                    .entry(path.to_owned())
                    .or_insert_with(|| body.clone());
                merge(there, &body);
                (200, there.to_string())
            }
            _ => match self.objects.remove(path) {
                Some(gone) => (200, gone.to_string()),
                None => failed(404, "NotFound", "not found"),
            },
        }
    }
}

fn merge(there: &mut Value, patch: &Value) {
    if let (Value::Object(there), Value::Object(patch)) = (&mut *there, patch) {
        for (name, value) in patch {
            match there.get_mut(name) {
                Some(old) => merge(old, value),
                None => drop(there.insert(name.clone(), value.clone())),
            }
        }
    } else {
        *there = patch.clone();
    }
}
