//! A node, witnesses, a relay and sidecars' feeds, all over real TLS on loopback.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use writ_chain::{ChainConfig, Relay, StateFeed, WarmSet};
use writ_identity::tls::Authorize;
use writ_identity::{CurrentBundles, SvidSource};
use writ_relay::{
    ChainSettings, ClientSettings, Holds, RelayClient, RelayServer, ServerSettings, Witness,
    WitnessAt, WitnessSettings, Witnesses,
};

use crate::feed::{Net, warm};
use crate::identity::{Ca, DOMAIN, id};
use crate::liar::Liar;

pub const RELAY: &str = "ns/writ-system/sa/writ-relay";
/// Witnesses in all, and how many must agree.
pub const WITNESSES: usize = 3;
pub const NEEDED: usize = 2;
/// How old a signature may be, in seconds of the test's clock.
pub const SKEW: u64 = 10;
/// How long a head counts without being confirmed.
pub const GRACE: Duration = Duration::from_secs(3);
pub const HOLD: Duration = Duration::from_secs(60);

/// Endpoints of the sidecars; those of the witnesses and the relay's follow.
pub const OWN: usize = 3;

pub struct Cluster {
    pub net: Net,
    pub ca: Ca,
    pub witnesses: Vec<Witness>,
    pub relay: Option<RelayServer>,
    pub address: SocketAddr,
}

pub fn witness(n: usize) -> String {
    format!("ns/writ-system/sa/writ-witness-{n}")
}

pub struct Sidecar {
    pub feed: Arc<StateFeed>,
    pub client: Arc<RelayClient>,
    pub holds: Arc<Holds>,
}

impl Cluster {
    pub async fn start() -> Self {
        // With WRIT_LOG a failing test tells more; another test may have been first.
        let filter = tracing_subscriber::EnvFilter::from_env("WRIT_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
        let net = Net::start(OWN + WITNESSES + 1).await;
        let ca = Ca::new();
        let mut witnesses = Vec::new();
        for n in 0..WITNESSES {
            let settings = WitnessSettings {
                chain: config(&net, &net.liars[OWN + n]),
                listen: "127.0.0.1:0".parse().unwrap(),
                relays: BTreeSet::from([id(RELAY)]),
            };
            let source = ca.source(&witness(n));
            let started = Witness::start(settings, source, net.clock.clone()).await;
            witnesses.push(started.unwrap());
        }
        let mut cluster = Self {
            net,
            ca,
            witnesses,
            relay: None,
            address: "127.0.0.1:0".parse().unwrap(),
        };
        cluster.start_relay().await;
        cluster
    }

    /// Starts the relay at the address of before.
    pub async fn start_relay(&mut self) {
        let at = |(n, one): (usize, &Witness)| WitnessAt {
            spiffe_id: id(&witness(n)),
            address: one.address().to_string(),
        };
        let settings = ServerSettings {
            listen: self.address,
            chains: vec![ChainSettings {
                chain: config(&self.net, &self.net.liars[OWN + WITNESSES]),
                witnesses: self.witnesses.iter().enumerate().map(at).collect(),
                needed: NEEDED,
                skew: SKEW,
            }],
            authorize: Authorize::TrustDomain(DOMAIN.to_owned()),
            max_connections: 64,
            max_streams_per_id: 32,
            reports: None,
        };
        let source = self.ca.source(RELAY);
        let relay = RelayServer::start(settings, source, self.net.clock.clone());
        let relay = relay.await.unwrap();
        self.address = relay.address();
        self.relay = Some(relay);
    }

    pub fn relay(&self) -> &RelayServer {
        self.relay.as_ref().unwrap()
    }

    pub fn chain_id(&self) -> u64 {
        self.net.chain.registries.chain_id
    }

    /// The sidecars' own endpoints.
    pub fn own(&self) -> &[Liar] {
        &self.net.liars[..OWN]
    }

    /// The relay's endpoint for proofs.
    pub fn relays_endpoint(&self) -> &Liar {
        &self.net.liars[OWN + WITNESSES]
    }

    /// As a sidecar is configured.
    pub fn config(&self) -> ChainConfig {
        let config = self.net.config();
        let endpoints: Vec<_> = self.own().iter().map(Liar::url).collect();
        ChainConfig {
            quorum: endpoints.len() / 2 + 1,
            endpoints,
            ..config
        }
    }

    pub fn witnesses_for(&self, source: &Arc<dyn SvidSource>) -> Witnesses {
        let ids: Vec<String> = (0..WITNESSES).map(|n| id(&witness(n))).collect();
        let bundles = Arc::new(CurrentBundles::new(Arc::clone(source)));
        Witnesses::new(&ids, NEEDED, SKEW, bundles).unwrap()
    }

    /// A sidecar that follows the relay.
    pub async fn sidecar(&self) -> Sidecar {
        self.sidecar_at(self.address).await
    }

    /// A sidecar that takes whatever is at this address for the relay.
    pub async fn sidecar_at(&self, address: SocketAddr) -> Sidecar {
        self.sidecar_with(address, warm()).await
    }

    /// A sidecar with this warm set.
    pub async fn sidecar_with(&self, address: SocketAddr, warm: WarmSet) -> Sidecar {
        let source = self.ca.source("ns/shop/sa/buyer");
        let holds = Arc::new(Holds::new(HOLD, self.net.clock.clone()));
        let settings = ClientSettings {
            chain_id: self.chain_id(),
            address: address.to_string(),
            spiffe_id: id(RELAY),
            witnesses: self.witnesses_for(&source),
            grace: GRACE,
            holds: Arc::clone(&holds),
        };
        let client = RelayClient::start(settings, source, self.net.clock.clone());
        let relay = Arc::clone(&client) as Arc<dyn Relay>;
        let started =
            StateFeed::start_with(self.config(), self.net.clock.clone(), warm, Some(relay));
        Sidecar {
            feed: started.await.unwrap(),
            client,
            holds,
        }
    }
}

/// As whoever reads this endpoint only is configured.
pub fn config(net: &Net, endpoint: &Liar) -> ChainConfig {
    let config = net.config();
    ChainConfig {
        endpoints: vec![endpoint.url()],
        quorum: 1,
        ..config
    }
}
