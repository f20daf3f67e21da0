//! An endpoint that lies by script: a proxy on loopback in front of a real node.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use url::Url;

/// One request as the proxy saw it, with the node's honest answer.
pub struct Call {
    pub method: String,
    pub params: Value,
    pub answer: Value,
}

/// What the proxy answers.
pub enum Reply {
    /// The node's answer, or what the script made of it.
    Json(Value),
    /// Any bytes.
    Raw(Vec<u8>),
    /// A status and a location.
    Status(u16, Option<String>),
    /// A body that never ends.
    Endless,
    /// Nothing, ever.
    Never,
    /// The connection is closed.
    Hangup,
}

type Script = Box<dyn FnMut(Call) -> Reply + Send>;

struct Shared {
    upstream: Url,
    script: Mutex<Script>,
    seen: Mutex<Vec<(String, Value)>>,
    client: Client<HttpConnector, Full<Bytes>>,
    quiet: Arc<RwLock<()>>,
}

pub struct Liar {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Liar {
    /// Starts honest. `quiet` is held while the node is asked.
    pub async fn start(upstream: &Url, quiet: Arc<RwLock<()>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            script: Mutex::new(Box::new(|call| Reply::Json(call.answer))),
            seen: Mutex::new(Vec::new()),
            client: Client::builder(TokioExecutor::new()).build_http(),
            quiet,
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
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

    pub fn url(&self) -> Url {
        Url::parse(&format!("http://{}/secret-key", self.address)).unwrap()
    }

    /// From now on every answer goes through this.
    pub fn lie(&self, script: impl FnMut(Call) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Lies about one method only.
    pub fn lie_about(
        &self,
        method: &'static str,
        mut lie: impl FnMut(Value) -> Value + Send + 'static,
    ) {
        self.lie(move |call| {
            Reply::Json(if call.method == method {
                lie(call.answer)
            } else {
                call.answer
            })
        });
    }

    pub fn be_honest(&self) {
        self.lie(|call| Reply::Json(call.answer));
    }

    /// Answers nothing any more, as if the node were unreachable.
    pub fn go_down(&self) {
        self.lie(|_| Reply::Hangup);
    }

    /// Forgets what it has seen, and answers it.
    pub fn take_seen(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let other = |e: &dyn std::fmt::Display| std::io::Error::other(e.to_string());
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|e| other(&e))?
        .to_bytes();
    let asked: Value = serde_json::from_slice(&body).map_err(|e| other(&e))?;
    let forward = Request::post(shared.upstream.as_str())
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|e| other(&e))?;
    let quiet = shared.quiet.read().await;
    let honest = shared
        .client
        .request(forward)
        .await
        .map_err(|e| other(&e))?;
    let honest = honest
        .into_body()
        .collect()
        .await
        .map_err(|e| other(&e))?
        .to_bytes();
    drop(quiet);
    let method = asked["method"].as_str().unwrap_or_default().to_owned();
    let params = asked["params"].clone();
    shared
        .seen
        .lock()
        .unwrap()
        .push((method.clone(), params.clone()));
    let answer: Value = serde_json::from_slice(&honest).map_err(|e| other(&e))?;
    let reply = (shared.script.lock().unwrap())(Call {
        method,
        params,
        answer,
    });
    let full = |bytes: Vec<u8>| Full::new(Bytes::from(bytes)).boxed();
    match reply {
        Reply::Json(value) => Ok(Response::new(full(value.to_string().into_bytes()))),
        Reply::Raw(bytes) => Ok(Response::new(full(bytes))),
        Reply::Status(status, location) => {
            let mut response = Response::builder().status(status);
            if let Some(location) = location {
                response = response.header("location", location);
            }
            response.body(full(Vec::new())).map_err(|e| other(&e))
        }
        Reply::Endless => {
            let chunks = futures::stream::repeat_with(|| {
                Ok(Frame::data(Bytes::from(vec![b' '; 16 * 1024])))
            });
            Ok(Response::new(BodyExt::boxed(StreamBody::new(chunks))))
        }
        Reply::Never => std::future::pending().await,
        Reply::Hangup => Err(std::io::Error::other("hung up by script")),
    }
}
