//! The Workload API client against a real server on a Unix socket (T-054, T-057, T-197).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{AGENT, TOOL};
use rustls_pki_types::ServerName;
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use writ_dev_issuer::{Config, Issuer, serve};
use writ_identity::tls::{self, Authorize, ExpectedPeer};
use writ_identity::{IdentityError, SourceHealth, SvidSource, WorkloadApiSource};

/// Longer than any of these waits takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(20));

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn config(directory: &Path, agent: &str, ttl: u64) -> Config {
    let yaml = format!(
        "trustDomains: [{{name: demo.writ, federatesWith: [partner.writ]}}, {{name: partner.writ}}]\n\
         svidTtlSeconds: {ttl}\n\
         sockets:\n\
         - {{path: {dir}/agent.sock, workloads: [{{spiffe_id: {agent}}}]}}\n\
         - {{path: {dir}/tool.sock, workloads: [{{spiffe_id: {TOOL}}}]}}\n\
         - {{path: {dir}/both.sock, workloads: [{{spiffe_id: {AGENT}}}, {{spiffe_id: {TOOL}}}]}}\n\
         - {{path: {dir}/nobody.sock, workloads: []}}\n",
        dir = directory.display()
    );
    Config::from_yaml(&yaml).unwrap()
}

struct World {
    directory: tempfile::TempDir,
    issuer: Issuer,
}

impl World {
    async fn new(ttl: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = serve(config(directory.path(), AGENT, ttl)).await.unwrap();
        Self { directory, issuer }
    }

