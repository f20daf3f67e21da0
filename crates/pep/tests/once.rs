//! One envelope, one execution (T-023, T-100, M-14).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::*;
use writ_pep::Refusal;
use writ_pep::*;
use writ_sae::*;

fn stamped() -> World {
    let mut w = World::new();
    let claims = w.claims();
    w.stamp(&claims);
    w
}

fn store(w: &World) -> Arc<RedbReplayStore> {
    let path = w.dir.path().join("replay.redb");
    Arc::new(RedbReplayStore::open(&path, w.limits, w.opened).unwrap())
}

#[tokio::test]
async fn the_second_use_is_replayed_with_its_event() {
    let w = stamped();
    let pep = w.pep();
    assert!(w.ask(&pep).await.is_ok());
    let refused = w.ask(&pep).await.unwrap_err();
    assert_eq!(refused, Refusal::Replayed);
    assert_eq!(refused.event(), Event::Replayed);
    assert_eq!(refused.event().as_str(), "action.replayed");
}

#[tokio::test]
async fn an_expired_envelope_has_its_own_event() {
    let mut w = stamped();
    w.now = NOW + 66;
    let refused = w.ask(&w.pep()).await.unwrap_err();
    assert_eq!(refused.event().as_str(), "action.expired");
}

#[tokio::test]
async fn an_altered_request_has_its_own_event() {
    let mut w = stamped();
    w.body.push(b'x');
    let refused = w.ask(&w.pep()).await.unwrap_err();
    assert_eq!(refused.event().as_str(), "action.altered");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_parallel_requests_exactly_one_is_admitted() {
    let w = Arc::new(stamped());
    let pep = Arc::new(w.pep());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (w, pep) = (w.clone(), pep.clone());
        tasks.spawn(async move { w.ask(&pep).await.map(|_| ()) });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1);
    assert_eq!(
        answers
            .iter()
            .filter(|a| **a == Err(Refusal::Replayed))
            .count(),
        99
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_with_one_store_admit_it_once() {
    let w = Arc::new(stamped());
    let replay = store(&w);
    let replicas = [
        Arc::new(w.pep_with(replay.clone())),
        Arc::new(w.pep_with(replay)),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (w, pep) = (w.clone(), replicas[n % 2].clone());
        tasks.spawn(async move { w.ask(&pep).await.is_ok() });
    }
    let admitted = tasks.join_all().await;
    assert_eq!(admitted.into_iter().filter(|ok| *ok).count(), 1);
}

#[tokio::test]
async fn it_is_a_replay_after_a_restart_too() {
    let w = stamped();
    let pep = w.pep();
    assert!(w.ask(&pep).await.is_ok());
    drop(pep);
    assert_eq!(w.ask(&w.pep()).await.unwrap_err(), Refusal::Replayed);
}

#[tokio::test]
async fn removing_the_store_brings_nothing_back() {
    let mut w = stamped();
    assert!(w.ask(&w.pep()).await.is_ok());
    std::fs::remove_file(w.dir.path().join("replay.redb")).unwrap();
    w.opened = NOW + 2;
    assert_eq!(
        w.ask(&w.pep()).await.unwrap_err().code(),
        "issued-before-boot"
    );
}

#[tokio::test]
async fn turning_the_clock_ahead_and_back_brings_nothing_back() {
    let mut w = stamped();
    let pep = w.pep();
    assert!(w.ask(&pep).await.is_ok());
    // A year ahead somebody else's envelope is accepted, and the store sweeps the first.
    let year = 31_536_000;
    let first = w.fields["sae"].clone();
    let mut ahead = w.claims();
    ahead.iat += year;
    ahead.nbf += year;
    ahead.exp += year;
    ahead.jti = Jti([1; 16]);
    w.stamp(&ahead);
    w.now += year;
    assert!(w.ask(&pep).await.is_ok());
    // Back again the first looks alive.
    w.now -= year;
    w.fields.insert("sae", first);
    assert_eq!(w.ask(&pep).await.unwrap_err(), Refusal::ReplayForgotten);
}

#[tokio::test]
async fn a_full_store_refuses_for_now() {
    let mut w = World::new();
    w.limits.entries = 1;
    let mut claims = w.claims();
    w.stamp(&claims);
    let pep = w.pep();
    assert!(w.ask(&pep).await.is_ok());
    claims.jti = Jti([1; 16]);
    w.stamp(&claims);
    let refused = w.ask(&pep).await.unwrap_err();
    assert_eq!(refused, Refusal::ReplayStoreFull);
    assert_eq!(refused.status().as_u16(), 503);
}

/// A store whose disk is gone.
struct Broken;

impl ReplayStore for Broken {
    fn use_once(&self, _: &str, _: Jti, _: u64, _: u64, _: Durability) -> ReplayFuture<'_> {
        Box::pin(async { Err(ReplayError("no disk".into())) })
    }
    fn complete_since(&self) -> Option<u64> {
        None
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_lets_nothing_in() {
    let w = stamped();
    let refused = w.ask(&w.pep_with(Arc::new(Broken))).await.unwrap_err();
    assert_eq!(refused, Refusal::ReplayStoreUnavailable);
}

#[tokio::test]
async fn a_refused_request_does_not_use_its_envelope_up() {
    let mut w = stamped();
    let pep = w.pep();
    w.body.push(b' ');
    assert!(w.ask(&pep).await.is_err());
    w.body.pop();
    assert!(w.ask(&pep).await.is_ok());
}

fn approved(until: u64) -> World {
    let mut w = World::new();
    w.chain.approval = Ok(ApprovalWindow::Open { until });
    w
}

async fn ask_with_approval(w: &mut World, pep: &Pep, jti: u8) -> Result<(), Refusal> {
    let mut claims = w.claims();
    claims.ctx.approval = Some(hash("approval"));
    claims.jti = Jti([jti; 16]);
    w.stamp(&claims);
    w.ask(pep).await.map(|_| ())
}

#[tokio::test]
async fn an_approval_is_good_for_one_envelope() {
    let mut w = approved(NOW + 3600);
    let pep = w.pep();
    assert_eq!(ask_with_approval(&mut w, &pep, 1).await, Ok(()));
    assert_eq!(
        ask_with_approval(&mut w, &pep, 2).await,
        Err(Refusal::ApprovalUsed)
    );
}

#[tokio::test]
async fn an_approval_that_is_not_open_or_not_checkable_is_refused() {
    let mut closed = World::new();
    closed.chain.approval = Ok(ApprovalWindow::Closed);
    let pep = closed.pep();
    assert_eq!(
        ask_with_approval(&mut closed, &pep, 1).await,
        Err(Refusal::ApprovalNotOpen)
    );
    for until in [NOW, NOW + 30 * 24 * 3600] {
        let mut w = approved(until);
        let pep = w.pep();
        assert_eq!(
            ask_with_approval(&mut w, &pep, 1).await,
            Err(Refusal::ApprovalNotOpen)
        );
    }
    let mut without = World::new();
    let pep = without.pep();
    assert_eq!(
        ask_with_approval(&mut without, &pep, 1).await,
        Err(Refusal::ApprovalNotCheckable)
    );
}
