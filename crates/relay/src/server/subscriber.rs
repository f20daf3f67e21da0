//! One sidecar's stream at a relay.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use writ_proto::relay::v1;
use writ_proto::relay::v1::watch_request::Message as Said;
use writ_proto::relay::v1::watch_response::Message as Say;

use super::hub::{Hub, HubHead};
use crate::limits::{MAX_NOTICE_ID, SLOTS_BYTES, SLOW, STATE_BYTES};
use crate::wire::{self, StateWriter, Wanted};
use crate::{Enforcement, Notice};

/// Shortest time between two messages that are taken from one sidecar.
const BETWEEN: Duration = Duration::from_millis(5);

/// Bytes of a slot in a message, its proof aside.
const SLOT_BYTES: usize = 70;

type Out = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// A sidecar. When it is dropped, the hub forgets it.
pub(super) struct Subscriber {
    hub: Arc<Hub>,
    id: u64,
    out: Out,
    wanted: Wanted,
    /// Slots that are wanted and were not sent under the account's present storage root.
    pending: HashMap<Address, HashSet<U256>>,
    roots: HashMap<Address, B256>,
    leaves: BTreeSet<[u8; 32]>,
    /// Notices that were sent, and whether with the agent's key.
    notices: BTreeMap<String, bool>,
    head: Option<B256>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.hub.leave(self.id, &self.wanted);
    }
}

/// The stream is over: the sidecar went, or was dropped.
struct Over;

