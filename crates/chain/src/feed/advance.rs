//! One look at the head: agree, judge, prove everything wanted there, swap.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use alloy_sol_types::SolCall;
use writ_policy::abi::IPolicy;
use writ_policy::{CALLER, ProvedHeader, Snapshot, SnapshotBuilder, StateKey};

use super::{ChainEvent, HISTORY, HeadState, Inner, MAX_ROUNDS, lock};
use crate::ChainError;
use crate::head::{Patience, Step, agree, judge, orphaned};
use crate::metrics::count;
use crate::warm::{DryRun, of};

/// Shortest time that a relay which is behind is waited for.
const MIN_CATCH_UP: Duration = Duration::from_secs(5);

/// A head that may be taken.
struct Next {
    header: ProvedHeader,
    step: Step,
    via: Via,
}

/// By whom a head came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// A relay, with its witnesses' signatures.
    Relay,
    /// This many endpoints that agree.
    Endpoints(usize),
}

impl Inner {
    /// Takes the newest agreed head with all wanted state, or nothing of it.
    pub(super) async fn advance(&self) -> Result<(), ChainError> {
        // Asked before answered: a late answer makes the head older, not younger.
        let received = self.clock.monotonic();
        let before = self.head.load_full();
        let current = before.as_ref().map(|head| head.snapshot.header());
        let next = match self.relayed_head(current) {
            Some(next) => next,
            None => self.agreed_head(current).await?,
        };
        let Next { header, step, via } = next;
        tracing::trace!(?step, number = header.number, ?via, "head agreed");
        let now = self.clock.unix_seconds();
        let start = match (&before, step) {
            (Some(head), Step::Same) => return self.complete(head).await,
            (Some(head), _) => Some(head.snapshot.as_ref()),
            (None, _) => None,
        };
        let snapshot = self.prove_wanted(start, header.clone()).await?;
        let (snapshot, run, warm) = self.warm_up(snapshot).await?;
        let head = Arc::new(HeadState {
            snapshot: Arc::new(snapshot),
            received,
            age_when_received: now.saturating_sub(header.timestamp),
            warm,
        });
        count(&self.counters.heads);
        if via == Via::Relay {
            count(&self.counters.heads_relayed);
        }
        self.publish(Arc::clone(&head), None);
        if matches!(step, Step::Gap | Step::Reorg) {
            self.report_orphans(&header).await;
        }
        self.remember(&header);
        self.ask_for_hints(&head, run).await;
        Ok(())
    }

