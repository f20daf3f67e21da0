//! What a policy's status says, from what was done and seen. No I/O.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use writ_api::conditions::{self, Said, Truth};
use writ_api::{Agent, AgentPolicy, AgentPolicyStatus, InForce, Mode, PodCount, config_map_name};

use super::select::Claim;
use super::steps::{Outcome, published};
use super::want::{Invalid, Want};

/// Most names in `status.uncovered`.
const MAX_NAMES: usize = 20;
/// Most entries in `status.transactions`.
const MAX_TRANSACTIONS: usize = 10;

/// How a reconciliation ended.
#[derive(Clone, Debug)]
pub enum Ended<'a> {
    /// The object cannot be carried out.
    Refused(Invalid),
    /// It was not tried, or an attempt failed: reason and sentence.
    Stopped(&'static str, String),
    /// Its pods only receive; their sidecars are configured.
    Receives,
    /// It went as far as `Outcome` says.
    Came(&'a Want, &'a Outcome),
}

/// What the status says, times aside.
#[must_use]
pub fn say(ended: &Ended<'_>, missing: &[String], mode: Mode) -> Vec<Said> {
    let mut said = standing(ended, missing);
    said.push(enforced(mode));
    said
}

fn enforced(mode: Mode) -> Said {
    let said = |status, reason, text: &str| Said::new(conditions::ENFORCED, status, reason, text);
    match mode {
        Mode::Enforce => said(Truth::True, "Enforced", "what is denied does not happen"),
        Mode::Observe => said(
            Truth::False,
            "Observing",
            "NOT PROTECTED: denials are recorded and nothing is stopped but what the guardian stops; \
             set mode: Enforce once the recorded denials are the ones you want",
        ),
    }
}

fn standing(ended: &Ended<'_>, missing: &[String]) -> Vec<Said> {
    let said = |kind, status, reason, message: String| Said::new(kind, status, reason, message);
    let accepted = || {
        said(
            conditions::ACCEPTED,
            Truth::True,
            "Accepted",
            accepted_text(missing),
        )
    };
    match ended {
        Ended::Refused(invalid) => {
            let not = |kind| said(kind, Truth::False, invalid.reason, invalid.message.clone());
            vec![
                not(conditions::ACCEPTED),
                not(conditions::PROGRAMMED),
                not(conditions::IN_FORCE),
            ]
        }
        Ended::Stopped(reason, message) => vec![
            accepted(),
            said(
                conditions::PROGRAMMED,
                Truth::False,
                reason,
                message.clone(),
            ),
            said(
                conditions::IN_FORCE,
                Truth::Unknown,
                reason,
                message.clone(),
            ),
        ],
        Ended::Receives => {
            let text = "the pods only receive; their callers' policies decide".to_owned();
            vec![
                accepted(),
                said(
                    conditions::PROGRAMMED,
                    Truth::True,
                    "Programmed",
                    text.clone(),
                ),
                said(conditions::IN_FORCE, Truth::True, "ReceivesOnly", text),
            ]
        }
        Ended::Came(want, outcome) => {
            vec![accepted(), programmed(outcome), in_force(want, outcome)]
        }
    }
}

fn accepted_text(missing: &[String]) -> String {
    if missing.is_empty() {
        "rules and catalog are valid, and no older policy claims these agents".to_owned()
    } else {
        format!(
            "valid, but some callers are not admitted: {}",
            missing.join("; ")
        )
    }
}

fn programmed(outcome: &Outcome) -> Said {
    let said = |status, reason, message: String| {
        Said::new(conditions::PROGRAMMED, status, reason, message)
    };
    if let Some((reason, message)) = &outcome.stopped {
        return said(Truth::False, reason, message.clone());
    }
    match outcome.queued.iter().find(|q| q.operation.is_none()) {
        None => said(
            Truth::True,
            "Programmed",
            "deployed, submitted, and written for the sidecars".to_owned(),
        ),
        Some(waits) => {
            let progress = match (waits.proposal, waits.confirmations, waits.threshold) {
                (Some(n), Some(given), Some(needed)) => {
                    format!("proposal {n} has {given} of {needed} confirmations")
                }
                _ => "no owner proposed it yet: see status.queued for target and data".to_owned(),
            };
            said(
                Truth::False,
                "AwaitingOwners",
                format!("{}: {progress}", waits.change),
            )
        }
    }
}

