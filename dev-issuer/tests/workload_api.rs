//! The server as an unmodified SPIFFE client sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use spiffe::{TrustDomain, WorkloadApiClient, WorkloadApiError};
use tokio_stream::StreamExt;
use writ_dev_issuer::{Config, Issuer, IssuerError, serve};

const AGENT: &str = "spiffe://demo.writ/ns/demo/sa/agent";

/// Two sockets: one knows this process by its uid, one knows only another uid.
fn config(directory: &Path) -> Config {
    let own = nix::unistd::geteuid().as_raw();
    let dir = directory.display();
    let yaml = format!(
        "trustDomains: [{{name: demo.writ, federatesWith: [partner.writ]}}, {{name: partner.writ}}]\n\
         sockets:\n\
         - path: {dir}/known.sock\n\
         \x20 workloads: [{{uid: {own}, spiffe_id: {AGENT}}}]\n\
         - path: {dir}/other.sock\n\
         \x20 workloads: [{{uid: {other}, spiffe_id: {AGENT}}}]\n",
        other = own + 1,
    );
    Config::from_yaml(&yaml).unwrap()
}

async fn serving() -> (tempfile::TempDir, Issuer) {
    let directory = tempfile::tempdir().unwrap();
    let issuer = serve(config(directory.path())).await.unwrap();
    (directory, issuer)
}

async fn client(directory: &Path, socket: &str) -> WorkloadApiClient {
    let endpoint = format!("unix://{}", directory.join(socket).display());
    WorkloadApiClient::connect_to(endpoint).await.unwrap()
}

#[tokio::test]
async fn a_caller_gets_the_identity_of_its_uid_and_the_bundles() {
    let (directory, _issuer) = serving().await;
    let client = client(directory.path(), "known.sock").await;
    let svid = client.fetch_x509_svid().await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), AGENT);
    let bundles = client.fetch_x509_bundles().await.unwrap();
    for name in ["demo.writ", "partner.writ"] {
        let bundle = bundles.get(&TrustDomain::new(name).unwrap()).unwrap();
        assert_eq!(bundle.authorities().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_uid_gets_permission_denied() {
    let (directory, _issuer) = serving().await;
    let client = client(directory.path(), "other.sock").await;
    let refused = client.fetch_x509_svid().await.unwrap_err();
    assert!(
        matches!(
            refused,
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)
        ),
        "{refused:?}"
    );
    assert!(client.fetch_x509_bundles().await.is_err());
}

#[tokio::test]
async fn a_request_without_the_security_header_is_refused() {
    let (directory, _issuer) = serving().await;
    let path = directory.path().join("known.sock");
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower_connector(path))
        .await
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path =
        tonic::codegen::http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = grpc
        .server_streaming(tonic::Request::new(()), path, codec)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("security header missing"));
}

fn tower_connector(
    path: std::path::PathBuf,
) -> impl tonic::codegen::Service<
    tonic::transport::Uri,
    Response = hyper_util::rt::TokioIo<tokio::net::UnixStream>,
    Error = std::io::Error,
    Future = impl Send,
> + Send
+ 'static {
    tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    })
}

#[tokio::test]
async fn a_rotated_authority_joins_the_bundle_and_signs_from_then_on() {
    let (directory, issuer) = serving().await;
    let client = client(directory.path(), "known.sock").await;
    let mut contexts = client.stream_x509_contexts().await.unwrap();
    let first = contexts.next().await.unwrap().unwrap();
    issuer.rotate_authority("demo.writ").unwrap();
    let second = contexts.next().await.unwrap().unwrap();
    assert_ne!(first.default_svid(), second.default_svid());
    let domain = TrustDomain::new("demo.writ").unwrap();
    let authorities = second.bundle_set().get(&domain).unwrap();
    assert_eq!(authorities.authorities().len(), 2);
    assert!(issuer.rotate_authority("unknown.writ").is_err());
}

#[tokio::test]
async fn the_socket_is_open_to_all_and_not_taken_from_a_running_server() {
    let (directory, issuer) = serving().await;
    let path = directory.path().join("known.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let second = serve(config(directory.path())).await;
    assert!(matches!(second, Err(IssuerError::Socket { .. })));
    issuer.shutdown().await;
    // What the first left behind is replaced.
    assert!(serve(config(directory.path())).await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("known.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(serve(config(directory.path())).await.is_err());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
}

#[test]
fn a_configuration_that_does_not_fit_together_is_refused() {
    let domains = "trustDomains: [{name: demo.writ}]\n";
    let socket = |entry: &str| format!("{domains}sockets: [{{path: /s, workloads: [{entry}]}}]\n");
    assert!(Config::from_yaml(&socket("{uid: 1, spiffe_id: 'spiffe://demo.writ/a'}")).is_ok());
    for yaml in [
        socket("{uid: 1, spiffe_id: 'spiffe://other.writ/a'}"),
        socket("{uid: 1, spiffe_id: 'spiffe://demo.writ'}"),
        socket("{uid: 1, spiffe_id: agent}"),
        socket("{uid: -1, spiffe_id: 'spiffe://demo.writ/a'}"),
        socket("{user: 1, spiffe_id: 'spiffe://demo.writ/a'}"),
        format!("{domains}sockets: []\n"),
        format!("svidTtlSeconds: 1\n{}", socket("")),
        format!("svidTtlSeconds: 86401\n{}", socket("")),
        "trustDomains: [{name: UPPER}]\nsockets: [{path: /s, workloads: []}]\n".to_owned(),
        "trustDomains: [{name: a, federatesWith: [b]}]\nsockets: [{path: /s, workloads: []}]\n"
            .to_owned(),
        "trustDomains: [{name: a}, {name: a}]\nsockets: [{path: /s, workloads: []}]\n".to_owned(),
        format!("{domains}sockets: [{{path: /s, workloads: []}}, {{path: /s, workloads: []}}]\n"),
    ] {
        assert!(
            matches!(Config::from_yaml(&yaml), Err(IssuerError::Config(_))),
            "{yaml}"
        );
    }
}
