//! One chain at a relay: its newest head, what sidecars want of its state, and the notices in force.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes as Node, U256};
use futures::StreamExt;
use futures::stream;
use moka::future::Cache;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use writ_chain::{AccountClaims, ChainError, Reader};
use writ_policy::{AccountProof, ProvedHeader, StorageProof};

use super::votes::Agreed;
use super::wants::Wants;
use crate::wire::Wanted;
use crate::{Enforcement, Notice, RelayError, Signature};

/// Accounts read at one time for a new head.
const READS: usize = 8;
/// How long slots are read for a new head before it is passed on. What is left is read for the next: sidecars that wait
/// for a head longer than a few seconds read the endpoints.
const READ_FOR: Duration = Duration::from_millis(1500);
/// Reads of state that nobody said they want, at one time.
const COLD_READS: usize = 64;
/// Heads at which state may be asked for.
const RECENT: usize = 8;
/// Bytes of answers kept for others who ask the same, and how long.
const COLD_BYTES: u64 = 32 << 20;
const COLD_TIME: Duration = Duration::from_secs(30);
/// Bytes of contract code kept.
const CODE_BYTES: u64 = 16 << 20;

/// An account as it was read for the newest head.
#[derive(Debug)]
pub(super) struct Held {
    pub account: AccountProof,
    /// Under the account's storage root.
    pub slots: HashMap<U256, Arc<StorageProof>>,
}

/// The newest head.
#[derive(Debug, Clone)]
pub(super) struct HubHead {
    pub header: ProvedHeader,
    pub signatures: Vec<Signature>,
    pub signed_at: u64,
    /// Certificates behind the signatures, by leaf.
    pub chains: Arc<BTreeMap<[u8; 32], Vec<Vec<u8>>>>,
    pub accounts: Arc<HashMap<Address, Held>>,
}

/// How many sidecars enforce a notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Sidecars that refuse the agent, by notice or by proved state.
    pub enforcing: usize,
    /// Sidecars connected.
    pub connected: usize,
}

type Asked = (B256, Address, Vec<U256>);
type Notices = BTreeMap<String, Notice>;

/// One chain.
pub(super) struct Hub {
    pub chain_id: u64,
    reader: Reader,
    pub heads: watch::Sender<Option<Arc<HubHead>>>,
    pub notices: watch::Sender<Arc<Notices>>,
    /// Changes with every acknowledgement, and with every sidecar that comes or goes.
    pub enforcement: watch::Sender<u64>,
    wants: Mutex<Wants>,
    recent: Mutex<VecDeque<ProvedHeader>>,
    subscribers: Mutex<HashMap<u64, HashMap<String, Enforcement>>>,
    next: AtomicU64,
    cold: Cache<Asked, Arc<AccountClaims>>,
    codes: Cache<B256, Node>,
    turns: Semaphore,
    pub reads: AtomicU64,
    pub slow: AtomicU64,
}