fn in_force(want: &Want, outcome: &Outcome) -> Said {
    let said =
        |status, reason, message: String| Said::new(conditions::IN_FORCE, status, reason, message);
    let now = outcome.policy.as_ref().filter(|p| p.version > 0);
    let version = now.map_or_else(
        || "nothing is in force, so everything is denied".to_owned(),
        |p| format!("version {} is in force", p.version),
    );
    if now.is_some_and(|p| p.paused) {
        let text = "paused by the guardian: everything is denied until the owners end the pause (writ chain resume)";
        return said(Truth::False, "Paused", text.to_owned());
    }
    if !published(outcome, want) {
        let waits = outcome.queued.first();
        let (reason, then) = match waits {
            Some(q) if q.ready_at.is_some() => (
                "Queued",
                format!(
                    "the next is in the timelock until {}",
                    q.ready_at.clone().unwrap_or_default()
                ),
            ),
            Some(_) => ("AwaitingOwners", "the next waits for the owners".to_owned()),
            None => ("NotPublished", "the next is not submitted".to_owned()),
        };
        return said(Truth::False, reason, format!("{version}; {then}"));
    }
    let states = want.agents.iter().zip(&outcome.agents);
    let unbound = |(agent, there): &(&super::want::WantedAgent, &writ_chain::tx::AgentState)| {
        there.status != "revoked"
            && (there.status != "active"
                || (there.policy_id, there.model) != (agent.record.policy_id, agent.record.model))
    };
    if let Some((agent, there)) = states.clone().find(unbound) {
        let waits = outcome.queued.first().and_then(|q| q.ready_at.clone());
        let (reason, then) = match (there.status, waits) {
            ("paused", _) => ("AgentPaused", "paused by the guardian".to_owned()),
            (_, Some(at)) => (
                "AgentsQueued",
                format!("its registration is in the timelock until {at}"),
            ),
            (_, None) => (
                "AgentNotRegistered",
                "not registered under this policy yet".to_owned(),
            ),
        };
        return said(
            Truth::False,
            reason,
            format!("{version}, but {} is not: {then}", agent.spiffe_id),
        );
    }
    let revoked: Vec<&str> = states
        .filter(|(_, there)| there.status == "revoked")
        .map(|(agent, _)| agent.spiffe_id.as_str())
        .collect();
    if revoked.is_empty() {
        said(Truth::True, "InForce", version)
    } else {
        said(
            Truth::True,
            "AgentsRevoked",
            format!("{version}; revoked: {}", revoked.join(", ")),
        )
    }
}

/// The status.
#[must_use]
pub fn status(
    policy: &AgentPolicy,
    before: &AgentPolicyStatus,
    claim: &Claim,
    ended: &Ended<'_>,
    missing: &[String],
    now: &Time,
) -> AgentPolicyStatus {
    let generation = policy.metadata.generation.unwrap_or_default();
    let merged = conditions::merge(
        &before.conditions,
        &say(ended, missing, policy.spec.mode),
        generation,
        now,
    );
    let first = merged
        .iter()
        .find(|c| c.status != "True")
        .or_else(|| merged.iter().find(|c| c.type_ == conditions::IN_FORCE));
    let reason = first.map(|c| c.reason.clone());
    let mut status = AgentPolicyStatus {
        observed_generation: Some(generation),
        reason,
        conditions: merged,
        uncovered: claim.uncovered.iter().take(MAX_NAMES).cloned().collect(),
        // What was in force before stays so while an attempt fails or a changed object is refused.
        policy_id: before.policy_id.clone(),
        in_force: before.in_force.clone(),
        agents: before.agents.clone(),
        transactions: before.transactions.clone(),
        peers: before.peers.clone(),
        queued: None,
        pods: PodCount::default(),
    };
    match ended {
        Ended::Refused(_) | Ended::Receives | Ended::Stopped(..) => {}
        Ended::Came(want, outcome) => fill(&mut status, &policy.name_any(), claim, want, outcome),
    }
    status.pods = PodCount {
        agents: i64::try_from(status.agents.len()).unwrap_or(i64::MAX),
        covered: claim.covered.values().sum(),
        uncovered: i64::try_from(claim.uncovered.len()).unwrap_or(i64::MAX),
    };
    status
}

