//! A relay that lies, fails or stalls, and a witness that lies: never a wrong allow, never a stop while enough others are
//! honest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "../../chain/tests/support/evaluation.rs"]
mod evaluation;
#[path = "../../chain/tests/support/feed.rs"]
mod feed;
#[path = "support/identity.rs"]
mod identity;
#[path = "../../chain/tests/support/liar.rs"]
mod liar;
#[path = "support/middle.rs"]
mod middle;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, GRACE, NEEDED, OWN, Sidecar, WITNESSES, witness};
use feed::{AGENT, allowed, decided, until};
use liar::Liar;
use middle::{Middle, Script};
use serde_json::{Value, json};
use writ_chain::{ChainError, EndpointErrorKind as Kind};
use writ_policy::{Effect, ProvedHeader};
use writ_proto::relay::v1;
use writ_proto::relay::v1::watch_response::Message;
use writ_relay::sign;

/// Longer than anything that is waited for takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until this holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never came about: {what}");
}

/// The same block with another state root.
fn forged(header: &[u8]) -> alloy::consensus::Header {
    let mut header: alloy::consensus::Header =
        alloy::rlp::Decodable::decode(&mut &header[..]).unwrap();
    header.state_root = alloy_primitives::B256::repeat_byte(0x33);
    header
}

