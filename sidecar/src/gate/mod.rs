//! The gate that every action passes: decided by the policy contract on proved state, signed,
//! and durable in the record before a byte of it leaves.
//!
//! Order (design, sections 2 and 7): decide, connect, reserve a place, sign, append, release.
//! Nothing here waits for the chain but a slot never seen before, for a bounded time.

mod action;
pub mod claims;
mod custom;
mod denied;
mod denying;
mod granted;
mod opaque;
pub mod warm;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use ring::rand::SecureRandom;
use tracing::Instrument;
use writ_canonical::BodyBinding;
use writ_chain::clock::Clock;
use writ_chain::{Age, HeadState, StateFeed};
use writ_identity::{EnvelopeKeys, SvidSource};
use writ_ledger::{BudgetKey, Hold, Log, Names};
use writ_policy::{Action, Decision, Effect, EvalError, Registries};
use writ_sae::{Jti, LogRef, Settlement, StateAge};

use crate::metrics::{Metrics, Stage};
use crate::parents::{Lineage, OpenRequests};
use crate::traces::stage;
use claims::{Actor, Asked, Circumstances};
use denying::Denying;

pub use custom::{Custom, HandedOver};
pub use denied::Denied;
pub use granted::{Granted, Released, Sent};
pub use opaque::Tunnel;

/// How long a decision may wait for slots never seen before (design, section 5).
const COLD_WAIT: Duration = Duration::from_millis(250);

/// Who this agent is, as its configuration says.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Salt of the agent key.
    pub salt: [u8; 16],
    /// Salt of the names in the policy.
    pub policy_salt: [u8; 16],
    /// SHA-256 of the model.
    pub model: [u8; 32],
    /// SBOM digest.
    pub sbom: Option<[u8; 32]>,
    /// Lifetime of envelopes whose rule names none, in seconds.
    pub envelope_seconds: u64,
}

/// Everything that decides, signs and records for one agent.
pub struct Gate {
    pub(crate) profile: Profile,
    pub(crate) registries: Registries,
    pub(crate) anchor: Address,
    pub(crate) feed: Arc<StateFeed>,
    pub(crate) keys: EnvelopeKeys,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn SecureRandom + Send + Sync>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) open: OpenRequests,
    pub(crate) identity: Arc<dyn SvidSource>,
    pub(crate) holds: Arc<writ_relay::Holds>,
    pub(crate) session: String,
    witnesses: witness::Witnesses,
    unauthenticated: denied::Counts,
    observing: AtomicBool,
}

/// What a [`Gate`] is made of.
pub struct GateParts {
    /// Who this agent is.
    pub profile: Profile,
    /// Where the registries stand.
    pub registries: Registries,
    /// Contract where hashes are to be anchored.
    pub anchor: Address,
    /// Proved chain state.
    pub feed: Arc<StateFeed>,
    /// Signers that follow the SVID.
    pub keys: EnvelopeKeys,
    /// The record.
    pub log: Log,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn SecureRandom + Send + Sync>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Requests that the application is working on.
    pub open: OpenRequests,
    /// Our own SVID.
    pub identity: Arc<dyn SvidSource>,
    /// Agents that are refused by notice.
    pub holds: Arc<writ_relay::Holds>,
}

/// One evaluated action.
struct Evaluated {
    decision: Decision,
    action: Action,
    head: Arc<HeadState>,
    hold: Option<Hold>,
    state: StateAge,
    now: u64,
}

