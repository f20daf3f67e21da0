//! Endpoints that lie, fail or stall: never a wrong allow, never a stop while a quorum is honest (M-33, T-201).

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

use std::sync::{Arc, Mutex};
use std::time::Duration;

use feed::{AGENT, Net, POLICY, allowed, decided, event, until};
use liar::{Liar, Reply};
use serde_json::{Value, json};
use writ_chain::{ChainConfig, ChainError, ChainEvent, EndpointErrorKind as Kind, StateFeed};
use writ_policy::{Effect, StateKey, U256};

type Lie = (&'static str, Kind, fn(&Liar));

/// Every lie that one endpoint tells, and how it is counted.
const LIES: &[Lie] = &[
    ("a slot's value", Kind::Lied, |liar| {
        liar.lie_about("eth_getProof", |mut answer| {
            if let Some(slot) = answer["result"]["storageProof"].get_mut(0) {
                slot["value"] = json!("0x2a");
            }
            answer["result"]["nonce"] = json!("0x7");
            answer
        });
    }),
    ("an account's code hash", Kind::Lied, |liar| {
        liar.lie_about("eth_getProof", |mut answer| {
            answer["result"]["codeHash"] = json!(format!("0x{}", "11".repeat(32)));
            answer
        });
    }),
    ("a header's state root", Kind::Lied, |liar| {
        liar.lie_about("eth_getBlockByNumber", |mut answer| {
            answer["result"]["stateRoot"] = json!(format!("0x{}", "22".repeat(32)));
            answer
        });
    }),
    (
        "another header with its right hash",
        Kind::Disagreed,
        |liar| liar.lie_about("eth_getBlockByNumber", forged),
    ),
    ("proofs of an empty trie", Kind::Lied, |liar| {
        liar.lie_about("eth_getProof", |mut answer| {
            answer["result"]["accountProof"] = json!([]);
            answer
        });
    }),
    ("a member twice", Kind::Malformed, |liar| {
        liar.lie(|call| {
            let text = call.answer.to_string();
            Reply::Raw(text.replacen('{', r#"{"id":0,"#, 1).into_bytes())
        });
    }),
    ("half an answer", Kind::Malformed, |liar| {
        liar.lie(|call| {
            let text = call.answer.to_string();
            Reply::Raw(text.as_bytes()[..text.len() / 2].to_vec())
        });
    }),
    ("another id", Kind::WrongId, |liar| {
        liar.lie(|mut call| {
            call.answer["id"] = json!(u64::MAX);
            Reply::Json(call.answer)
        });
    }),
    ("another chain", Kind::WrongChain, |liar| {
        liar.lie_about("eth_chainId", |mut answer| {
            answer["result"] = json!("0x1");
            answer
        });
    }),
    ("a body without end", Kind::TooLarge, |liar| {
        liar.lie(|_| Reply::Endless)
    }),
    ("a huge body", Kind::TooLarge, |liar| {
        liar.lie(|_| Reply::Raw(vec![b' '; 9 * 1024 * 1024]))
    }),
    ("an error", Kind::Rpc, |liar| {
        liar.lie(|call| Reply::Json(json!({"jsonrpc": "2.0", "id": call.answer["id"], "error": {"code": -32000, "message": "no"}})));
    }),
    ("no block", Kind::NotFound, |liar| {
        liar.lie_about("eth_getBlockByNumber", |mut answer| {
            answer["result"] = Value::Null;
            answer
        });
    }),
    ("a redirect", Kind::Status, |liar| {
        let home = liar.url().to_string();
        liar.lie(move |_| Reply::Status(307, Some(home.clone())));
    }),
    ("too many requests", Kind::Throttled, |liar| {
        liar.lie(|_| Reply::Status(429, None))
    }),
    ("no connection", Kind::Connect, |liar| liar.go_down()),
];

fn forged(mut answer: Value) -> Value {
    let mut header: alloy::consensus::Header =
        serde_json::from_value(answer["result"].clone()).unwrap();
    header.state_root = alloy_primitives::B256::repeat_byte(0x33);
    answer["result"]["stateRoot"] = json!(header.state_root);
    answer["result"]["hash"] = json!(header.hash_slow());
    answer
}

fn errors(feed: &StateFeed, endpoint: usize, kind: Kind) -> u64 {
    feed.metrics().endpoints[endpoint].errors_of(kind)
}

/// Follows blocks until the first endpoint was caught in this kind of failure.
async fn caught(net: &Net, feed: &StateFeed, kind: Kind) {
    for _ in 0..200 {
        if errors(feed, 0, kind) > 0 {
            return;
        }
        net.mine_and_follow(feed).await;
    }
    panic!("never caught: {:#?}", feed.metrics());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_of_three_is_caught_and_stops_nothing() {
    let net = Net::start(3).await;
    for (what, kind, lie) in LIES {
        net.liars[0].be_honest();
        lie(&net.liars[0]);
        let feed = net.feed().await;
        caught(&net, &feed, *kind).await;
        net.mine_and_follow(&feed).await;
        let decision = decided(&feed).await.unwrap();
        assert_eq!(
            decision.effect,
            Effect::Allow,
            "with an endpoint that serves {what}"
        );
        assert_eq!(decision.block_hash, net.chain.head().await.hash.0);
        for honest in [1, 2] {
            assert_eq!(
                feed.metrics().endpoints[honest].errors_of(Kind::Lied),
                0,
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_liar_never_turns_into_an_allow() {
    let net = Net::start(1).await;
    net.chain.revoke(AGENT).await;
    for (what, kind, lie) in LIES.iter().filter(|(_, kind, _)| *kind != Kind::Disagreed) {
        lie(&net.liars[0]);
        let feed = net.feed().await;
        let mut events = feed.events();
        event(&mut events, |event| {
            matches!(event, ChainEvent::Failed(_)).then_some(())
        })
        .await;
        assert!(errors(&feed, 0, *kind) > 0, "{what}");
        assert!(feed.current().is_none(), "{what}");
        assert_eq!(
            decided(&feed).await.unwrap_err(),
            ChainError::NoHead,
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_does_not_hash_to_the_proved_hash_is_fetched_elsewhere() {
    let net = Net::start(3).await;
    for liar in &net.liars[..2] {
        liar.lie_about("eth_getCode", |mut answer| {
            answer["result"] = json!("0x600160005260206000f3");
            answer
        });
    }
    let feed = net.feed().await;
    feed.ready().await;
    assert!(allowed(&feed).await);
    let code = feed.current().unwrap().snapshot.code(&POLICY).unwrap();
    assert_eq!(
        code,
        writ_policy::testing::verdict_contract(&writ_policy::testing::allowing())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_proofs_are_noticed() {
    let net = Net::start(1).await;
    let feed = net.feed().await;
    feed.ready().await;
    // The other account's proof under this account's name, and the other slot's under this slot's.
    let held: Arc<Mutex<Option<Value>>> = Arc::default();
    net.liars[0].lie(move |mut call| {
        if call.method == "eth_getProof" {
            let mut held = held.lock().unwrap();
            let other = held.replace(call.answer["result"].clone());
            let slots = call.answer["result"]["storageProof"]
                .as_array()
                .map_or(0, Vec::len);
            if slots > 1 {
                let list = call.answer["result"]["storageProof"]
                    .as_array_mut()
                    .unwrap();
                let first = list[0]["proof"].clone();
                list[0]["proof"] = list[1]["proof"].clone();
                list[1]["proof"] = first;
            } else if let Some(other) = other {
                call.answer["result"]["accountProof"] = other["accountProof"].clone();
            }
        }
        Reply::Json(call.answer)
    });
    let mut events = feed.events();
    let before = feed.current().unwrap().hash();
    net.chain.revoke(AGENT).await;
    let error = event(&mut events, |event| match event {
        ChainEvent::Failed(error @ ChainError::Unproved { .. }) => Some(error.clone()),
        _ => None,
    });
    let text = error.await.to_string();
    assert!(
        text.contains("proof") && !text.contains("secret-key"),
        "{text}"
    );
    assert_eq!(feed.current().unwrap().hash(), before);
    net.liars[0].be_honest();
    until(&feed, |head| head.hash() != before).await;
    assert_eq!(decided(&feed).await.unwrap().reason, "agent-revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_proofs_do_not_hide_a_revocation() {
    let net = Net::start(3).await;
    let old: Arc<Mutex<std::collections::BTreeMap<String, Value>>> = Arc::default();
    // All endpoints tell the true head, and the state of the first block they saw.
    for liar in &net.liars {
        let old = Arc::clone(&old);
        liar.lie(move |mut call| {
            if call.method == "eth_getProof" {
                let key = format!("{}{}", call.params[0], call.params[1]);
                let mut old = old.lock().unwrap();
                call.answer["result"] = old
                    .entry(key)
                    .or_insert(call.answer["result"].clone())
                    .clone();
            }
            Reply::Json(call.answer)
        });
    }
    let feed = net.feed().await;
    feed.ready().await;
    assert!(allowed(&feed).await);
    let mut events = feed.events();
    net.chain.revoke(AGENT).await;
    event(&mut events, |e| {
        matches!(e, ChainEvent::Failed(ChainError::Unproved { .. })).then_some(())
    })
    .await;
    // The old head may be used within the bound, never beyond it.
    net.clock.advance(Duration::from_secs(16));
    assert!(matches!(decided(&feed).await, Err(ChainError::TooOld(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_liars_of_three_leave_no_quorum() {
    let net = Net::start(3).await;
    net.liars[0].lie_about("eth_getBlockByNumber", forged);
    net.liars[1].lie_about("eth_getBlockByNumber", |mut answer| {
        answer["result"]["number"] = json!("0x1");
        answer
    });
    let feed = net.feed().await;
    let mut events = feed.events();
    let refused = event(&mut events, |event| match event {
        ChainEvent::Failed(error @ ChainError::NoQuorum { .. }) => Some(error.clone()),
        _ => None,
    })
    .await;
    assert_eq!(
        refused,
        ChainError::NoQuorum {
            quorum: 2,
            endpoints: 3,
            answered: 2
        }
    );
    assert!(feed.current().is_none());
    // One of them comes to its senses.
    net.liars[1].be_honest();
    feed.ready().await;
    assert!(allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_liars_stop_a_running_feed_until_its_state_is_too_old() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    feed.ready().await;
    let mut events = feed.events();
    net.liars[0].lie_about("eth_getBlockByNumber", forged);
    net.liars[1].go_down();
    event(&mut events, |e| {
        matches!(e, ChainEvent::Failed(ChainError::NoQuorum { .. })).then_some(())
    })
    .await;
    net.chain.revoke(AGENT).await;
    assert!(allowed(&feed).await, "cached state within the bound");
    net.clock.advance(Duration::from_secs(16));
    assert!(!allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_endpoint_and_one_that_stalls_do_not_hold_the_head_back() {
    for frozen_head in [true, false] {
        let net = Net::start(3).await;
        let mut frozen: Option<Value> = None;
        net.liars[0].lie(move |mut call| {
            if call.method == "eth_getBlockByNumber" {
                if !frozen_head {
                    return Reply::Never;
                }
                let id = call.answer["id"].clone();
                call.answer = frozen.get_or_insert(call.answer).clone();
                call.answer["id"] = id;
            }
            Reply::Json(call.answer)
        });
        let feed = net.feed().await;
        feed.ready().await;
        for _ in 0..3 {
            net.mine_and_follow(&feed).await;
        }
        assert!(allowed(&feed).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_claimed_far_ahead_by_one_is_not_followed() {
    let net = Net::start(3).await;
    net.liars[0].lie_about("eth_getBlockByNumber", |mut answer| {
        let mut header: alloy::consensus::Header =
            serde_json::from_value(answer["result"].clone()).unwrap();
        header.number = u64::MAX;
        answer["result"]["number"] = json!("0xffffffffffffffff");
        answer["result"]["hash"] = json!(header.hash_slow());
        answer
    });
    let feed = net.feed().await;
    feed.ready().await;
    let head = net.mine_and_follow(&feed).await;
    assert_eq!(head.number(), net.chain.head().await.number);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_a_block_apart_agree_on_the_lower() {
    let net = Net::start(2).await;
    let tip = net.chain.head().await.number;
    let parent = net
        .rpc(
            "eth_getBlockByNumber",
            json!([format!("{:#x}", tip - 1), false]),
        )
        .await;
    net.liars[0].lie(move |mut call| {
        if call.method == "eth_getBlockByNumber" && call.params[0] == "latest" {
            call.answer["result"] = parent.clone();
        }
        Reply::Json(call.answer)
    });
    let feed = net.feed().await;
    let head = until(&feed, |_| true).await;
    assert_eq!(head.number(), tip - 1);
    net.liars[0].be_honest();
    until(&feed, |head| head.number() == tip && head.warm).await;
    assert!(allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_endpoint_is_not_waited_for_when_the_others_are_a_block_apart() {
    let net = Net::start(3).await;
    net.chain.mine().await;
    let tip = net.chain.head().await.number;
    let parent = net
        .rpc(
            "eth_getBlockByNumber",
            json!([format!("{:#x}", tip - 1), false]),
        )
        .await;
    net.liars[0].lie(move |mut call| {
        if call.method == "eth_getBlockByNumber" && call.params[0] == "latest" {
            call.answer["result"] = parent.clone();
        }
        Reply::Json(call.answer)
    });
    net.liars[1].lie(|_| Reply::Never);
    // Longer than this test may take.
    let config = ChainConfig {
        request_timeout: Duration::from_secs(600),
        ..net.config()
    };
    let feed = net.feed_with(config).await;
    let head = until(&feed, |_| true).await;
    assert_eq!(head.number(), tip - 1);
    assert!(allowed(&feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_state_comes_from_another_endpoint_when_the_first_stalls() {
    let net = Net::start(3).await;
    let feed = net.feed().await;
    feed.ready().await;
    for liar in &net.liars[..2] {
        liar.lie(|call| {
            if call.method == "eth_getProof" {
                Reply::Never
            } else {
                Reply::Json(call.answer)
            }
        });
    }
    let key = StateKey::Slot(net.chain.registries.agents, U256::from(0x1234));
    let head = feed
        .fetch_missing(&[key], Duration::from_secs(20))
        .await
        .unwrap();
    assert!(head.snapshot.contains(&key));
    let metrics = feed.metrics();
    assert_eq!((metrics.cold_waits, metrics.cold_served), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_for_cold_state_is_bounded() {
    let net = Net::start(1).await;
    let feed = net
        .feed_with(ChainConfig {
            max_cold_wait: Duration::from_millis(250),
            ..net.config()
        })
        .await;
    until(&feed, |head| head.warm).await;
    net.liars[0].lie(|_| Reply::Never);
    let key = StateKey::Slot(net.chain.registries.agents, U256::from(0x1234));
    let refused = feed.fetch_missing(&[key], Duration::MAX).await.unwrap_err();
    assert_eq!(refused, ChainError::ColdTimeout(250));
    let many = vec![key; 257];
    assert_eq!(
        feed.fetch_missing(&many, Duration::MAX).await.unwrap_err(),
        ChainError::TooManyKeys(257, 256)
    );
}