type Lie = (&'static str, fn(&Cluster, &Middle));

/// Lies about state: the head is good, so the sidecar holds it up against each of them.
const STATE_LIES: &[Lie] = &[
    ("a slot's value", |_, middle| {
        middle.lie_about_state(|mut state| {
            for account in &mut state.accounts {
                account.nonce += 1;
                for slot in &mut account.slots {
                    slot.value = Bytes::from(vec![1; 32]);
                }
            }
            state
        });
    }),
    ("another account's proof", |_, middle| {
        let held: Arc<Mutex<Option<v1::AccountState>>> = Arc::default();
        middle.lie_about_state(move |mut state| {
            let mut held = held.lock().unwrap();
            for account in &mut state.accounts {
                let other = held.replace(account.clone());
                if let Some(other) = other.filter(|o| o.address != account.address) {
                    account.storage_hash = other.storage_hash;
                    account.code_hash = other.code_hash;
                }
                account.proof.reverse();
            }
            state
        });
    }),
    ("slots in each other's place", |_, middle| {
        middle.lie_about_state(|mut state| {
            for account in &mut state.accounts {
                account.nonce ^= u64::from(account.slots.len() < 2);
                if let [first, .., last] = account.slots.as_mut_slice() {
                    std::mem::swap(&mut first.value, &mut last.value);
                    std::mem::swap(&mut first.proof, &mut last.proof);
                }
            }
            state
        });
    }),
    ("proofs without their nodes", |_, middle| {
        middle.lie_about_state(|mut state| {
            state.nodes.iter_mut().for_each(|n| *n = Bytes::new());
            state
        });
    }),
    ("a proof that names no node", |_, middle| {
        middle.lie_about_state(|mut state| {
            state.nodes.clear();
            state
        });
    }),
    ("huge trie nodes", |_, middle| {
        middle.lie_about_state(|mut state| {
            state.nodes = vec![Bytes::from(vec![0; 1 << 20]); 9];
            state
        });
    }),
    ("nothing at all", |_, middle| {
        middle.lie_about_state(|_| v1::State::default());
    }),
    ("the state of another account", |_, middle| {
        middle.lie_about_state(|mut state| {
            for account in &mut state.accounts {
                account.address = Bytes::from(vec![9; 20]);
            }
            state
        });
    }),
];

/// Lies about heads: none of them is taken.
const HEAD_LIES: &[Lie] = &[
    ("no signatures", |_, middle| {
        middle.lie_about_heads(|head| head.signatures.clear());
    }),
    ("too few signatures", |_, middle| {
        middle.lie_about_heads(|head| head.signatures.truncate(NEEDED - 1));
    }),
    ("one witness's signature twice", |_, middle| {
        middle.lie_about_heads(|head| {
            let first = head.signatures[0].clone();
            head.signatures = vec![first; NEEDED];
        });
    }),
    ("one witness's two keys", |cluster, middle| {
        let (keys, chain_id) = (
            [0; NEEDED].map(|n| cluster.ca.keys(&witness(n))),
            cluster.chain_id(),
        );
        let clock = cluster.net.clock.clone();
        middle.lie(move |message| {
            let Message::Head(mut head) = message else {
                return Vec::new();
            };
            let proved = ProvedHeader::from_rlp(head.header.clone()).unwrap();
            let now = writ_chain::Clock::unix_seconds(clock.as_ref());
            let mut messages = Vec::new();
            head.signatures.clear();
            for keys in &keys {
                let (signature, chain) = sign(keys, chain_id, &proved, now).unwrap();
                let chain = chain.into_iter().map(Bytes::from).collect();
                messages.push(Message::Certificate(v1::WitnessCertificate { chain }));
                head.signatures.push(v1::WitnessSignature {
                    leaf: Bytes::copy_from_slice(&signature.leaf),
                    signed_at: signature.signed_at,
                    signature: Bytes::copy_from_slice(&signature.value),
                });
            }
            messages.push(Message::Head(head));
            messages
        });
    }),
    ("signatures that are none", |_, middle| {
        middle.lie_about_heads(|head| {
            for signature in &mut head.signatures {
                signature.signature = Bytes::from(vec![7; 64]);
            }
        });
    }),
    ("signatures of half the length", |_, middle| {
        middle.lie_about_heads(|head| {
            for signature in &mut head.signatures {
                signature.signature.truncate(32);
            }
        });
    }),
    ("another time of signing", |_, middle| {
        middle.lie_about_heads(|head| {
            for signature in &mut head.signatures {
                signature.signed_at += 1;
            }
        });
    }),
    ("another state root", |_, middle| {
        middle.lie_about_heads(|head| {
            head.header = alloy::rlp::encode(forged(&head.header)).into();
        });
    }),
    ("half a header", |_, middle| {
        middle.lie_about_heads(|head| head.header.truncate(100));
    }),
    ("a huge header", |_, middle| {
        middle.lie_about_heads(|head| head.header = Bytes::from(vec![0xff; 9 << 20]));
    }),
    ("certificates withheld", |_, middle| {
        middle.lie(|message| match message {
            Message::Certificate(_) => Vec::new(),
            other => vec![other],
        });
    }),
    ("an empty message", |_, middle| {
        middle.lie(|_| vec![Message::Certificate(v1::WitnessCertificate::default())]);
    }),
    ("silence", |_, middle| middle.lie(|_| Vec::new())),
];

/// A sidecar whose own endpoints are away: it has the relay only.
async fn alone(cluster: &Cluster, middle: &Middle) -> Sidecar {
    cluster.own().iter().for_each(Liar::go_down);
    cluster.sidecar_at(middle.address).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lie_a_sidecar_needs_no_endpoint_at_all() {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    let sidecar = alone(&cluster, &middle).await;
    until(&sidecar.feed, |head| head.warm).await;
    assert!(allowed(&sidecar.feed).await);
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    assert_eq!(
        decided(&sidecar.feed).await.unwrap().reason,
        "agent-revoked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lies_about_heads_never_turns_into_an_allow_or_a_head() {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    for (what, lie) in HEAD_LIES {
        lie(&cluster, &middle);
        let sidecar = alone(&cluster, &middle).await;
        let failed = || sidecar.feed.metrics().failed_polls > 1;
        eventually(what, failed).await;
        let told = || sidecar.client.metrics().sessions > 0;
        eventually(what, told).await;
        for _ in 0..3 {
            cluster.net.chain.mine().await;
        }
        assert!(sidecar.feed.current().is_none(), "{what}");
        assert_eq!(
            decided(&sidecar.feed).await.unwrap_err(),
            ChainError::NoHead,
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lies_about_state_never_turns_into_an_allow() {
    let cluster = Cluster::start().await;
    cluster.net.chain.revoke(AGENT).await;
    let middle = Middle::start(&cluster).await;
    for (what, lie) in STATE_LIES {
        lie(&cluster, &middle);
        let sidecar = alone(&cluster, &middle).await;
        let failed = || sidecar.feed.metrics().failed_polls > 1;
        eventually(what, failed).await;
        assert!(!allowed(&sidecar.feed).await, "{what}");
        assert!(sidecar.feed.current().is_none(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_relay_lies_about_the_endpoints_stand_in_for_it() {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    cluster.net.chain.revoke(AGENT).await;
    for (what, lie) in STATE_LIES.iter().chain(HEAD_LIES) {
        lie(&cluster, &middle);
        let sidecar = cluster.sidecar_at(middle.address).await;
        until(&sidecar.feed, |head| head.warm).await;
        let decision = decided(&sidecar.feed).await.unwrap();
        assert_eq!(decision.reason, "agent-revoked", "{what}");
        let head = cluster.net.mine_and_follow(&sidecar.feed).await;
        assert_eq!(head.hash(), cluster.net.chain.head().await.hash, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_code_is_noticed_and_the_endpoints_asked() {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    middle.play(Script {
        code: Box::new(|_| Bytes::from_static(&[0x60, 0x01])),
        ..Script::default()
    });
    let sidecar = alone(&cluster, &middle).await;
    let caught = || {
        let relay = sidecar.feed.metrics().relay.unwrap();
        relay.errors_of(Kind::Lied) > 0
    };
    eventually("caught", caught).await;
    assert!(sidecar.feed.current().is_none());
    cluster.own().iter().for_each(Liar::be_honest);
    until(&sidecar.feed, |head| head.warm).await;
    assert!(allowed(&sidecar.feed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_head_that_is_replayed_does_not_hide_a_revocation_for_longer_than_its_signatures_last()
 {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    let sidecar = cluster.sidecar_at(middle.address).await;
    until(&sidecar.feed, |head| head.warm).await;
    assert!(allowed(&sidecar.feed).await);
    // From here on the relay repeats what it said last, with the signatures of that time.
    let last: Arc<Mutex<Option<Message>>> = Arc::default();
    middle.lie(move |message| {
        let mut last = last.lock().unwrap();
        match message {
            message @ (Message::Head(_) | Message::Confirmation(_)) => {
                vec![last.get_or_insert(message).clone()]
            }
            other => vec![other],
        }
    });
    cluster.net.chain.revoke(AGENT).await;
    let revoked = cluster.net.chain.head().await;
    // Within the grace and the skew it may pass for a relay that is behind.
    for _ in 0..15 {
        cluster.net.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let head = until(&sidecar.feed, |head| head.number() >= revoked.number).await;
    assert_eq!(head.hash(), revoked.hash);
    assert_eq!(
        decided(&sidecar.feed).await.unwrap().reason,
        "agent-revoked"
    );
    assert_eq!(sidecar.feed.metrics().reorgs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_goes_back_takes_the_sidecar_nowhere() {
    let cluster = Cluster::start().await;
    let middle = Middle::start(&cluster).await;
    let (seen, mut first) = tokio::sync::watch::channel(None);
    middle.lie(move |message| {
        if let Message::Head(head) = &message
            && seen.borrow().is_none()
        {
            seen.send_replace(Some(head.clone()));
        }
        vec![message]
    });
    let sidecar = cluster.sidecar_at(middle.address).await;
    until(&sidecar.feed, |head| head.warm).await;
    // The endpoints may have warmed it before the relay said anything.
    let old: v1::Head = first
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    cluster.net.chain.revoke(AGENT).await;
    let high = cluster.net.mine_and_follow(&sidecar.feed).await;
    middle.lie_about_heads(move |head| *head = old.clone());
    cluster.net.chain.mine().await;
    // Signed a moment ago, and lower: neither taken nor believed over the endpoints.
    for _ in 0..8 {
        cluster.net.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(sidecar.feed.current().unwrap().number() >= high.number());
        assert!(!allowed(&sidecar.feed).await);
    }
    until(&sidecar.feed, |head| head.number() > high.number()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_for_another_chain_and_by_strangers_count_for_nothing() {
    let cluster = Cluster::start().await;
    let source = cluster.ca.source("ns/shop/sa/buyer");
    let witnesses = cluster.witnesses_for(&source);
    let header = cluster.net.chain.head().await;
    let chain_id = cluster.chain_id();
    let now = writ_chain::Clock::unix_seconds(cluster.net.clock.as_ref());
    let vouched = |signers: &[(&str, u64)], at: u64| {
        let mut certificates = writ_relay::Certificates::default();
        let signatures: Vec<_> = signers
            .iter()
            .map(|(path, chain_id)| {
                let keys = cluster.ca.keys(path);
                let (signature, chain) = sign(&keys, *chain_id, &header, now).unwrap();
                certificates.add(chain);
                signature
            })
            .collect();
        witnesses
            .vouched(chain_id, &header, &signatures, &certificates, at)
            .is_ok()
    };
    let (a, b) = (witness(0), witness(2));
    assert!(vouched(&[(&a, chain_id), (&b, chain_id)], now));
    assert!(vouched(
        &[("ns/x/sa/y", chain_id), (&a, chain_id), (&b, chain_id)],
        now
    ));
    assert!(!vouched(&[(&a, chain_id + 1), (&b, chain_id + 1)], now));
    assert!(!vouched(&[(&a, chain_id), (&b, chain_id + 1)], now));
    assert!(!vouched(&[(&a, chain_id), ("ns/x/sa/y", chain_id)], now));
    assert!(!vouched(&[(&a, chain_id), (&a, chain_id)], now));
    assert!(vouched(
        &[(&a, chain_id), (&b, chain_id)],
        now + cluster::SKEW
    ));
    assert!(!vouched(
        &[(&a, chain_id), (&b, chain_id)],
        now + cluster::SKEW + 1
    ));
    assert!(!vouched(
        &[(&a, chain_id), (&b, chain_id)],
        now - cluster::SKEW - 1
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_witness_of_three_that_lies_changes_nothing() {
    let cluster = Cluster::start().await;
    // Each another lie: two that sign the same head are enough.
    let lie = |liar: &Liar, root: u8| {
        liar.lie_about("eth_getBlockByNumber", move |mut answer: Value| {
            let mut header: alloy::consensus::Header =
                serde_json::from_value(answer["result"].clone()).unwrap();
            header.state_root = alloy_primitives::B256::repeat_byte(root);
            header.number += 1000;
            answer["result"]["stateRoot"] = json!(header.state_root);
            answer["result"]["number"] = json!(format!("{:#x}", header.number));
            answer["result"]["hash"] = json!(header.hash_slow());
            answer
        });
    };
    for (n, root) in (0..WITNESSES).zip(0x33..) {
        cluster.net.liars.iter().for_each(Liar::be_honest);
        lie(&cluster.net.liars[OWN + n], root);
        let sidecar = cluster.sidecar().await;
        cluster.own().iter().for_each(Liar::go_down);
        until(&sidecar.feed, |head| head.warm).await;
        cluster.net.mine_and_follow(&sidecar.feed).await;
        assert!(allowed(&sidecar.feed).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_relay_away_the_endpoints_are_read_and_with_it_back_they_are_left_alone() {
    let mut cluster = Cluster::start().await;
    let sidecar = cluster.sidecar().await;
    let relayed = |sidecar: &Sidecar| sidecar.feed.metrics().heads_relayed;
    eventually("a head", || {
        writ_chain::Relay::head(sidecar.client.as_ref()).is_some()
    })
    .await;
    // A look at the endpoints may have been under way.
    for _ in 0..2 {
        cluster.net.mine_and_follow(&sidecar.feed).await;
    }
    let before = relayed(&sidecar);
    assert!(before > 0);
    cluster.relay = None;
    eventually("disconnected", || !sidecar.client.metrics().connected).await;
    // A head of the relay is not waited for longer than this.
    cluster.net.clock.advance(GRACE + Duration::from_secs(1));
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    assert_eq!(decided(&sidecar.feed).await.unwrap().effect, Effect::Deny);
    assert_eq!(relayed(&sidecar), before);
    cluster.start_relay().await;
    eventually("connected", || sidecar.client.metrics().connected).await;
    eventually("relayed", || {
        writ_chain::Relay::head(sidecar.client.as_ref()).is_some()
    })
    .await;
    for _ in 0..2 {
        cluster.net.mine_and_follow(&sidecar.feed).await;
    }
    for own in cluster.own() {
        own.take_seen();
    }
    for _ in 0..3 {
        cluster.net.mine_and_follow(&sidecar.feed).await;
    }
    assert!(relayed(&sidecar) >= before + 3);
    for own in cluster.own() {
        let seen = own.take_seen();
        assert!(seen.is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_sidecars_ask_a_proof_is_read_once_for_each_head() {
    let cluster = Cluster::start().await;
    let mut sidecars = Vec::new();
    for _ in 0..8 {
        sidecars.push(cluster.sidecar().await);
    }
    for sidecar in &sidecars {
        until(&sidecar.feed, |head| head.warm).await;
    }
    // What they want is known at the relay with the head after the next.
    for _ in 0..2 {
        for sidecar in &sidecars {
            cluster.net.mine_and_follow(&sidecar.feed).await;
        }
    }
    cluster.relays_endpoint().take_seen();
    cluster.net.chain.revoke(AGENT).await;
    let head = cluster.net.chain.head().await;
    for sidecar in &sidecars {
        until(&sidecar.feed, |state| {
            state.hash() == head.hash && state.warm
        })
        .await;
        assert_eq!(
            decided(&sidecar.feed).await.unwrap().reason,
            "agent-revoked"
        );
    }
    let seen = cluster.relays_endpoint().take_seen();
    let mut proofs: Vec<String> = seen
        .iter()
        .filter(|(method, _)| method == "eth_getProof")
        .map(|(_, params)| params.to_string())
        .collect();
    let all = proofs.len();
    proofs.sort();
    proofs.dedup();
    assert_eq!(proofs.len(), all, "a proof was read twice: {seen:#?}");
    assert!(all > 0);
}
