//! mTLS by SVID: who is let in, what rotation does, and the channel binding (T-002, T-054).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::{AGENT, Ca, HOUR, NOW, TOOL};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, Error, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use writ_identity::tls::{self, Authorize, ExpectedPeer};
use writ_identity::{IdentityError, StaticSource, SvidSource, TrustBundles};

#[derive(Debug)]
struct FixedClock(u64);

impl TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

fn client_at(source: &Arc<StaticSource>, peer: &str, now: u64) -> Arc<ClientConfig> {
    let peer = ExpectedPeer::new(peer).unwrap();
    tls::client_config_at(source.clone(), peer, Arc::new(FixedClock(now))).unwrap()
}

fn server_at(source: &Arc<StaticSource>, authorize: Authorize, now: u64) -> Arc<ServerConfig> {
    tls::server_config_at(source.clone(), authorize, Arc::new(FixedClock(now))).unwrap()
}

type ClientStream = client::TlsStream<DuplexStream>;
type ServerStream = server::TlsStream<DuplexStream>;

/// The server's outcome comes first: in TLS 1.3 a client is done before it is refused.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (std::io::Result<ClientStream>, std::io::Result<ServerStream>) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from("tool.demo.svc").unwrap();
    tokio::join!(
        TlsConnector::from(client).connect(name, near),
        TlsAcceptor::from(server).accept(far),
    )
}

fn reason(error: std::io::Error) -> IdentityError {
    let tls = error.into_inner().unwrap().downcast::<Error>().unwrap();
    match *tls {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<IdentityError>().unwrap().clone()
        }
        other => panic!("no identity error: {other}"),
    }
}

struct World {
    ca: Ca,
    agent: Arc<StaticSource>,
    tool: Arc<StaticSource>,
}

impl World {
    fn new() -> Self {
        let ca = Ca::new("demo");
        let (agent, tool) = (ca.source(AGENT), ca.source(TOOL));
        Self { ca, agent, tool }
    }

    async fn connect(&self) -> (ClientStream, ServerStream) {
        let server = server_at(&self.tool, Authorize::AnyInBundle, NOW);
        let (client, server) = handshake(client_at(&self.agent, TOOL, NOW), server).await;
        (client.unwrap(), server.unwrap())
    }
}