    fn socket(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    async fn source(&self, name: &str) -> Arc<WorkloadApiSource> {
        let builder = WorkloadApiSource::builder(&self.socket(name)).backoff(BACKOFF.0, BACKOFF.1);
        Arc::new(builder.connect().await.unwrap())
    }
}

async fn until(source: &WorkloadApiSource, met: impl Fn(&WorkloadApiSource) -> bool) {
    let mut changes = source.watch();
    let wait = async {
        while !met(source) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// For what changes without new material.
async fn until_health(source: &WorkloadApiSource, health: SourceHealth) {
    let wait = async {
        while source.health() != health {
            tokio::time::sleep(BACKOFF.0).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test]
async fn the_svid_and_the_bundles_of_federated_domains_come_over_the_socket() {
    let world = World::new(3600).await;
    let source = world.source("agent.sock").await;
    let (svid, bundles) = (source.svid(), source.bundles());
    assert_eq!(svid.spiffe_id(), AGENT);
    assert_eq!(svid.trust_domain(), "demo.writ");
    assert!(svid.is_valid_at(now()));
    assert_eq!(
        bundles.verify_chain(svid.chain(), now()).unwrap().spiffe_id,
        AGENT
    );
    let domains: Vec<_> = bundles.trust_domains().collect();
    assert_eq!(domains, ["demo.writ", "partner.writ"]);
    assert_eq!(source.health(), SourceHealth::Current);
}

#[tokio::test]
async fn a_workload_without_entry_gets_an_error_that_says_what_to_check() {
    let world = World::new(3600).await;
    let refused = WorkloadApiSource::builder(&world.socket("nobody.sock"))
        .first_svid_within(Duration::from_millis(200))
        .connect()
        .await
        .map(|_| ());
    let error = refused.unwrap_err();
    assert!(matches!(error, IdentityError::WorkloadApi(_)), "{error:?}");
    assert!(error.to_string().contains("registration entry"));
}

#[tokio::test]
async fn of_several_svids_the_configured_one_is_taken() {
    let world = World::new(3600).await;
    let socket = world.socket("both.sock");
    let source = WorkloadApiSource::builder(&socket)
        .spiffe_id(TOOL)
        .connect()
        .await;
    assert_eq!(source.unwrap().svid().spiffe_id(), TOOL);
    let invalid = WorkloadApiSource::builder(&socket)
        .spiffe_id("tool")
        .connect()
        .await;
    assert!(matches!(
        invalid,
        Err(IdentityError::InvalidSpiffeId { .. })
    ));
}

#[tokio::test]
async fn svids_rotate_by_themselves_before_they_expire() {
    let world = World::new(2).await;
    let source = world.source("agent.sock").await;
    let first = source.svid();
    until(&source, |s| s.svid().not_after() > first.not_after()).await;
    // Renewed after half of its life: the first was still valid when its successor began.
    assert!(source.svid().not_before() <= first.not_after());
}

#[tokio::test]
async fn peers_keep_connecting_while_svids_and_authority_rotate() {
    let world = World::new(3600).await;
    let agent = world.source("agent.sock").await;
    let tool = world.source("tool.sock").await;
    let client = tls::client_config(agent.clone(), ExpectedPeer::new(TOOL).unwrap()).unwrap();
    let server = tls::server_config(tool.clone(), Authorize::AnyInBundle).unwrap();
    for round in 0..6 {
        let (near, far) = duplex(64 * 1024);
        let name = ServerName::try_from("tool").unwrap();
        let (near, far) = tokio::join!(
            TlsConnector::from(client.clone()).connect(name, near),
            TlsAcceptor::from(server.clone()).accept(far),
        );
        near.unwrap();
        let shown = tls::peer_svid(far.unwrap().get_ref().1).unwrap();
        assert_eq!(shown.chain[0], agent.svid().chain()[0].as_ref());
        let held = (agent.svid(), tool.svid());
        if round == 2 {
            world.issuer.rotate_authority("demo.writ").unwrap();
        } else {
            world.issuer.rotate();
        }
        until(&agent, |s| !Arc::ptr_eq(&s.svid(), &held.0)).await;
        until(&tool, |s| !Arc::ptr_eq(&s.svid(), &held.1)).await;
    }
    assert_eq!(agent.bundles().authorities("demo.writ").count(), 2);
}

#[tokio::test]
async fn the_last_svid_stays_while_the_server_is_away_and_the_client_reconnects() {
    let World { directory, issuer } = World::new(3600).await;
    let world_socket = directory.path().join("agent.sock").display().to_string();
    let source = WorkloadApiSource::builder(&world_socket)
        .backoff(BACKOFF.0, BACKOFF.1)
        .connect()
        .await
        .unwrap();
    let first = source.svid();
    issuer.shutdown().await;
    assert!(Arc::ptr_eq(&source.svid(), &first));
    // A new issuer with a new CA, at the same place.
    let _issuer = serve(config(directory.path(), AGENT, 3600)).await.unwrap();
    until(&source, |s| !Arc::ptr_eq(&s.svid(), &first)).await;
    let svid = source.svid();
    assert_eq!(svid.spiffe_id(), AGENT);
    assert!(source.bundles().verify_chain(svid.chain(), now()).is_ok());
    assert!(source.bundles().verify_chain(first.chain(), now()).is_err());
}

#[tokio::test]
async fn another_identity_is_not_taken_while_running() {
    let World { directory, issuer } = World::new(3600).await;
    let socket = directory.path().join("agent.sock").display().to_string();
    let source = WorkloadApiSource::builder(&socket)
        .backoff(BACKOFF.0, BACKOFF.1)
        .connect()
        .await
        .unwrap();
    issuer.shutdown().await;
    let admin = "spiffe://demo.writ/ns/demo/sa/admin";
    let _issuer = serve(config(directory.path(), admin, 3600)).await.unwrap();
    until_health(&source, SourceHealth::Rejected).await;
    assert_eq!(source.svid().spiffe_id(), AGENT);
}

#[tokio::test]
async fn a_withdrawn_identity_is_reported_and_kept_until_it_expires() {
    let World { directory, issuer } = World::new(3600).await;
    let socket = directory.path().join("agent.sock").display().to_string();
    let source = WorkloadApiSource::builder(&socket)
        .backoff(BACKOFF.0, BACKOFF.1)
        .connect()
        .await
        .unwrap();
    let held = source.svid();
    issuer.shutdown().await;
    let mut empty = config(directory.path(), AGENT, 3600);
    for socket in &mut empty.sockets {
        socket.workloads.clear();
    }
    let _issuer = serve(empty).await.unwrap();
    until_health(&source, SourceHealth::Withdrawn).await;
    assert!(Arc::ptr_eq(&source.svid(), &held));
}
