//! One stream from its opening to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use writ_policy::ProvedHeader;
use writ_proto::relay::v1;
use writ_proto::relay::v1::state_service_client::StateServiceClient;
use writ_proto::relay::v1::watch_request::Message as Say;
use writ_proto::relay::v1::watch_response::Message as Said;

use super::cache::warm_set;
use super::{Enforcement, Inner, Vouched, lock};
use crate::limits::{MAX_NOTICE_ID, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_SPIFFE_ID, QUEUE};
use crate::{Notice, RelayError, Taken, tls, wire};

/// A stream on which nothing good comes for this long is given up: another relay may do better.
const SILENT: Duration = Duration::from_secs(30);

/// Connects, subscribes, and follows until something breaks.
pub(super) async fn session(
    inner: &Arc<Inner>,
    acknowledgements: &mut mpsc::Receiver<v1::Acknowledgement>,
) -> Result<Infallible, RelayError> {
    let settings = &inner.settings;
    let channel = tls::connect(&settings.address, &settings.spiffe_id, &inner.source).await?;
    let mut client = StateServiceClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE_BYTES)
        .max_encoding_message_size(MAX_REQUEST_BYTES);
    let ended = |reason: String| RelayError::Ended {
        from: settings.address.clone(),
        reason: crate::excerpt(&reason),
    };
    let (say, requests) = mpsc::channel(QUEUE);
    let mut wants = inner.wants.subscribe();
    let chain_id = settings.chain_id;
    let first = Say::Subscription(v1::Subscription { chain_id });
    let then = Say::WarmSet(warm_set(&wants.borrow_and_update()));
    for message in [first, then] {
        // There is room: nothing was said yet.
        let _ = say.try_send(request(message));
    }
    let opened = client.watch(ReceiverStream::new(requests));
    let opened = tokio::time::timeout(crate::limits::REQUEST, opened).await;
    let opened = opened.map_err(|_| ended("no answer in time".to_owned()))?;
    let mut stream = opened
        .map_err(|e| ended(e.message().to_owned()))?
        .into_inner();
    // The relay says all its notices anew.
    settings.holds.begin();
    inner.channel.store(Some(Arc::new(client)));
    inner.counters.sessions.fetch_add(1, Ordering::Relaxed);
    let mut good = Instant::now();
    loop {
        let heard = tokio::select! {
            heard = stream.message() => heard,
            () = tokio::time::sleep_until(good + SILENT) => {
                return Err(ended("no head that enough witnesses vouch for".to_owned()));
            }
            _ = wants.changed() => {
                let set = warm_set(&wants.borrow_and_update());
                let sent = say.send(request(Say::WarmSet(set))).await;
                sent.map_err(|_| ended("it takes nothing".to_owned()))?;
                continue;
            }
            Some(said) = acknowledgements.recv() => {
                let sent = say.send(request(Say::Acknowledgement(said))).await;
                sent.map_err(|_| ended("it takes nothing".to_owned()))?;
                continue;
            }
        };
        let heard = heard.map_err(|e| ended(e.message().to_owned()))?;
        let heard = heard.ok_or_else(|| ended("closed".to_owned()))?;
        match inner.take(heard) {
            Ok(Heard::Vouched) => good = Instant::now(),
            Ok(Heard::Else) => {}
            Err(RelayError::Unwitnessed(why)) => {
                inner.counters.unwitnessed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%why, relay = settings.address, "a relayed head was refused");
            }
            Err(error) => return Err(error),
        }
    }
}

fn request(message: Say) -> v1::WatchRequest {
    v1::WatchRequest {
        message: Some(message),
    }
}

/// What was heard.
enum Heard {
    /// A head that is vouched for.
    Vouched,
    /// Something else.
    Else,
}

impl Inner {
    fn take(&self, message: v1::WatchResponse) -> Result<Heard, RelayError> {
        match message.message {
            Some(Said::Certificate(certificate)) => {
                lock(&self.certificates).add(wire::chain(&certificate)?);
                Ok(Heard::Else)
            }
            Some(Said::Head(head)) => {
                let header = ProvedHeader::from_rlp(head.header)
                    .map_err(|_| RelayError::Protocol("a header is malformed"))?;
                self.vouched(&header, &head.signatures)?;
                // Only now: what nobody vouches for displaces nothing.
                let accounts = wire::accounts(&head.state.unwrap_or_default())?;
                let wants = self.wants.borrow().clone();
                lock(&self.cache).take(header.hash, accounts, &wants);
                self.counters.heads.fetch_add(1, Ordering::Relaxed);
                self.stands(header);
                Ok(Heard::Vouched)
            }
            Some(Said::Confirmation(confirmation)) => {
                let hash = wire::hash(&confirmation.block_hash)?;
                let known = lock(&self.head).as_ref().map(|head| head.header.clone());
                // One that was refused, or not sent on this connection.
                let Some(header) = known.filter(|header| header.hash == hash) else {
                    return Ok(Heard::Else);
                };
                self.vouched(&header, &confirmation.signatures)?;
                self.stands(header);
                Ok(Heard::Vouched)
            }
            Some(Said::Revocation(notice)) => {
                self.notice(notice)?;
                Ok(Heard::Else)
            }
            None => Err(RelayError::Protocol("an empty message")),
        }
    }

    fn vouched(
        &self,
        header: &ProvedHeader,
        signatures: &[v1::WitnessSignature],
    ) -> Result<(), RelayError> {
        let signatures = wire::signatures(signatures)?;
        let certificates = lock(&self.certificates);
        let now = self.clock.unix_seconds();
        let witnesses = &self.settings.witnesses;
        witnesses.vouched(
            self.settings.chain_id,
            header,
            &signatures,
            &certificates,
            now,
        )?;
        Ok(())
    }

    fn stands(&self, header: ProvedHeader) {
        let at = self.clock.monotonic();
        *lock(&self.head) = Some(Vouched { header, at });
        self.changes.send_modify(|n| *n += 1);
    }

    fn notice(&self, message: v1::RevocationNotice) -> Result<(), RelayError> {
        if message.id.len() > MAX_NOTICE_ID || message.spiffe_id.len() > MAX_SPIFFE_ID {
            return Err(RelayError::Protocol("a notice is too long"));
        }
        let agent_key = match message.agent_key.len() {
            0 => None,
            _ => Some(wire::hash(&message.agent_key)?.0),
        };
        let id = message.id.clone();
        let taken = self.settings.holds.push(Notice {
            id: message.id,
            spiffe_id: message.spiffe_id,
            agent_key,
            issued_at: message.issued_at,
        });
        match taken {
            Taken::Held | Taken::Known => self.acknowledge(&id, Enforcement::Held),
            Taken::Old | Taken::Ignored | Taken::Full => {
                tracing::info!(id, ?taken, "a revocation notice holds nothing up");
            }
        }
        self.counters.notices.fetch_add(1, Ordering::Relaxed);
        // The feed looks at once: the chain may say more than the notice.
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }
}
