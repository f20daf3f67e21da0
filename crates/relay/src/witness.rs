//! A head witness: reads heads from an endpoint of its own, signs each with its SVID, and signs the newest again and again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};
use writ_chain::{ChainConfig, Clock, Reader};
use writ_identity::tls::Authorize;
use writ_identity::{EnvelopeKeys, KeyKind, SvidSource};
use writ_proto::relay::v1;
use writ_proto::relay::v1::witness_service_server::{WitnessService, WitnessServiceServer};

use crate::limits::{KEEP_ALIVE, KEEP_ALIVE_TIMEOUT};
use crate::{RelayError, statement, tls, wire};

/// Relays connected at one time: each has a stream for each chain.
const RELAYS: usize = 64;

/// What a witness looks at, and who may listen.
#[derive(Debug, Clone)]
pub struct WitnessSettings {
    /// The chain, and the endpoint. Give each witness another one.
    pub chain: ChainConfig,
    /// Where it listens.
    pub listen: SocketAddr,
    /// SPIFFE IDs of the relays.
    pub relays: BTreeSet<String>,
}

/// A running witness. Dropping it ends it.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    heads: watch::Receiver<Option<Arc<Vote>>>,
    tasks: JoinSet<()>,
    _closing: DropGuard,
}

/// A head as this witness signed it.
#[derive(Debug)]
struct Vote {
    number: u64,
    signed_at: u64,
    message: v1::WatchHeadsResponse,
}

impl Witness {
    /// Starts to read, to sign and to serve.
    ///
    /// # Errors
    /// Settings that cannot work, or a port in use.
    pub async fn start(
        settings: WitnessSettings,
        source: Arc<dyn SvidSource>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RelayError> {
        let reader = Reader::new(&settings.chain)?;
        let authorize = Authorize::Ids(settings.relays.clone());
        let closing = CancellationToken::new();
        let listening = tls::listen(settings.listen, &source, authorize, RELAYS, &closing);
        let (address, incoming) = listening.await?;
        let (sender, heads) = watch::channel(None);
        let chain_id = settings.chain.chain_id;
        let service = Service {
            chain_id,
            heads: heads.clone(),
        };
        let mut tasks = JoinSet::new();
        let keys = EnvelopeKeys::new(source, KeyKind::Svid);
        let poll = settings.chain.poll;
        tasks.spawn(follow(reader, keys, clock, chain_id, poll, sender));
        tasks.spawn(async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
                .max_concurrent_streams(16)
                .add_service(WitnessServiceServer::new(service).max_decoding_message_size(1024))
                .serve_with_incoming(incoming)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the witness's port ended");
            }
        });
        Ok(Self {
            address,
            heads,
            tasks,
            _closing: closing.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Height of the head that was signed last, and when (unix seconds).
    pub fn signed(&self) -> Option<(u64, u64)> {
        let vote = self.heads.borrow();
        vote.as_ref().map(|vote| (vote.number, vote.signed_at))
    }

    /// Waits until a part of it ends, which none should.
    pub async fn ended(&mut self) {
        let _ = self.tasks.join_next().await;
    }
}

async fn follow(
    reader: Reader,
    keys: EnvelopeKeys,
    clock: Arc<dyn Clock>,
    chain_id: u64,
    poll: Duration,
    heads: watch::Sender<Option<Arc<Vote>>>,
) {
    let mut ticks = tokio::time::interval(poll);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let header = match reader.head(0).await {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "no head to sign");
                continue;
            }
        };
        let now = clock.unix_seconds();
        let known = heads.borrow().clone();
        // Once a second is enough for a head that is known.
        let same = |vote: &Vote| vote.message.header == header.rlp().0 && vote.signed_at == now;
        if known.as_deref().is_some_and(same) {
            continue;
        }
        match statement::sign(&keys, chain_id, &header, now) {
            Ok((signature, chain)) => {
                tracing::debug!(number = header.number, hash = %header.hash, "signed");
                let message = v1::WatchHeadsResponse {
                    header: header.rlp().0.clone(),
                    signature: Some(wire::from_signature(&signature)),
                    certificate: Some(wire::from_chain(&chain)),
                };
                heads.send_replace(Some(Arc::new(Vote {
                    number: header.number,
                    signed_at: now,
                    message,
                })));
            }
            Err(error) => tracing::error!(%error, "the head was not signed"),
        }
    }
}

struct Service {
    chain_id: u64,
    heads: watch::Receiver<Option<Arc<Vote>>>,
}

type Heads = Pin<Box<dyn Stream<Item = Result<v1::WatchHeadsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl WitnessService for Service {
    type WatchHeadsStream = Heads;

    async fn watch_heads(
        &self,
        request: Request<v1::WatchHeadsRequest>,
    ) -> Result<Response<Heads>, Status> {
        let relay = tls::peer(&request)?;
        let asked = request.get_ref().chain_id;
        if asked != self.chain_id {
            return Err(Status::not_found(format!(
                "chain {asked} is not watched here, {} is",
                self.chain_id
            )));
        }
        tracing::info!(relay = &*relay, "a relay listens");
        let mut leaf = bytes::Bytes::new();
        let heads = WatchStream::new(self.heads.clone()).filter_map(move |vote| {
            let mut message = vote?.message.clone();
            let signed_by = message.signature.as_ref().map(|s| s.leaf.clone());
            // A certificate goes before the first signature that needs it.
            if signed_by.as_ref() == Some(&leaf) {
                message.certificate = None;
            }
            leaf = signed_by.unwrap_or_default();
            Some(Ok(message))
        });
        Ok(Response::new(Box::pin(heads)))
    }
}
