//! Verification: everything that a PEP checks of one request, with the real certificate chain, and
//! with a replay store that is durable before the request is admitted.

use std::sync::Arc;

use base64::Engine as _;
use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;
use writ_identity::TrustBundles;
use writ_pep::{Body, Inbound, RedbReplayStore};
use writ_sae::{Durability, Jti, ReplayFuture, ReplayStore, Use, issue_envelope};

use crate::latency;
use crate::world::{World, keys_file};

/// Remembers nothing: what the checks cost without a disk.
struct Forgetful;

impl ReplayStore for Forgetful {
    fn use_once(&self, _: &str, _: Jti, _: u64, _: u64, _: Durability) -> ReplayFuture<'_> {
        Box::pin(async { Ok(Use::Fresh) })
    }
    fn complete_since(&self) -> Option<u64> {
        None
    }
}

/// Budget: 1 ms required, 0.15 ms ours. With the durable store the disk's fsync is in it; the
/// checks alone are what a PEP adds to that.
pub fn stage(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut world = World::new();
    world.chains = Some(bundle());
    let folder = tempfile::tempdir_in(latency::target()).unwrap();
    let path = folder.path().join("replay.redb");
    let durable = RedbReplayStore::open(&path, world.limits, world.opened).unwrap();
    let stores: [(&str, Arc<dyn ReplayStore>, usize); 2] = [
        ("checks", Arc::new(Forgetful), latency::ACTIONS),
        (
            "with-durable-replay",
            Arc::new(durable),
            latency::ACTIONS / 4,
        ),
    ];
    let mut claims = world.claims();
    let head = world.head();
    let mut next = 0_u128;
    // A new envelope for every action: none is admitted twice.
    let mut prepare = || {
        next += 1;
        claims.jti = Jti(next.to_be_bytes());
        let compact = issue_envelope(&claims, &world.agent.signer).unwrap();
        let mut fields = world.fields.clone();
        fields.insert("sae", HeaderValue::from_str(compact.as_str()).unwrap());
        fields
    };
    let mut group = c.benchmark_group("verify");
    for (name, store, actions) in stores {
        let pep = world.pep_with(store);
        let run = |fields: HeaderMap| {
            let inbound = Inbound {
                head: &head,
                body: Body::Whole(&world.body),
                headers: &fields,
                peer: world.peer.as_ref(),
                channel_binding: world.exporter,
                now: world.now,
            };
            let _admitted = runtime.block_on(pep.check(inbound)).unwrap();
        };
        group.bench_function(name, |b| {
            b.iter_batched(&mut prepare, run, BatchSize::SmallInput)
        });
        latency::keep("verify", name, latency::time(actions, &mut prepare, run));
    }
    group.finish();
}

fn bundle() -> Arc<TrustBundles> {
    let ca = keys_file()["ca"].as_str().unwrap().to_owned();
    let ca = base64::engine::general_purpose::STANDARD
        .decode(ca)
        .unwrap();
    let mut bundles = TrustBundles::new();
    bundles
        .insert("example.org", [CertificateDer::from(ca)])
        .unwrap();
    Arc::new(bundles)
}