fn fill(status: &mut AgentPolicyStatus, name: &str, claim: &Claim, want: &Want, outcome: &Outcome) {
    status.policy_id = Some(want.policy_id.to_string());
    status.in_force = outcome
        .policy
        .as_ref()
        .filter(|p| p.version > 0)
        .map(|p| InForce {
            version: i64::try_from(p.version).unwrap_or(i64::MAX),
            contract: p.contract.to_string(),
            code_hash: p.code_hash.to_string(),
            catalog_hash: p.catalog_hash.to_string(),
            paused: p.paused,
        });
    status.queued = outcome.queued.first().cloned();
    status.agents = want
        .agents
        .iter()
        .enumerate()
        .map(|(at, agent)| Agent {
            service_account: agent.account.clone(),
            spiffe_id: agent.spiffe_id.clone(),
            key: agent.record.key.to_string(),
            status: outcome
                .agents
                .get(at)
                .map_or("unknown", |a| a.status)
                .to_owned(),
            config_map: config_map_name(name, &agent.account),
            pods: claim.covered.get(&agent.account).copied().unwrap_or(0),
        })
        .collect();
    let mut transactions: Vec<_> = outcome.transactions.iter().rev().cloned().collect();
    transactions.append(&mut status.transactions);
    transactions.truncate(MAX_TRANSACTIONS);
    status.transactions = transactions;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::want::tests::{policy, wanted};
    use alloy::primitives::{Address, B256};
    use writ_api::Queued;
    use writ_chain::tx::{AgentState, PolicyState};

    fn want() -> Want {
        wanted(&policy()).unwrap().unwrap()
    }

    fn done(want: &Want) -> Outcome {
        let (contract, code_hash) = (Address::repeat_byte(1), B256::repeat_byte(2));
        Outcome {
            contract: Some((contract, code_hash)),
            policy: Some(PolicyState {
                contract,
                code_hash,
                catalog_hash: want.catalog_hash,
                version: 4,
                paused: false,
            }),
            agents: vec![agent(want, "active")],
            ..Outcome::default()
        }
    }

    fn agent(want: &Want, status: &'static str) -> AgentState {
        AgentState {
            status,
            policy_id: want.policy_id,
            model: B256::ZERO,
            organisation: B256::ZERO,
            capabilities: B256::ZERO,
        }
    }

    fn reasons(want: &Want, outcome: &Outcome) -> [(&'static str, &'static str); 2] {
        let said = say(&Ended::Came(want, outcome), &[], Mode::Enforce);
        [1, 2].map(|n| (said[n].status.as_str(), said[n].reason))
    }

    #[test]
    fn a_policy_is_in_force_when_version_catalog_and_agents_are_as_wanted() {
        let want = want();
        assert_eq!(
            reasons(&want, &done(&want)),
            [("True", "Programmed"), ("True", "InForce")]
        );
    }

    #[test]
    fn a_policy_that_is_only_observed_says_that_nothing_is_protected() {
        let want = want();
        let said = say(&Ended::Came(&want, &done(&want)), &[], Mode::Observe);
        let last = said.last().unwrap();
        assert_eq!((last.kind, last.status), ("Enforced", Truth::False));
        assert!(last.message.contains("NOT PROTECTED"), "{}", last.message);
        // The reason that `kubectl get` shows is that of the first condition that does not hold.
        assert!(said.iter().rev().skip(1).all(|s| s.status == Truth::True));
    }

    #[test]
    fn each_thing_that_keeps_a_policy_from_force_is_named() {
        let want = want();
        let ready_at = Some("2026-01-02T00:00:00Z".to_owned());
        let timelock = Queued {
            change: "publish".into(),
            operation: Some("0x1".into()),
            ready_at,
            ..Queued::default()
        };
        let owners = Queued {
            change: "publish".into(),
            proposal: Some(3),
            confirmations: Some(1),
            threshold: Some(3),
            ..Queued::default()
        };
        let old = |o: &mut Outcome| o.policy.as_mut().unwrap().catalog_hash = B256::ZERO;
        type Change<'a> = &'a dyn Fn(&mut Outcome);
        let cases: [(Change<'_>, [(&str, &str); 2]); 8] = [
            (
                &|o| o.policy.as_mut().unwrap().paused = true,
                [("True", "Programmed"), ("False", "Paused")],
            ),
            (
                &|o| {
                    old(o);
                    o.queued = vec![timelock.clone()];
                },
                [("True", "Programmed"), ("False", "Queued")],
            ),
            (
                &|o| {
                    old(o);
                    o.queued = vec![owners.clone()];
                },
                [("False", "AwaitingOwners"), ("False", "AwaitingOwners")],
            ),
            (
                &|o| {
                    o.contract = None;
                    o.stopped = Some(("CodeHashMismatch", "x".into()));
                },
                [("False", "CodeHashMismatch"), ("False", "NotPublished")],
            ),
            (
                &|o| o.agents = vec![agent(&want, "paused")],
                [("True", "Programmed"), ("False", "AgentPaused")],
            ),
            (
                &|o| o.agents = vec![agent(&want, "unknown")],
                [("True", "Programmed"), ("False", "AgentNotRegistered")],
            ),
            (
                &|o| o.agents[0].policy_id = B256::ZERO,
                [("True", "Programmed"), ("False", "AgentNotRegistered")],
            ),
            (
                &|o| o.agents = vec![agent(&want, "revoked")],
                [("True", "Programmed"), ("True", "AgentsRevoked")],
            ),
        ];
        for (change, expected) in cases {
            let mut outcome = done(&want);
            change(&mut outcome);
            assert_eq!(reasons(&want, &outcome), expected, "{outcome:?}");
        }
    }

    fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(100).unwrap())
    }

    fn generation(generation: i64) -> AgentPolicy {
        let mut policy = policy();
        policy.metadata.generation = Some(generation);
        policy
    }

    #[test]
    fn a_refused_change_leaves_standing_what_is_in_force() {
        let want = want();
        let claim = Claim::default();
        let ended = done(&want);
        let first = status(
            &generation(1),
            &AgentPolicyStatus::default(),
            &claim,
            &Ended::Came(&want, &ended),
            &[],
            &now(),
        );
        assert_eq!(first.in_force.as_ref().unwrap().version, 4);
        let refused = Ended::Refused(Invalid {
            reason: "InvalidRules",
            message: "x".to_owned(),
        });
        let second = status(&generation(2), &first, &claim, &refused, &[], &now());
        assert_eq!(second.in_force, first.in_force);
        assert_eq!(second.agents, first.agents);
        assert_eq!(second.reason.as_deref(), Some("InvalidRules"));
        assert!(
            second
                .conditions
                .iter()
                .all(|c| c.observed_generation == Some(2))
        );
    }

    #[test]
    fn status_names_agents_pods_and_the_newest_transactions() {
        let want = want();
        let mut outcome = done(&want);
        let before = AgentPolicyStatus {
            transactions: (0..10)
                .map(|n| writ_api::Transaction {
                    block: n,
                    ..Default::default()
                })
                .collect(),
            ..AgentPolicyStatus::default()
        };
        outcome.transactions = vec![writ_api::Transaction {
            block: 99,
            ..Default::default()
        }];
        let claim = Claim {
            covered: [("buyer".to_owned(), 3)].into(),
            uncovered: vec!["bare".to_owned()],
            ..Claim::default()
        };
        let status = status(
            &generation(1),
            &before,
            &claim,
            &Ended::Came(&want, &outcome),
            &[],
            &now(),
        );
        assert_eq!(
            (status.transactions.len(), status.transactions[0].block),
            (10, 99)
        );
        assert_eq!(
            status.pods,
            PodCount {
                agents: 1,
                covered: 3,
                uncovered: 1
            }
        );
        assert_eq!(status.agents[0].config_map, "writ-buyers-buyer");
        assert_eq!(
            (status.agents[0].pods, status.agents[0].status.as_str()),
            (3, "active")
        );
        assert_eq!(status.reason.as_deref(), Some("InForce"));
    }
}
