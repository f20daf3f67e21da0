//! A relay's connection to one head witness.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use writ_chain::Clock;
use writ_identity::SvidSource;
use writ_policy::ProvedHeader;
use writ_proto::relay::v1;
use writ_proto::relay::v1::witness_service_client::WitnessServiceClient;

use super::WitnessAt;
use super::hub::lock;
use super::votes::Votes;
use crate::limits::{MAX_WITNESS_BYTES, REQUEST};
use crate::{RelayError, tls, wire};

/// Shortest and longest wait before a new connection.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A witness that says nothing for this long is connected to anew.
const SILENT: Duration = Duration::from_secs(30);

/// Listens to one witness until this is dropped; counts its votes and tells that there are new ones.
pub(super) async fn listen(
    chain_id: u64,
    witness: WitnessAt,
    source: Arc<dyn SvidSource>,
    clock: Arc<dyn Clock>,
    votes: Arc<Mutex<Votes>>,
    voted: Arc<watch::Sender<u64>>,
) {
    let (shortest, longest) = RECONNECT;
    let delays = ExponentialBuilder::new()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times();
    let mut backoff = delays.build();
    loop {
        let before = *voted.borrow();
        let ended = session(chain_id, &witness, &source, clock.as_ref(), &votes, &voted).await;
        let error = match ended {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::warn!(%error, witness = witness.spiffe_id, "no witness; trying again");
        if *voted.borrow() != before {
            backoff = delays.build();
        }
        tokio::time::sleep(backoff.next().unwrap_or(longest)).await;
    }
}

async fn session(
    chain_id: u64,
    witness: &WitnessAt,
    source: &Arc<dyn SvidSource>,
    clock: &dyn Clock,
    votes: &Mutex<Votes>,
    voted: &watch::Sender<u64>,
) -> Result<Infallible, RelayError> {
    let ended = |reason: &str| RelayError::Ended {
        from: witness.address.clone(),
        reason: crate::excerpt(reason),
    };
    let channel = tls::connect(&witness.address, &witness.spiffe_id, source).await?;
    let mut client =
        WitnessServiceClient::new(channel).max_decoding_message_size(MAX_WITNESS_BYTES);
    let opened = client.watch_heads(v1::WatchHeadsRequest { chain_id });
    let opened = tokio::time::timeout(REQUEST, opened).await;
    let opened = opened.map_err(|_| ended("no answer in time"))?;
    let mut stream = opened.map_err(|e| ended(e.message()))?.into_inner();
    tracing::info!(
        witness = witness.spiffe_id,
        chain_id,
        "listening to a witness"
    );
    loop {
        let heard = tokio::time::timeout(SILENT, stream.message()).await;
        let heard = heard.map_err(|_| ended("no head for long"))?;
        let heard = heard.map_err(|e| ended(e.message()))?;
        let vote = heard.ok_or_else(|| ended("closed"))?;
        let header = ProvedHeader::from_rlp(vote.header)
            .map_err(|_| RelayError::Protocol("a header is malformed"))?;
        let signature = vote.signature.unwrap_or_default();
        let signature = wire::signature(&signature)?;
        let certificate = vote.certificate.as_ref().map(wire::chain).transpose()?;
        let counted = {
            let mut votes = lock(votes);
            if let Some(chain) = certificate {
                votes.certificate(chain);
            }
            votes.add(&witness.spiffe_id, header, signature, clock.unix_seconds())
        };
        match counted {
            Ok(()) => voted.send_modify(|n| *n += 1),
            Err(error) => {
                tracing::warn!(%error, witness = witness.spiffe_id, "a vote does not count");
            }
        }
    }
}
