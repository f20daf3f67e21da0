//! How old state may be, and what a chain that is away, goes back or is reorganised does to it (T-079, T-081, T-165, C-25).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/evaluation.rs"]
mod evaluation;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/liar.rs"]
mod liar;

use std::time::Duration;

use alloy::providers::Provider;
use alloy_primitives::{Address, keccak256};
use feed::{AGENT, Net, POLICY, action, allowed, decided, event, until, warm};
use liar::Liar;
use serde_json::json;
use writ_chain::{Age, ChainError, ChainEvent, Clock, HeadRefusal, WarmSet};
use writ_policy::testing::{allowing, reason, verdict_contract};
use writ_policy::{Effect, StateKey, U256, decide};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_fresh_then_cached_then_too_old_while_the_chain_is_away() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    let head = feed.ready().await;
    net.clock.set_wall(head.snapshot.header().timestamp);
    net.liars.iter().for_each(Liar::go_down);
    let mut events = feed.events();
    event(&mut events, |e| {
        matches!(e, ChainEvent::Failed(ChainError::NoQuorum { .. })).then_some(())
    })
    .await;
    let head = feed.current().unwrap();
    let base = feed.state_age(&head).seconds();
    assert!(matches!(feed.state_age(&head), Age::Fresh(_)), "{base}");
    net.clock.advance(Duration::from_secs(5 - base));
    assert_eq!(feed.state_age(&head), Age::Fresh(5));
    assert!(allowed(&feed).await);
    net.clock.advance(Duration::from_secs(1));
    assert_eq!(feed.state_age(&head), Age::Cached(6));
    assert!(allowed(&feed).await);
    net.clock.advance(Duration::from_secs(9));
    assert_eq!(feed.state_age(&head), Age::Cached(15));
    assert!(allowed(&feed).await);
    net.clock.advance(Duration::from_secs(1));
    assert_eq!(feed.state_age(&head), Age::TooOld(16));
    assert_eq!(decided(&feed).await.unwrap_err(), ChainError::TooOld(16));
    // The chain comes back.
    net.liars.iter().for_each(Liar::be_honest);
    let now = net.clock.unix_seconds();
    net.rpc("evm_setNextBlockTimestamp", json!([now])).await;
    net.mine_and_follow(&feed).await;
    assert!(matches!(
        feed.state_age(&feed.current().unwrap()),
        Age::Fresh(_)
    ));
    assert!(allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_told_to_look_does_not_wait_for_its_next_poll() {
    let net = Net::start(1).await;
    let mut config = net.config();
    config.poll = Duration::from_secs(3600);
    let feed = net.feed_with(config).await;
    let seen = feed.ready().await.number();
    net.chain.mine().await;
    assert_eq!(feed.current().unwrap().number(), seen);
    feed.look_now();
    let head = until(&feed, |head| head.number() > seen).await;
    assert!(
        allowed(&feed).await,
        "its state is proved too, at {}",
        head.number()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_others_ask_the_endpoints_are_asked_a_few_times() {
    let net = Net::start(1).await;
    let mut config = net.config();
    config.poll = Duration::from_secs(3600);
    let feed = net.feed_with(config).await;
    let seen = feed.ready().await.number();
    let asked = |feed: &writ_chain::StateFeed| feed.metrics().endpoints[0].calls;
    let before = asked(&feed);
    net.chain.mine().await;
    (0..10_000).for_each(|_| feed.look_now());
    until(&feed, |head| head.number() > seen).await;
    assert!(asked(&feed) < before + 100, "{}", asked(&feed) - before);

    // A chain that fails is asked no more often than if nobody asked: not again within this poll.
    net.liars[0].go_down();
    let mut events = feed.events();
    feed.look_now();
    event(&mut events, |e| {
        matches!(e, ChainEvent::Failed(_)).then_some(())
    })
    .await;
    let failing = asked(&feed);
    for _ in 0..1000 {
        feed.look_now();
        net.chain.head().await;
    }
    assert_eq!(asked(&feed), failing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_stands_still_grows_old_though_endpoints_answer() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    let head = feed.ready().await;
    net.clock.set_wall(head.snapshot.header().timestamp);
    let polled = |feed: &writ_chain::StateFeed| {
        feed.metrics()
            .endpoints
            .iter()
            .map(|e| e.calls)
            .sum::<u64>()
    };
    net.clock.advance(Duration::from_secs(16));
    let before = polled(&feed);
    while polled(&feed) < before + 9 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(decided(&feed).await, Err(ChainError::TooOld(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_makes_nothing_younger_and_set_forward_refuses() {
    let net = Net::start(1).await;
    let feed = net.feed().await;
    let head = feed.ready().await;
    let time = head.snapshot.header().timestamp;
    net.liars[0].go_down();
    net.clock.set_wall(time);
    let received = feed.state_age(&head).seconds();
    net.clock.advance(Duration::from_secs(16));
    net.clock.set_wall(time - 1000);
    assert!(
        feed.state_age(&head).seconds() >= received.max(16),
        "monotonic time counts on"
    );
    assert!(!allowed(&feed).await);
    // Heads are from the future now: refused, not taken as fresh.
    let mut events = feed.events();
    net.liars[0].be_honest();
    net.chain.mine().await;
    let refusal = event(&mut events, |e| match e {
        ChainEvent::HeadRefused(refusal) => Some(*refusal),
        _ => None,
    });
    assert!(matches!(refusal.await, HeadRefusal::Ahead { .. }));
    assert!(!allowed(&feed).await);
    net.clock.set_wall(time + 100_000);
    net.mine_and_follow(&feed).await;
    assert!(matches!(decided(&feed).await, Err(ChainError::TooOld(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_goes_back_is_refused_and_its_overtaking_branch_is_a_reorg() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    feed.ready().await;
    let checkpoint = net.rpc("evm_snapshot", json!([])).await;
    net.chain.revoke(AGENT).await;
    let lost = net.mine_and_follow(&feed).await;
    assert_eq!(decided(&feed).await.unwrap().reason, "agent-revoked");
    let mut events = feed.events();
    assert_eq!(
        net.rpc("evm_revert", json!([checkpoint])).await,
        json!(true)
    );
    let refusal = event(&mut events, |e| match e {
        ChainEvent::HeadRefused(refusal) => Some(*refusal),
        _ => None,
    });
    assert!(matches!(refusal.await, HeadRefusal::WentBack { .. }));
    assert_eq!(feed.current().unwrap().hash(), lost.hash());
    assert_eq!(
        decided(&feed).await.unwrap().reason,
        "agent-revoked",
        "a rolled-back chain gives no rights back"
    );
    // Another branch overtakes it.
    net.rpc("anvil_mine", json!(["0x5"])).await;
    let orphaned = event(&mut events, |e| match e {
        ChainEvent::Reorg { orphaned, .. } => Some(orphaned.clone()),
        _ => None,
    });
    assert!(orphaned.await.contains(&(lost.number(), lost.hash())));
    assert!(feed.metrics().reorgs >= 1);
    until(&feed, |head| head.number() > lost.number()).await;
    assert!(
        allowed(&feed).await,
        "on that branch the agent was never revoked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_block_at_the_same_height_is_a_reorg() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    feed.ready().await;
    let lost = net.mine_and_follow(&feed).await;
    let mut events = feed.events();
    net.rpc("anvil_reorg", json!([1, []])).await;
    let orphaned = event(&mut events, |e| match e {
        ChainEvent::Reorg {
            orphaned, number, ..
        } => Some((orphaned.clone(), *number)),
        _ => None,
    });
    let (orphaned, number) = orphaned.await;
    assert_eq!(orphaned.first(), Some(&(lost.number(), lost.hash())));
    assert_eq!(number, lost.number());
    assert!(allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluations_cost_nothing_and_need_no_endpoint_within_the_bound() {
    let net = Net::start(1).await;
    let feed = net.feed().await;
    let head = feed.ready().await;
    net.clock.set_wall(head.snapshot.header().timestamp);
    let accounts = net.chain.provider.get_accounts().await.unwrap();
    let mut before = Vec::new();
    for account in &accounts {
        before.push(net.chain.provider.get_balance(*account).await.unwrap());
    }
    net.liars[0].go_down();
    net.liars[0].take_seen();
    let registries = net.chain.registries;
    for index in 0..10_000u64 {
        let mut action = action();
        action.amount = U256::from(index);
        let head = feed.current().unwrap();
        assert_eq!(
            decide(&head.snapshot, &registries, &action).unwrap().effect,
            Effect::Allow
        );
    }
    let mut after = Vec::new();
    for account in &accounts {
        after.push(net.chain.provider.get_balance(*account).await.unwrap());
    }
    assert_eq!(before, after);
    assert_eq!(feed.metrics().cold_waits, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_on_chain_take_effect_without_a_restart_and_without_a_cold_wait() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    feed.ready().await;
    let before = decided(&feed).await.unwrap();
    // A new version of the policy at another address, with another catalog.
    let next = Address::repeat_byte(0xc4);
    let verdict = writ_policy::abi::Verdict {
        reason: reason("second-version"),
        ..allowing()
    };
    net.chain.set_code(next, &verdict_contract(&verdict)).await;
    net.chain.publish(keccak256(AGENT), next).await;
    net.mine_and_follow(&feed).await;
    let after = decided(&feed).await.unwrap();
    assert_eq!(
        (after.reason.as_str(), after.contract),
        ("second-version", next)
    );
    assert_ne!(after.registered_code_hash, before.registered_code_hash);
    // Code replaced in place does not run.
    net.chain
        .set_code(next, &verdict_contract(&allowing()))
        .await;
    net.mine_and_follow(&feed).await;
    assert_eq!(decided(&feed).await.unwrap().reason, "code-mismatch");
    net.chain.publish(keccak256(AGENT), POLICY).await;
    net.mine_and_follow(&feed).await;
    assert!(allowed(&feed).await);
    net.chain.revoke(AGENT).await;
    net.mine_and_follow(&feed).await;
    assert_eq!(decided(&feed).await.unwrap().reason, "agent-revoked");
    assert_eq!(feed.metrics().cold_waits, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_under_an_unchanged_storage_root_are_not_asked_for_again() {
    let net = Net::start(1).await;
    let feed = net.feed().await;
    feed.ready().await;
    net.mine_and_follow(&feed).await;
    net.liars[0].take_seen();
    net.mine_and_follow(&feed).await;
    let slots = |seen: &[(String, serde_json::Value)]| {
        let proofs = seen.iter().filter(|(method, _)| method == "eth_getProof");
        proofs
            .map(|(_, params)| params[1].as_array().unwrap().len())
            .filter(|n| *n > 0)
            .collect::<Vec<_>>()
    };
    let seen = net.liars[0].take_seen();
    assert_eq!(slots(&seen), Vec::<usize>::new());
    assert!(!seen.iter().any(|(method, _)| method == "eth_getCode"));
    // One registry changes: its slots are proved again in one call.
    net.chain.revoke(AGENT).await;
    net.mine_and_follow(&feed).await;
    let proved = slots(&net.liars[0].take_seen());
    assert_eq!(proved.len(), 1, "{proved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_state_is_learned_and_warm_at_the_next_block() {
    let net = Net::start(1).await;
    let feed = net.feed().await;
    feed.ready().await;
    let key = StateKey::Slot(net.chain.registries.policies, U256::from(0x77));
    assert!(!feed.current().unwrap().snapshot.contains(&key));
    feed.fetch_missing(&[key], Duration::from_secs(20))
        .await
        .unwrap();
    assert!(feed.current().unwrap().snapshot.contains(&key));
    net.chain.revoke(AGENT).await;
    let head = net.mine_and_follow(&feed).await;
    assert!(head.snapshot.contains(&key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_warm_set_is_proved_at_once() {
    let net = Net::start(1).await;
    let feed = net.feed_empty().await;
    let head = feed.ready().await;
    assert!(decide(&head.snapshot, &net.chain.registries, &action()).is_err());
    feed.set_warm(WarmSet {
        agents: Vec::new(),
        ..warm()
    });
    let registries = net.chain.registries;
    until(&feed, |head| {
        decide(&head.snapshot, &registries, &action()).is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_list_is_a_hint_that_is_proved_and_bounded() {
    let net = Net::start(1).await;
    let registries = net.chain.registries;
    let stranger = Address::repeat_byte(0xee);
    let slot = |n: u64| format!("{n:#066x}");
    let many: Vec<String> = (0..5000).map(slot).collect();
    net.liars[0].lie_about("eth_createAccessList", move |mut answer| {
        answer["result"] = json!({
            "gasUsed": "0x1",
            "accessList": [
                { "address": registries.policies, "storageKeys": many },
                { "address": stranger, "storageKeys": [slot(1)] },
            ],
        });
        answer
    });
    let feed = net.feed().await;
    let hinted = StateKey::Slot(registries.policies, U256::from(7));
    let head = until(&feed, |head| head.snapshot.contains(&hinted)).await;
    assert!(!head.snapshot.contains(&StateKey::Account(stranger)));
    assert!(head.snapshot.size().1 <= feed.config().max_slots / 8 + 64);
    assert_eq!(
        head.snapshot.slot(&registries.policies, U256::from(7)),
        Some(U256::ZERO)
    );
}