impl Gate {
    /// A gate with a session of its own.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(parts: GateParts) -> Result<Self, ring::error::Unspecified> {
        let mut session = [0; 16];
        parts.random.fill(&mut session)?;
        Ok(Self {
            profile: parts.profile,
            registries: parts.registries,
            anchor: parts.anchor,
            feed: parts.feed,
            keys: parts.keys,
            log: parts.log,
            clock: parts.clock,
            random: parts.random,
            metrics: parts.metrics,
            open: parts.open,
            identity: parts.identity,
            holds: parts.holds,
            session: hex::encode(session),
            witnesses: witness::Witnesses::default(),
            unauthenticated: denied::Counts::default(),
            observing: AtomicBool::new(false),
        })
    }

    /// Whether denials are only observed: recorded, and the action let go on with its denial.
    pub fn observing(&self) -> bool {
        self.observing.load(Ordering::Relaxed)
    }

    /// Sets whether denials are only observed; says so loudly.
    pub fn observe(&self, observing: bool) {
        let before = self.observing.swap(observing, Ordering::Relaxed);
        self.metrics.observing.set(i64::from(observing));
        if observing {
            tracing::warn!(
                "OBSERVE: denials are recorded and NOTHING IS STOPPED but what the guardian stops; \
                 set mode: enforce to enforce the policy"
            );
        } else if before {
            tracing::info!("denials are enforced from now on");
        }
    }

    /// Decides on one action. `catalog_hash` is that of the catalog which classified it.
    ///
    /// # Errors
    /// [`Denied`], recorded and signed, with everything the agent should be told.
    pub async fn decide(
        self: &Arc<Self>,
        asked: Asked,
        binding: BodyBinding,
        catalog_hash: [u8; 32],
    ) -> Result<Granted, Denied> {
        let lineage = self.open.lineage();
        let began = Instant::now();
        let evaluation = self.evaluate(&asked, binding, &lineage);
        let evaluated = match evaluation.instrument(stage!("evaluate")).await {
            Ok(evaluated) => evaluated,
            Err(refusal) => {
                let denied = Denying::Named(&asked);
                return Err(self.deny(denied, refusal, None, &lineage).await);
            }
        };
        self.metrics.observe(Stage::Evaluate, began.elapsed());
        if let Some(refusal) = self.refusal_of(&evaluated, catalog_hash) {
            let denied = Denying::Named(&asked);
            return Err(self.deny(denied, refusal, Some(&evaluated), &lineage).await);
        }
        Ok(Granted::new(Arc::clone(self), asked, evaluated, lineage))
    }

    /// What stands against an evaluated action, if anything.
    fn refusal_of(&self, evaluated: &Evaluated, catalog_hash: [u8; 32]) -> Option<denied::Reason> {
        let decision = &evaluated.decision;
        match decision.effect {
            Effect::Deny => return Some(denied::Reason::policy(&decision.reason)),
            Effect::RequireApproval => return Some(denied::Reason::approval(decision)),
            Effect::Allow => {}
        }
        if decision.catalog_hash != catalog_hash {
            return Some(
                denied::Reason::new(
                    "catalog-mismatch",
                    "the catalog in use is not the one that the registry pins; deploy the pinned one",
                )
                .observable(),
            );
        }
        let age = evaluated.action.stateAge;
        if evaluated.state == StateAge::Cached && age > decision.max_state_age {
            return Some(
                denied::Reason::new(
                    "state-too-old",
                    format!(
                        "chain state is {age} s old, and the rule takes at most {} s; check the RPC endpoints",
                        decision.max_state_age
                    ),
                )
                .observable(),
            );
        }
        if decision.ttl != 0 && !(30..=300).contains(&decision.ttl) {
            return Some(
                denied::Reason::new(
                    "ttl-out-of-bounds",
                    "the rule's envelope lifetime is not within 30 to 300 s; correct the policy",
                )
                .observable(),
            );
        }
        None
    }

    /// Runs the policy, and counts the action against its budget in the same step.
    async fn evaluate(
        &self,
        asked: &Asked,
        binding: BodyBinding,
        lineage: &Lineage,
    ) -> Result<Evaluated, denied::Reason> {
        let now = self.now();
        let svid = self
            .keys
            .current(now)
            .map_err(|error| denied::Reason::new("no-identity", error.to_string()))?
            .svid;
        if self.holds.refuses(svid.spiffe_id()) {
            return Err(denied::Reason::revoked_by_notice());
        }
        let subject = action::Subject {
            profile: &self.profile,
            spiffe_id: svid.spiffe_id(),
            session: &self.session,
            lineage,
            now,
        };
        let evaluate = |head: &HeadState| {
            let age = self.feed.state_age(head);
            let mut action = action::action(&subject, asked, binding, age.seconds());
            let counted = self.decide_counted(asked, subject.spiffe_id, head, &mut action, now);
            match counted {
                Ok((hold, decision)) => decision.map(|decision| Ok((hold, decision, action, age))),
                Err(reason) => Ok(Err(reason)),
            }
        };
        let (outcome, head) = self
            .feed
            .evaluate(COLD_WAIT, evaluate)
            .await
            .map_err(denied::Reason::of_chain)?;
        let (hold, decision, action, age) = outcome?;
        Ok(Evaluated {
            decision,
            action,
            head,
            hold,
            state: match age {
                Age::Fresh(_) => StateAge::Fresh,
                Age::Cached(_) | Age::TooOld(_) => StateAge::Cached,
            },
            now,
        })
    }

    /// One evaluation; with a budget window, reading, evaluating and counting are one step.
    #[allow(
        clippy::type_complexity,
        reason = "the budget's count and the evaluation, side by side"
    )]
    fn decide_counted(
        &self,
        asked: &Asked,
        agent: &str,
        head: &HeadState,
        action: &mut Action,
        now: u64,
    ) -> Result<(Option<Hold>, Result<Decision, EvalError>), denied::Reason> {
        let evaluate =
            |action: &Action| writ_policy::decide(&head.snapshot, &self.registries, action);
        if asked.intent.window == 0 {
            return Ok((None, evaluate(action)));
        }
        let key = BudgetKey {
            agent: agent.to_owned(),
            capability: asked.intent.capability.clone(),
            window: asked.intent.window,
        };
        self.log
            .budgets()
            .with(&key, now, |totals| {
                action.spent = totals.spent;
                action.calls = totals.calls;
                let outcome = evaluate(action);
                let allowed = matches!(&outcome, Ok(decision) if decision.effect == Effect::Allow);
                (allowed.then_some(action.amount), outcome)
            })
            .map_err(|error| denied::Reason::new("budget-unavailable", error.to_string()))
    }

    /// Waits for a newer head than the one in use, as long as a cold slot may take.
    pub async fn await_newer_head(&self) {
        let mut heads = self.feed.watch();
        heads.mark_unchanged();
        // Late is answered by deciding on the head that is there.
        let _ = tokio::time::timeout(COLD_WAIT, heads.changed()).await;
    }

    /// Changes whenever our SVID does.
    pub fn identity_generation(&self) -> u64 {
        *self.identity.watch().borrow()
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.unix_seconds()
    }

    pub(crate) fn jti(&self) -> Result<Jti, ring::error::Unspecified> {
        let mut jti = [0; 16];
        self.random.fill(&mut jti)?;
        Ok(Jti(jti))
    }

    pub(crate) fn actor(&self, svid: &writ_identity::Svid) -> Actor {
        Actor {
            spiffe_id: svid.spiffe_id().to_owned(),
            subject_dn: svid.subject_dn().to_owned(),
            salt: self.profile.salt,
            model: self.profile.model,
            sbom: self.profile.sbom,
            settlement: Settlement {
                contract: self.anchor.into(),
                id: self.registries.chain_id,
            },
        }
    }

    pub(crate) fn circumstances(
        &self,
        lineage: &Lineage,
        seq: u64,
        channel_binding: Option<[u8; 32]>,
    ) -> Circumstances {
        Circumstances {
            session: lineage
                .session
                .clone()
                .unwrap_or_else(|| self.session.clone()),
            parents: lineage.parents.clone(),
            principal: lineage.principal.clone(),
            log: LogRef {
                id: self.log.id().to_string(),
                seq,
            },
            channel_binding,
        }
    }

    fn names(&self, agent: &str, asked: Option<&Asked>, target: &str, lineage: &Lineage) -> Names {
        Names {
            agent: agent.to_owned(),
            capability: asked.map_or_else(
                || writ_catalog::UNLISTED.to_owned(),
                |asked| asked.intent.capability.clone(),
            ),
            principal: lineage.principal.clone(),
            resource: asked.and_then(|asked| asked.intent.resource.clone()),
            session: Some(
                lineage
                    .session
                    .clone()
                    .unwrap_or_else(|| self.session.clone()),
            ),
            target: target.to_owned(),
        }
    }
}