impl Hub {
    pub fn new(chain_id: u64, reader: Reader) -> Self {
        let bytes = |claims: &AccountClaims| {
            let nodes = |proof: &[Node]| proof.iter().map(|n| n.len() + 32).sum::<usize>();
            let slots = claims.slots.iter().map(|(_, s)| 96 + nodes(&s.proof));
            256 + nodes(&claims.account.proof) + slots.sum::<usize>()
        };
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            chain_id,
            reader,
            heads: watch::Sender::new(None),
            notices: watch::Sender::default(),
            enforcement: watch::Sender::new(0),
            wants: Mutex::default(),
            recent: Mutex::default(),
            subscribers: Mutex::default(),
            next: AtomicU64::new(0),
            cold: Cache::builder()
                .weigher(move |_: &Asked, claims: &Arc<AccountClaims>| size(bytes(claims)))
                .max_capacity(COLD_BYTES)
                .time_to_live(COLD_TIME)
                .build(),
            codes: Cache::builder()
                .weigher(move |_: &B256, code: &Node| size(code.len() + 64))
                .max_capacity(CODE_BYTES)
                .build(),
            turns: Semaphore::new(COLD_READS),
            reads: AtomicU64::new(0),
            slow: AtomicU64::new(0),
        }
    }

    /// Takes what the witnesses agree on: another head with its state, or new signatures under the one that is known.
    pub async fn take(&self, agreed: Agreed, chains: BTreeMap<[u8; 32], Vec<Vec<u8>>>) {
        let before = self.heads.borrow().clone();
        let Agreed {
            header,
            signatures,
            signed_at,
        } = agreed;
        let accounts = match &before {
            Some(head) if head.header.hash == header.hash => {
                // Not for every witness's signature anew, only when enough of them are newer.
                if signed_at <= head.signed_at {
                    return;
                }
                Arc::clone(&head.accounts)
            }
            _ => Arc::new(self.read(&header, before.as_deref()).await),
        };
        self.remember(&header);
        self.heads.send_replace(Some(Arc::new(HubHead {
            header,
            signatures,
            signed_at,
            chains: Arc::new(chains),
            accounts,
        })));
    }

    fn remember(&self, header: &ProvedHeader) {
        let mut recent = lock(&self.recent);
        recent.retain(|known| known.hash != header.hash);
        recent.push_front(header.clone());
        recent.truncate(RECENT);
    }

    /// Reads what is wanted at a new head: every account, and slots where the storage root changed. What cannot be read
    /// is left out; sidecars ask for it then.
    async fn read(
        &self,
        header: &ProvedHeader,
        before: Option<&HubHead>,
    ) -> HashMap<Address, Held> {
        let merged = lock(&self.wants).merged();
        let until = Instant::now() + READ_FOR;
        stream::iter(merged)
            .map(|(address, slots)| async move {
                let held = before.and_then(|head| head.accounts.get(&address));
                let read = self.read_account(header, address, slots, held, until);
                match read.await {
                    Ok(held) => Some((address, held)),
                    Err(error) => {
                        tracing::warn!(%address, %error, "state was not read for a new head");
                        None
                    }
                }
            })
            .buffer_unordered(READS)
            .filter_map(futures::future::ready)
            .collect()
            .await
    }

    async fn read_account(
        &self,
        header: &ProvedHeader,
        address: Address,
        wanted: Vec<U256>,
        before: Option<&Held>,
        until: Instant,
    ) -> Result<Held, ChainError> {
        self.count_read();
        let claims = self.reader.account(header, address, &[]).await?;
        let root = claims.account.storage_hash;
        let before = before.filter(|held| held.account.storage_hash == root);
        let mut slots: HashMap<U256, Arc<StorageProof>> = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for slot in wanted {
            match before.and_then(|held| held.slots.get(&slot)) {
                Some(known) => drop(slots.insert(slot, Arc::clone(known))),
                None => missing.push(slot),
            }
        }
        // Nodes near the root are part of every proof: they are kept once.
        let mut nodes: HashSet<Node> = HashSet::new();
        for chunk in missing.chunks(Reader::MAX_SLOTS) {
            if Instant::now() > until {
                break;
            }
            self.count_read();
            let read = self.reader.account(header, address, chunk).await?;
            for (slot, mut claim) in read.slots {
                for node in &mut claim.proof {
                    match nodes.get(node) {
                        Some(known) => *node = known.clone(),
                        None => drop(nodes.insert(node.clone())),
                    }
                }
                slots.insert(slot, Arc::new(claim));
            }
        }
        Ok(Held {
            account: claims.account,
            slots,
        })
    }

    /// An account and these slots at a recent head, from memory if it is there.
    pub async fn cold(
        &self,
        block: B256,
        address: Address,
        slots: Vec<U256>,
    ) -> Result<Arc<AccountClaims>, tonic::Status> {
        let header = self.recent(block)?;
        if let Some(claims) = self.known_at_head(block, address, &slots) {
            return Ok(Arc::new(claims));
        }
        let asked = (block, address, slots.clone());
        let read = async {
            // Never closed.
            let _turn = self.turns.acquire().await.ok();
            self.count_read();
            self.reader
                .account(&header, address, &slots)
                .await
                .map(Arc::new)
        };
        let read = self.cold.try_get_with(asked, read).await;
        read.map_err(|error| tonic::Status::unavailable(error.to_string()))
    }

    /// The code with this hash, from memory if it is there.
    pub async fn code(
        &self,
        block: B256,
        address: Address,
        code_hash: B256,
    ) -> Result<Node, tonic::Status> {
        let header = self.recent(block)?;
        let read = async {
            let _turn = self.turns.acquire().await.ok();
            self.count_read();
            self.reader.code(&header, address, code_hash).await
        };
        let read = self.codes.try_get_with(code_hash, read).await;
        read.map_err(|error: Arc<ChainError>| tonic::Status::unavailable(error.to_string()))
    }

    fn recent(&self, block: B256) -> Result<ProvedHeader, tonic::Status> {
        let recent = lock(&self.recent);
        let found = recent.iter().find(|header| header.hash == block).cloned();
        found.ok_or_else(|| tonic::Status::not_found("not one of the newest heads"))
    }

    fn known_at_head(
        &self,
        block: B256,
        address: Address,
        slots: &[U256],
    ) -> Option<AccountClaims> {
        let head = self.heads.borrow().clone()?;
        let held = head.accounts.get(&address)?;
        if head.header.hash != block {
            return None;
        }
        let slot = |slot: &U256| Some((*slot, StorageProof::clone(held.slots.get(slot)?)));
        Some(AccountClaims {
            account: held.account.clone(),
            slots: slots.iter().map(slot).collect::<Option<_>>()?,
        })
    }

    /// Takes one sidecar's new warm set for its old one.
    pub fn want(&self, old: &Wanted, new: &Wanted) -> Result<(), RelayError> {
        lock(&self.wants).replace(old, new)
    }

    /// Accounts and slots that are read at every head.
    pub fn wanted(&self) -> (usize, usize) {
        lock(&self.wants).size()
    }

    /// A sidecar came.
    pub fn enter(&self) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.subscribers).insert(id, HashMap::new());
        self.enforcement.send_modify(|n| *n += 1);
        id
    }

    /// A sidecar went.
    pub fn leave(&self, id: u64, wanted: &Wanted) {
        lock(&self.subscribers).remove(&id);
        // Taking away cannot exceed a bound.
        let _ = self.want(wanted, &Wanted::new());
        self.enforcement.send_modify(|n| *n += 1);
    }

    /// A sidecar says what it does about a notice in force.
    pub fn acknowledge(&self, id: u64, notice: String, enforcement: Enforcement) {
        if !self.notices.borrow().contains_key(&notice) {
            return;
        }
        if let Some(said) = lock(&self.subscribers).get_mut(&id) {
            said.insert(notice, enforcement);
        }
        self.enforcement.send_modify(|n| *n += 1);
    }

    /// Puts notices in force in place of those before. Sidecars get those that they have not got.
    pub fn set_notices(&self, notices: Notices) {
        for said in lock(&self.subscribers).values_mut() {
            said.retain(|id, _| notices.contains_key(id));
        }
        self.notices.send_replace(Arc::new(notices));
    }

    /// How many sidecars enforce a notice.
    pub fn enforced(&self, notice: &str) -> Enforced {
        let subscribers = lock(&self.subscribers);
        let enforces = |said: &&HashMap<String, Enforcement>| {
            matches!(
                said.get(notice),
                Some(Enforcement::Held | Enforcement::Proved)
            )
        };
        Enforced {
            enforcing: subscribers.values().filter(enforces).count(),
            connected: subscribers.len(),
        }
    }

    fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// A poisoned lock guards plain data that is valid after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