#[tokio::test]
async fn each_side_learns_the_spiffe_id_of_the_other_over_tls_13_and_h2() {
    let world = World::new();
    let (client, server) = world.connect().await;
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(tls::peer_spiffe_id(client).unwrap(), TOOL);
    assert_eq!(tls::peer_spiffe_id(server).unwrap(), AGENT);
    assert_eq!(
        server.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    let peer = tls::peer_svid(server).unwrap();
    assert_eq!(
        hex::encode(peer.svid.leaf_sha256),
        world.agent.svid().leaf_sha256_hex()
    );
    assert_eq!(peer.chain[0], world.agent.svid().chain()[0].as_ref());
}

#[tokio::test]
async fn the_channel_binding_is_equal_on_both_sides_and_new_on_every_connection() {
    let world = World::new();
    let (client, server) = world.connect().await;
    let binding = tls::channel_binding(client.get_ref().1).unwrap();
    assert_eq!(tls::channel_binding(server.get_ref().1).unwrap(), binding);
    let (other, _server) = world.connect().await;
    assert_ne!(tls::channel_binding(other.get_ref().1).unwrap(), binding);
}

#[tokio::test]
async fn a_connection_that_is_not_finished_has_no_peer_and_no_binding() {
    let world = World::new();
    let name = ServerName::try_from("tool").unwrap();
    let connection =
        rustls::ClientConnection::new(client_at(&world.agent, TOOL, NOW), name).unwrap();
    assert_eq!(
        tls::peer_spiffe_id(&connection),
        Err(IdentityError::EmptyChain)
    );
    assert!(matches!(
        tls::channel_binding(&connection),
        Err(IdentityError::ChannelBinding(_))
    ));
}

#[tokio::test]
async fn a_client_refuses_a_server_with_another_id() {
    let world = World::new();
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    let other = "spiffe://demo.writ/ns/demo/sa/other";
    let (client, _) = handshake(client_at(&world.agent, other, NOW), server).await;
    let refused = IdentityError::PeerNotAuthorized { peer: TOOL.into() };
    assert_eq!(reason(client.unwrap_err()), refused);
}

#[tokio::test]
async fn a_server_accepts_only_whom_it_names() {
    let world = World::new();
    let ids = |ids: &[&str]| Authorize::Ids(ids.iter().map(|id| (*id).to_owned()).collect());
    let domain = |name: &str| Authorize::TrustDomain(name.to_owned());
    let refused = IdentityError::PeerNotAuthorized { peer: AGENT.into() };
    for (authorize, accepted) in [
        (ids(&[AGENT]), true),
        (ids(&[TOOL]), false),
        (Authorize::Ids(BTreeSet::new()), false),
        (domain("demo.writ"), true),
        (domain("demo.writ.evil"), false),
        (domain("demo"), false),
    ] {
        let server = server_at(&world.tool, authorize.clone(), NOW);
        let (_, server) = handshake(client_at(&world.agent, TOOL, NOW), server).await;
        match server {
            Ok(_) => assert!(accepted, "{authorize:?}"),
            Err(error) => {
                assert!(!accepted, "{authorize:?}");
                assert_eq!(reason(error), refused);
            }
        }
    }
}

#[tokio::test]
async fn a_client_of_a_foreign_ca_is_refused() {
    let world = World::new();
    let foreign = Ca::new("demo");
    let agent = Arc::new(StaticSource::new(
        foreign.svid(AGENT),
        world.ca.bundles("demo.writ"),
    ));
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    let (_, server) = handshake(client_at(&agent, TOOL, NOW), server).await;
    let refused = IdentityError::UntrustedIssuer("demo.writ".into());
    assert_eq!(reason(server.unwrap_err()), refused);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let world = World::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.ca.der().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anonymous = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    let (_, server) = handshake(Arc::new(anonymous), server).await;
    assert!(server.is_err());
}

#[tokio::test]
async fn an_expired_svid_is_neither_presented_nor_accepted() {
    let world = World::new();
    let late = NOW + 2 * HOUR;
    // The server's clock stands still, so it does present what has expired for the client.
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    let (client, _) = handshake(client_at(&world.agent, TOOL, late), server).await;
    let error = client.unwrap_err().into_inner().unwrap();
    let error = error.downcast::<Error>().unwrap();
    assert_eq!(*error, Error::InvalidCertificate(CertificateError::Expired));
    let server = server_at(&world.tool, Authorize::AnyInBundle, late);
    let (_, server) = handshake(client_at(&world.agent, TOOL, NOW), server).await;
    assert!(server.is_err());
}

#[tokio::test]
async fn tls_12_is_refused() {
    let world = World::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    assert!(handshake(Arc::new(old), server).await.1.is_err());
}

async fn echo(client: &mut ClientStream, server: &mut ServerStream) {
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut read = [0; 4];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn an_open_connection_survives_rotation_and_the_next_shows_the_new_svid() {
    let world = World::new();
    let client = client_at(&world.agent, TOOL, NOW);
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    let (near, far) = handshake(client.clone(), server.clone()).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    echo(&mut near, &mut far).await;

    let before = world.agent.svid();
    world
        .agent
        .replace(world.ca.svid(AGENT), world.ca.bundles("demo.writ"));
    world
        .tool
        .replace(world.ca.svid(TOOL), world.ca.bundles("demo.writ"));
    echo(&mut near, &mut far).await;

    let (_near, far) = handshake(client, server).await;
    let shown = tls::peer_svid(far.unwrap().get_ref().1).unwrap().chain;
    assert_ne!(shown[0], before.chain()[0].as_ref());
    assert_eq!(shown[0], world.agent.svid().chain()[0].as_ref());
}

#[tokio::test]
async fn a_withdrawn_bundle_refuses_the_next_connection() {
    let world = World::new();
    let client = client_at(&world.agent, TOOL, NOW);
    let server = server_at(&world.tool, Authorize::AnyInBundle, NOW);
    assert!(handshake(client.clone(), server.clone()).await.1.is_ok());
    let replacement = Ca::new("demo");
    world
        .tool
        .replace(world.ca.svid(TOOL), replacement.bundles("demo.writ"));
    // No session is resumed past the check.
    let refused = IdentityError::UntrustedIssuer("demo.writ".into());
    assert_eq!(
        reason(handshake(client, server).await.1.unwrap_err()),
        refused
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_svids_and_authority_rotate() {
    let World {
        mut ca,
        agent,
        tool,
    } = World::new();
    let client = client_at(&agent, TOOL, NOW);
    let server = server_at(&tool, Authorize::AnyInBundle, NOW);
    let (done, finished) = watch::channel(());
    let (count, mut counted) = watch::channel(0_u32);
    let handshakes: Vec<_> = (0..4)
        .map(|_| {
            let (client, server) = (client.clone(), server.clone());
            let (count, finished) = (count.clone(), finished.clone());
            tokio::spawn(async move {
                while finished.has_changed().is_ok() {
                    let (near, far) = handshake(client.clone(), server.clone()).await;
                    near.unwrap();
                    far.unwrap();
                    count.send_modify(|count| *count += 1);
                }
            })
        })
        .collect();
    let mut trusted: Vec<CertificateDer<'static>> = vec![ca.der().into()];
    for _ in 0..20 {
        // As SPIRE does: everyone trusts the next authority before anyone shows its SVIDs.
        let next = Ca::new("demo");
        trusted.push(next.der().into());
        let mut bundles = TrustBundles::new();
        bundles.insert("demo.writ", trusted.clone()).unwrap();
        for issuer in [&ca, &next] {
            for (source, id) in [(&agent, AGENT), (&tool, TOOL)] {
                source.replace(issuer.svid(id), bundles.clone());
            }
        }
        ca = next;
        counted.changed().await.unwrap();
    }
    drop(done);
    for task in handshakes {
        task.await.unwrap();
    }
}
