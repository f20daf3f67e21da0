#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
use super::*;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

fn probes(targets: Value) -> Result<Probes, ProbesError> {
    Probes::parse(Some(&targets.to_string()), None)
}

async fn status(probes: &Probes, path: &str) -> u16 {
    probes.answer(path, None).await.0.as_u16()
}

/// An application that answers `/<status>` with that status, and keeps what it was asked.
async fn application(tls: Option<tokio_rustls::TlsAcceptor>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        let path = request.uri().path().trim_start_matches('/').to_owned();
        seen.lock().unwrap().push(format!(
            "{} {} {} {}",
            request.uri(),
            header("host"),
            header("user-agent"),
            header("x-probe")
        ));
        async move {
            let status = path.parse().unwrap_or(200u16);
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from("body"))).unwrap())
        }
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (service, tls) = (service.clone(), tls.clone());
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = match tls {
                    None => {
                        builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                    Some(tls) => {
                        let stream = tls.accept(stream).await.unwrap();
                        builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                };
            });
        }
    });
    (port, asked)
}

fn http(path: &str, port: u16, asked: &str) -> Value {
    json!({"path": path, "timeoutSeconds": 5, "httpGet": {"path": asked, "port": port}})
}

#[tokio::test]
async fn the_application_is_well_when_it_answers_200_to_399() {
    let (port, _) = application(None).await;
    let probes = probes(json!([
        http("/probe/a/startup", port, "/200"),
        http("/probe/a/liveness", port, "/302"),
        http("/probe/a/readiness", port, "/404"),
        http("/probe/b/readiness", port, "/503"),
    ]))
    .unwrap();
    assert_eq!(status(&probes, "/probe/a/startup").await, 200);
    assert_eq!(status(&probes, "/probe/a/liveness").await, 200);
    let (answer, why) = probes.answer("/probe/a/readiness", None).await;
    assert_eq!(answer, 503);
    assert_eq!(why, "the application answered 404\n");
    assert_eq!(status(&probes, "/probe/b/readiness").await, 503);
}

#[tokio::test]
async fn only_declared_paths_are_answered() {
    let (port, asked) = application(None).await;
    let probes = probes(json!([http("/probe/a/liveness", port, "/")])).unwrap();
    for path in [
        "/probe/a/readiness",
        "/probe/a/liveness/",
        "/probe/a/liveness?x",
        "/probe/",
    ] {
        assert_eq!(status(&probes, path).await, 404, "{path}");
    }
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(status(&Probes::default(), "/probe/a/liveness").await, 404);
}

#[tokio::test]
async fn the_probe_is_sent_as_the_kubelet_would() {
    let (port, asked) = application(None).await;
    let probes = probes(json!([
        http("/probe/a/liveness", port, "healthz?full=1"),
        {"path": "/probe/a/startup", "timeoutSeconds": 5, "httpGet": {"port": port,
            "httpHeaders": [{"name": "Host", "value": "app.example"}, {"name": "X-Probe", "value": "1"}]}},
    ]))
    .unwrap();
    let agent = HeaderValue::from_static("kube-probe/1.34");
    for path in ["/probe/a/liveness", "/probe/a/startup"] {
        assert_eq!(probes.answer(path, Some(&agent)).await.0, 200);
    }
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        [
            format!("/healthz?full=1 127.0.0.1:{port} kube-probe/1.34 "),
            "/ app.example kube-probe/1.34 1".to_owned()
        ]
    );
}

