//! More state than comes with one head.

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

use alloy_primitives::{B256, U256};
use cluster::Cluster;
use feed::{POLICY, allowed, until, warm};
use writ_chain::WarmSet;
use writ_policy::StateKey;

/// Far more than a head's message has room for.
const SLOTS: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_wants_more_than_a_head_brings_gets_all_of_it_from_the_relay() {
    let cluster = Cluster::start().await;
    let registry = cluster.net.chain.registries.agents;
    let wanted = WarmSet {
        keys: (0..SLOTS)
            .map(|slot| StateKey::Slot(registry, U256::from(slot)))
            .collect(),
        ..warm()
    };
    // Nobody else is there to be asked.
    cluster.own().iter().for_each(liar::Liar::go_down);
    let sidecar = cluster.sidecar_with(cluster.address, wanted).await;
    until(&sidecar.feed, |head| head.warm).await;
    assert!(allowed(&sidecar.feed).await);
    // Another storage root: all of it is proved anew.
    for agent in [0x21, 0x22] {
        let agent = B256::repeat_byte(agent);
        cluster.net.chain.install(agent, POLICY).await;
        cluster.net.mine_and_follow(&sidecar.feed).await;
        assert!(allowed(&sidecar.feed).await);
    }
}