impl Subscriber {
    pub fn new(hub: Arc<Hub>, out: Out) -> Self {
        let id = hub.enter();
        Self {
            hub,
            id,
            out,
            wanted: Wanted::new(),
            pending: HashMap::new(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            notices: BTreeMap::new(),
            head: None,
        }
    }

    /// Follows until the stream is over.
    pub async fn run(mut self, mut heard: Streaming<v1::WatchRequest>) {
        let hub = Arc::clone(&self.hub);
        let mut heads = hub.heads.subscribe();
        let mut notices = hub.notices.subscribe();
        heads.mark_changed();
        notices.mark_changed();
        let mut next = Instant::now();
        loop {
            let done = tokio::select! {
                biased;
                () = self.out.closed() => Err(Over),
                _ = notices.changed() => {
                    let notices = Arc::clone(&notices.borrow_and_update());
                    self.notices.retain(|id, _| notices.contains_key(id));
                    self.notices(notices.values()).await
                }
                _ = heads.changed() => {
                    let head = heads.borrow_and_update().clone();
                    match head {
                        Some(head) => self.head(&head).await,
                        None => Ok(()),
                    }
                }
                message = async {
                    tokio::time::sleep_until(next).await;
                    heard.message().await
                } => {
                    next = Instant::now() + BETWEEN;
                    self.hear(message).await
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn hear(
        &mut self,
        message: Result<Option<v1::WatchRequest>, Status>,
    ) -> Result<(), Over> {
        let message = match message {
            Ok(Some(message)) => message.message,
            Ok(None) | Err(_) => return Err(Over),
        };
        match message {
            Some(Said::WarmSet(set)) => {
                let taken = wire::wanted(&set).and_then(|wanted| {
                    self.hub.want(&self.wanted, &wanted)?;
                    Ok(wanted)
                });
                match taken {
                    Ok(wanted) => {
                        self.want(wanted);
                        Ok(())
                    }
                    Err(error) => self.refuse(error.into()).await,
                }
            }
            Some(Said::Acknowledgement(said)) if said.notice_id.len() <= MAX_NOTICE_ID => {
                let enforcement = said.enforcement();
                if enforcement != Enforcement::Unspecified {
                    self.hub.acknowledge(self.id, said.notice_id, enforcement);
                }
                Ok(())
            }
            Some(_) | None => {
                let status = Status::invalid_argument("a message out of place");
                self.refuse(status).await
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        for (address, slots) in &wanted {
            let known = self.wanted.get(address);
            let new = slots
                .iter()
                .filter(|slot| known.is_none_or(|known| known.binary_search(slot).is_err()));
            self.pending.entry(*address).or_default().extend(new);
        }
        self.pending.retain(|address, slots| {
            let wanted = wanted.get(address);
            slots.retain(|slot| wanted.is_some_and(|w| w.binary_search(slot).is_ok()));
            wanted.is_some()
        });
        self.roots.retain(|address, _| wanted.contains_key(address));
        self.wanted = wanted;
    }

    async fn head(&mut self, head: &HubHead) -> Result<(), Over> {
        for signature in &head.signatures {
            if let Some(chain) = head.chains.get(&signature.leaf)
                && self.leaves.insert(signature.leaf)
            {
                self.say(Say::Certificate(wire::from_chain(chain))).await?;
            }
        }
        self.leaves.retain(|leaf| head.chains.contains_key(leaf));
        let signatures = head.signatures.iter().map(wire::from_signature).collect();
        let hash = head.header.hash;
        if self.head == Some(hash) {
            let block_hash = wire::from_hash(&hash);
            let confirmation = v1::Confirmation {
                block_hash,
                signatures,
            };
            return self.say(Say::Confirmation(confirmation)).await;
        }
        let state = Some(self.state(head));
        let header = head.header.rlp().0.clone();
        self.head = Some(hash);
        let head = v1::Head {
            header,
            signatures,
            state,
        };
        self.say(Say::Head(head)).await
    }

    /// Every wanted account, with the slots that were not sent under its storage root.
    fn state(&mut self, head: &HubHead) -> v1::State {
        let mut writer = StateWriter::default();
        for (address, slots) in &self.wanted {
            let Some(held) = head.accounts.get(address) else {
                continue;
            };
            if writer.bytes() > STATE_BYTES {
                break;
            }
            let pending = self.pending.entry(*address).or_default();
            let root = held.account.storage_hash;
            if self.roots.insert(*address, root) != Some(root) {
                pending.extend(slots);
            }
            let mut room = SLOTS_BYTES.saturating_sub(writer.bytes());
            let mut sent: Vec<U256> = Vec::new();
            for slot in pending.iter() {
                let Some(claim) = held.slots.get(slot) else {
                    continue;
                };
                if room == 0 {
                    break;
                }
                let nodes: usize = claim.proof.iter().map(|node| node.len()).sum();
                room = room.saturating_sub(SLOT_BYTES + nodes);
                sent.push(*slot);
            }
            for slot in &sent {
                pending.remove(slot);
            }
            if pending.is_empty() {
                // Thousands of these would keep room for what they had once.
                *pending = HashSet::new();
            }
            let claims = sent
                .iter()
                .filter_map(|slot| Some((slot, held.slots.get(slot)?.as_ref())));
            writer.account(*address, &held.account, claims);
        }
        writer.finish()
    }

    async fn notices<'a>(&mut self, notices: impl Iterator<Item = &'a Notice>) -> Result<(), Over> {
        for notice in notices {
            let key = notice.agent_key.as_ref();
            let before = self.notices.insert(notice.id.clone(), key.is_some());
            // The key may be known only after the first word of it.
            if before.is_some_and(|with_key| with_key || key.is_none()) {
                continue;
            }
            self.say(Say::Revocation(v1::RevocationNotice {
                id: notice.id.clone(),
                spiffe_id: notice.spiffe_id.clone(),
                agent_key: key.map_or_else(Bytes::new, |key| Bytes::copy_from_slice(key)),
                issued_at: notice.issued_at,
            }))
            .await?;
        }
        Ok(())
    }

    /// One that takes nothing for long is dropped rather than waited for; heads that come meanwhile it does not get.
    async fn say(&self, message: Say) -> Result<(), Over> {
        let message = v1::WatchResponse {
            message: Some(message),
        };
        match tokio::time::timeout(SLOW, self.out.send(Ok(message))).await {
            Ok(sent) => sent.map_err(|_| Over),
            Err(_) => {
                self.hub.slow.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a sidecar that takes nothing was dropped");
                Err(Over)
            }
        }
    }

    async fn refuse(&self, status: Status) -> Result<(), Over> {
        tracing::warn!(reason = status.message(), "a sidecar's stream was ended");
        let _ = tokio::time::timeout(SLOW, self.out.send(Err(status))).await;
        Err(Over)
    }
}