#[tokio::test]
async fn https_is_asked_without_verifying_as_the_kubelet_does() {
    let made = rcgen::generate_simple_self_signed(vec!["someone.else".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (port, _) = application(Some(Arc::new(config).into())).await;
    let target = |scheme: &str, path: &str| {
        json!({"path": path, "timeoutSeconds": 5,
            "httpGet": {"path": "/200", "port": port, "scheme": scheme}})
    };
    let probes = probes(json!([
        target("HTTPS", "/probe/a/liveness"),
        target("HTTP", "/probe/a/readiness")
    ]))
    .unwrap();
    assert_eq!(status(&probes, "/probe/a/liveness").await, 200);
    assert_eq!(status(&probes, "/probe/a/readiness").await, 503);
}

#[tokio::test]
async fn a_tcp_probe_is_a_connection_that_is_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target =
        json!([{"path": "/probe/a/liveness", "timeoutSeconds": 1, "tcpSocket": {"port": port}}]);
    let probes = probes(target).unwrap();
    assert_eq!(status(&probes, "/probe/a/liveness").await, 200);
    drop(listener);
    assert_eq!(status(&probes, "/probe/a/liveness").await, 503);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_in_time_is_not_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = probes(json!([http("/probe/a/liveness", port, "/")])).unwrap();
    let (answer, why) = probes.answer("/probe/a/liveness", None).await;
    assert_eq!(answer, 503);
    assert_eq!(why, "no answer within 5 s\n");
}

/// A gRPC health service: `well` serves, `ill` does not, any other service is unknown.
async fn health() -> u16 {
    use super::ask::{HealthCheckRequest, HealthCheckResponse};
    #[derive(Clone)]
    struct Check;
    impl tonic::server::UnaryService<HealthCheckRequest> for Check {
        type Response = HealthCheckResponse;
        type Future = std::future::Ready<Result<tonic::Response<Self::Response>, tonic::Status>>;
        fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
            std::future::ready(match request.into_inner().service.as_str() {
                "well" => Ok(tonic::Response::new(HealthCheckResponse { status: 1 })),
                "ill" => Ok(tonic::Response::new(HealthCheckResponse { status: 2 })),
                _ => Err(tonic::Status::not_found("unknown service")),
            })
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let codec = tonic_prost::ProstCodec::default();
                    let mut grpc = tonic::server::Grpc::new(codec);
                    let request = request.map(tonic::body::Body::new);
                    Ok::<_, Infallible>(grpc.unary(Check, request).await)
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    let port = health().await;
    let target = |kind: &str, service: &str| {
        json!({"path": format!("/probe/a/{kind}"), "timeoutSeconds": 5,
            "grpc": {"port": port, "service": service}})
    };
    let probes = probes(json!([
        target("liveness", "well"),
        target("readiness", "ill"),
        target("startup", "other")
    ]))
    .unwrap();
    assert_eq!(status(&probes, "/probe/a/liveness").await, 200);
    assert_eq!(status(&probes, "/probe/a/readiness").await, 503);
    let (answer, why) = probes.answer("/probe/a/startup", None).await;
    assert_eq!(answer, 503);
    assert!(why.contains("unknown service"), "{why}");
}

#[test]
fn any_other_declaration_is_refused() {
    let tcp = json!({"port": 80});
    for declared in [
        json!({}),
        json!([{}]),
        json!([{"path": "/healthz", "timeoutSeconds": 1, "tcpSocket": tcp}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": tcp, "grpc": tcp}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": {"port": 0}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": {"port": 65_536}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": {"port": 80, "host": "x"}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "httpGet": {"port": 80, "host": "x"}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "httpGet": {"port": 80, "scheme": "FTP"}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "httpGet": {"port": 80, "path": "/ x"}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1,
            "httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1,
            "httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "\n"}]}}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": tcp},
            {"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": tcp}]),
        json!([{"path": "/probe/a/x", "timeoutSeconds": 1, "tcpSocket": tcp, "more": 1}]),
    ] {
        assert!(probes(declared.clone()).is_err(), "{declared}");
    }
    assert!(Probes::parse(Some(&" ".repeat(MAX_BYTES + 1)), None).is_err());
    assert!(Probes::parse(Some(""), None).is_ok());
    assert!(Probes::parse(None, None).is_ok());
}

#[test]
fn what_the_webhook_declares_is_understood() {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../webhook/tests/golden/full/out.yaml"
    );
    let pod = std::fs::read_to_string(golden).unwrap();
    let pod: Value = serde_saphyr::from_str(&pod).unwrap();
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    let sidecar = containers.iter().find(|c| c["name"] == "writ-sidecar");
    let env = sidecar.unwrap()["env"].as_array().unwrap();
    let declared = env.iter().find(|v| v["name"] == "WRIT_PROBES").unwrap();
    let declared = declared["value"].as_str().unwrap();
    let probes = Probes::parse(Some(declared), Some("10.0.0.7".parse().unwrap())).unwrap();
    let mut paths: Vec<&str> = probes.targets.keys().map(String::as_str).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "/probe/agent/liveness",
            "/probe/agent/pre-stop",
            "/probe/agent/readiness",
            "/probe/agent/startup",
            "/probe/cache/startup",
            "/probe/helper/readiness"
        ]
    );
    let address = probes.targets["/probe/agent/liveness"].address;
    assert_eq!(address.to_string(), "10.0.0.7:8080");
}