    /// The relay's head, if it has one that may be taken. One that is behind the current head is waited for a while:
    /// whoever reads the endpoints meanwhile would always be ahead of it.
    fn relayed_head(&self, current: Option<&ProvedHeader>) -> Option<Next> {
        let relay = self.relay.load_full()?;
        let header = relay.head()?;
        let now = self.clock.monotonic();
        let mut behind = lock(&self.behind);
        if let Some(current) = current.filter(|current| header.number < current.number) {
            let since = *behind.get_or_insert(now);
            let patience = MIN_CATCH_UP.max(self.config.poll * 3);
            if now.saturating_sub(since) < patience {
                let header = current.clone();
                let (step, via) = (Step::Same, Via::Relay);
                return Some(Next { header, step, via });
            }
        }
        *behind = None;
        drop(behind);
        let max_ahead = self.config.max_ahead.as_secs();
        match judge(current, &header, self.clock.unix_seconds(), max_ahead) {
            Ok(step) => {
                if step != Step::Same {
                    relay.record.forgive();
                }
                let via = Via::Relay;
                Some(Next { header, step, via })
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "the relay's head was refused; reading the endpoints");
                relay.refused(refusal);
                None
            }
        }
    }

    async fn agreed_head(&self, current: Option<&ProvedHeader>) -> Result<Next, ChainError> {
        let config = &self.config;
        let patience = Patience {
            grace: config.hedge * 4,
            floor: current.map_or(0, |header| header.number),
        };
        let agreed = agree(&self.endpoints, config.quorum, config.head, patience).await?;
        let now = self.clock.unix_seconds();
        let step = judge(current, &agreed.header, now, config.max_ahead.as_secs())?;
        let via = Via::Endpoints(agreed.voters.len());
        let header = agreed.header;
        Ok(Next { header, step, via })
    }

    /// Tells the relay what to have at hand at the next head.
    fn tell_wants(&self) {
        if let Some(relay) = &*self.relay.load() {
            relay.want(&lock(&self.warm).wanted(&self.config.registries));
        }
    }

    /// Adds what the warm set has come to want at a head that did not change. Its age runs on.
    async fn complete(&self, head: &Arc<HeadState>) -> Result<(), ChainError> {
        // A request may have extended it since.
        let head = self
            .head
            .load_full()
            .filter(|now| now.hash() == head.hash())
            .unwrap_or(Arc::clone(head));
        let (snapshot, run, warm) = self.warm_up(Snapshot::clone(&head.snapshot)).await?;
        if snapshot.size() != head.snapshot.size() || warm != head.warm {
            let hash = head.hash();
            let head = HeadState {
                snapshot: Arc::new(snapshot),
                warm,
                ..HeadState::clone(&head)
            };
            self.publish(Arc::new(head), Some(hash));
        }
        self.ask_for_hints(&head, run).await;
        Ok(())
    }

    /// Proves everything wanted at a new header. Slots under an unchanged storage root are kept.
    async fn prove_wanted(
        &self,
        before: Option<&Snapshot>,
        header: ProvedHeader,
    ) -> Result<Snapshot, ChainError> {
        let wanted = lock(&self.warm).wanted(&self.config.registries);
        // One that has grown too large is built anew from what is wanted.
        let before = before.filter(|snapshot| snapshot.size().1 <= self.config.max_slots);
        let mut builder = match before {
            Some(snapshot) => SnapshotBuilder::following(snapshot, header),
            None => SnapshotBuilder::new(header, self.config.chain_id),
        };
        let accounts = wanted
            .iter()
            .map(|key| StateKey::Account(of(key)))
            .collect();
        self.prove_or_forget(&mut builder, &accounts, &BTreeSet::new())
            .await?;
        let stale: BTreeSet<StateKey> = builder.stale().into_iter().collect();
        let kept = |key: &StateKey| !stale.contains(key) && before.is_some_and(|s| s.contains(key));
        let rest = wanted
            .into_iter()
            .filter(|key| !accounts.contains(key) && !kept(key))
            .collect();
        self.prove_or_forget(&mut builder, &rest, &BTreeSet::new())
            .await?;
        Ok(builder.build())
    }

    /// Dry-runs the warm set and proves what it lacks, until it lacks nothing. False if it cannot be completed.
    async fn warm_up(
        &self,
        mut snapshot: Snapshot,
    ) -> Result<(Snapshot, DryRun, bool), ChainError> {
        let registries = &self.config.registries;
        for _ in 0..MAX_ROUNDS {
            let set = lock(&self.warm).set();
            let (run, registered) = set.dry_run(&snapshot, registries)?;
            let mut missing = run.missing.clone();
            let decisive = run.missing.iter().map(of).collect();
            {
                let mut warm = lock(&self.warm);
                warm.register(registered);
                let wanted = warm.wanted(registries);
                missing.extend(wanted.into_iter().filter(|key| !snapshot.contains(key)));
                if missing.is_empty() {
                    let fits = warm.pin(run.touched.clone());
                    drop(warm);
                    self.tell_wants();
                    return Ok((snapshot, run, fits));
                }
            }
            let mut builder = SnapshotBuilder::extending(&snapshot);
            self.prove_or_forget(&mut builder, &missing, &decisive)
                .await?;
            snapshot = builder.build();
        }
        tracing::warn!("the warm set was not complete after {MAX_ROUNDS} rounds");
        Ok((snapshot, DryRun::default(), false))
    }

    /// All or nothing for what the warm set's decisions depend on, `decisive` included; anything else that cannot be
    /// proved is forgotten.
    async fn prove_or_forget(
        &self,
        builder: &mut SnapshotBuilder,
        keys: &BTreeSet<StateKey>,
        decisive: &BTreeSet<Address>,
    ) -> Result<(), ChainError> {
        if keys.is_empty() {
            return Ok(());
        }
        let prover = self.prover(self.patience());
        for (address, error) in prover.prove(builder, keys).await? {
            if decisive.contains(&address) || self.needs(address) {
                return Err(error);
            }
            tracing::warn!(%address, %error, "state outside the warm set was given up");
            lock(&self.warm).forget(address);
        }
        Ok(())
    }

    /// Ahead of need there is time: a second endpoint is troubled only when the first is really slow.
    fn patience(&self) -> Duration {
        self.config.request_timeout / 4
    }

    fn needs(&self, address: Address) -> bool {
        let registries = &self.config.registries;
        address == registries.agents
            || address == registries.policies
            || lock(&self.warm).pins(address)
    }

    async fn report_orphans(&self, header: &ProvedHeader) {
        let earlier: Vec<_> = lock(&self.history).iter().rev().copied().collect();
        let orphaned = orphaned(&self.endpoints, self.config.quorum, earlier).await;
        if orphaned.is_empty() {
            return;
        }
        count(&self.counters.reorgs);
        lock(&self.history).retain(|head| !orphaned.contains(head));
        tracing::warn!(
            number = header.number,
            orphaned = orphaned.len(),
            "the chain was reorganised"
        );
        let event = ChainEvent::Reorg {
            orphaned,
            number: header.number,
            hash: header.hash,
        };
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    fn remember(&self, header: &ProvedHeader) {
        let mut history = lock(&self.history);
        if history.len() >= HISTORY {
            history.pop_front();
        }
        history.push_back((header.number, header.hash));
    }

    /// Asks an endpoint what new policy contracts touch. What it says is proved like everything else.
    async fn ask_for_hints(&self, head: &HeadState, run: DryRun) {
        let relay = self.relay.load_full();
        if relay.is_some_and(|relay| relay.head().is_some()) {
            // Not worth a call of every sidecar: what a hint would tell is learned when it is needed.
            return;
        }
        let contracts = lock(&self.warm).unasked(run.contracts);
        if contracts.is_empty() {
            return;
        }
        let prover = self.prover(self.patience());
        let ask = async {
            for (contract, action) in contracts {
                let input = IPolicy::evaluateCall { a: action }.abi_encode().into();
                let hint = prover
                    .hint(head.snapshot.header(), CALLER, contract, input)
                    .await;
                lock(&self.warm).hint(&head.snapshot, hint.unwrap_or_default());
            }
        };
        // Worth no more than this: a slow endpoint must not hold up the next head.
        let _ = tokio::time::timeout(self.patience(), ask).await;
        self.nudge.notify_one();
    }
}
