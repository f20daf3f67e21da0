//! Endpoints behind TLS: the configured roots decide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/evaluation.rs"]
mod evaluation;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/liar.rs"]
mod liar;

use std::sync::Arc;

use feed::{Net, allowed, event};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Url;
use writ_chain::{
    ChainConfig, ChainError, ChainEvent, EndpointErrorKind as Kind, StateFeed, SystemClock, WarmSet,
};
use writ_policy::{Address, Registries};

/// TLS for `localhost` in front of a plain endpoint, and the root that it stands under.
async fn terminate(plain: Option<Url>) -> (Url, RootCertStore) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let url = Url::parse(&format!(
        "https://localhost:{}/",
        listener.local_addr().unwrap().port()
    ))
    .unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let mut tls = acceptor.accept(stream).await.ok()?;
                let mut upstream = TcpStream::connect(plain?.socket_addrs(|| None).ok()?[0])
                    .await
                    .ok()?;
                tokio::io::copy_bidirectional(&mut tls, &mut upstream)
                    .await
                    .ok()
            });
        }
    });
    (url, roots)
}

#[tokio::test]
async fn an_endpoint_under_an_unknown_root_is_not_read() {
    let (url, _) = terminate(None).await;
    let registries = Registries {
        chain_id: 1,
        agents: Address::ZERO,
        policies: Address::ZERO,
    };
    let config = ChainConfig::new(vec![url], registries);
    let feed = StateFeed::start(config, Arc::new(SystemClock::new()), WarmSet::default())
        .await
        .unwrap();
    let mut events = feed.events();
    event(&mut events, |e| {
        matches!(e, ChainEvent::Failed(ChainError::NoQuorum { .. })).then_some(())
    })
    .await;
    assert!(feed.current().is_none());
    assert!(feed.metrics().endpoints[0].errors_of(Kind::Connect) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_under_a_configured_root_is_read() {
    let net = Net::start(1).await;
    let (url, roots) = terminate(Some(net.liars[0].url())).await;
    let config = ChainConfig {
        endpoints: vec![url],
        roots: Some(Arc::new(roots)),
        ..net.config()
    };
    let feed = net.feed_with(config).await;
    feed.ready().await;
    assert!(allowed(&feed).await);
}
