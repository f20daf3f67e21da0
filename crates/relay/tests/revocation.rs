//! Revocations by notice: at once, for a bounded time, and never more than taking rights away.

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

use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, HOLD, Sidecar};
use feed::{AGENT, allowed, decided, until};
use writ_chain::Clock;
use writ_relay::{Enforced, Notice, settle};

const REVOKED: &str = "spiffe://relay.test/ns/shop/sa/buyer";
/// Longer than anything that is waited for takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn notice(cluster: &Cluster) -> Notice {
    Notice {
        id: "9f1c".to_owned(),
        spiffe_id: REVOKED.to_owned(),
        agent_key: Some(AGENT.0),
        issued_at: cluster.net.clock.unix_seconds(),
    }
}

/// Waits until the relay counts so many.
async fn counted(cluster: &Cluster, enforcing: usize, connected: usize) {
    let id = cluster.chain_id();
    let mut changed = cluster.relay().enforcement(id).unwrap();
    let expected = Enforced {
        enforcing,
        connected,
    };
    let wait = async {
        while cluster.relay().enforced(id, "9f1c") != expected {
            changed.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    let now = cluster.relay().enforced(id, "9f1c");
    assert!(waited.is_ok(), "{now:?} instead of {expected:?}");
}

/// Looks after a sidecar's notices, as the sidecar itself does.
fn settling(sidecar: &Sidecar) -> tokio::task::JoinHandle<()> {
    tokio::spawn(settle(
        Arc::clone(&sidecar.holds),
        Arc::clone(&sidecar.feed),
        Arc::clone(&sidecar.client),
    ))
}

async fn connected(cluster: &Cluster, count: usize) -> Vec<Sidecar> {
    let mut sidecars = Vec::new();
    for _ in 0..count {
        sidecars.push(cluster.sidecar().await);
    }
    for sidecar in &sidecars {
        until(&sidecar.feed, |head| head.warm).await;
    }
    counted(cluster, 0, count).await;
    sidecars
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_revocation_is_enforced_by_all_of_twenty_sidecars_before_the_chain_knows() {
    let cluster = Cluster::start().await;
    let sidecars = connected(&cluster, 20).await;
    for sidecar in &sidecars {
        assert!(!sidecar.holds.refuses(REVOKED));
    }
    cluster
        .relay()
        .set_notices(cluster.chain_id(), vec![notice(&cluster)]);
    counted(&cluster, 20, 20).await;
    for sidecar in &sidecars {
        assert!(sidecar.holds.refuses(REVOKED));
        assert!(sidecar.holds.refuses_key(&AGENT.0));
        assert!(
            !sidecar
                .holds
                .refuses("spiffe://relay.test/ns/shop/sa/other")
        );
    }
    // One that connects later is told, too.
    let late = cluster.sidecar().await;
    counted(&cluster, 21, 21).await;
    assert!(late.holds.refuses(REVOKED));
    drop(late);
    counted(&cluster, 20, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_without_a_key_is_confirmed_once_its_key_is_known() {
    let cluster = Cluster::start().await;
    let sidecar = connected(&cluster, 1).await.remove(0);
    let task = settling(&sidecar);
    let without = Notice {
        agent_key: None,
        ..notice(&cluster)
    };
    cluster
        .relay()
        .set_notices(cluster.chain_id(), vec![without]);
    counted(&cluster, 1, 1).await;
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    assert!(sidecar.holds.refuses(REVOKED), "nothing to look up yet");
    cluster
        .relay()
        .set_notices(cluster.chain_id(), vec![notice(&cluster)]);
    let confirmed = async {
        while sidecar.holds.refuses(REVOKED) {
            tokio::task::yield_now().await;
        }
    };
    let confirmed = tokio::time::timeout(PATIENCE, confirmed).await;
    assert!(confirmed.is_ok(), "refused by notice still");
    counted(&cluster, 1, 1).await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_the_chain_confirms_it_the_chain_decides() {
    let cluster = Cluster::start().await;
    let sidecar = connected(&cluster, 1).await.remove(0);
    let task = settling(&sidecar);
    cluster
        .relay()
        .set_notices(cluster.chain_id(), vec![notice(&cluster)]);
    counted(&cluster, 1, 1).await;
    assert!(sidecar.holds.refuses(REVOKED));
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    let settled = async {
        while sidecar.holds.refuses(REVOKED) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    assert_eq!(
        decided(&sidecar.feed).await.unwrap().reason,
        "agent-revoked"
    );
    counted(&cluster, 1, 1).await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_makes_a_revocation_up_denies_for_a_bounded_time_and_not_again_soon() {
    let cluster = Cluster::start().await;
    let sidecar = connected(&cluster, 1).await.remove(0);
    let task = settling(&sidecar);
    let id = cluster.chain_id();
    cluster.relay().set_notices(id, vec![notice(&cluster)]);
    counted(&cluster, 1, 1).await;
    cluster.net.clock.advance(HOLD);
    assert!(!sidecar.holds.refuses(REVOKED));
    counted(&cluster, 0, 1).await;
    let again = Notice {
        id: "another".to_owned(),
        ..notice(&cluster)
    };
    let before = sidecar.client.metrics().notices;
    cluster.relay().set_notices(id, vec![again]);
    let told = async {
        while sidecar.client.metrics().notices == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(!sidecar.holds.refuses(REVOKED));
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_notice_gives_nothing_that_the_chain_took() {
    let cluster = Cluster::start().await;
    let sidecar = connected(&cluster, 1).await.remove(0);
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    let id = cluster.chain_id();
    cluster.relay().set_notices(id, vec![notice(&cluster)]);
    counted(&cluster, 1, 1).await;
    cluster.relay().set_notices(id, Vec::new());
    assert!(!allowed(&sidecar.feed).await);
    assert!(sidecar.holds.refuses(REVOKED), "a hold is not taken back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_connects_long_after_a_revocation_is_counted_once_the_chain_confirms_it() {
    let cluster = Cluster::start().await;
    let old = Notice {
        issued_at: cluster.net.clock.unix_seconds() - HOLD.as_secs() - 1,
        ..notice(&cluster)
    };
    let id = cluster.chain_id();
    cluster.relay().set_notices(id, vec![old.clone()]);
    let sidecar = connected(&cluster, 1).await.remove(0);
    let task = settling(&sidecar);
    let told = async {
        while sidecar.client.metrics().notices == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    // The notice alone is too old to refuse anybody.
    assert!(!sidecar.holds.refuses(REVOKED) && allowed(&sidecar.feed).await);
    counted(&cluster, 0, 1).await;
    cluster.net.chain.revoke(AGENT).await;
    cluster.net.mine_and_follow(&sidecar.feed).await;
    assert!(!allowed(&sidecar.feed).await);
    counted(&cluster, 1, 1).await;
    task.abort();
    // And one that connects after that.
    let late = cluster.sidecar().await;
    let task = settling(&late);
    counted(&cluster, 2, 2).await;
    task.abort();
}
