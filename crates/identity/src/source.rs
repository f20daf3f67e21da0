//! Where the own SVID and the bundles come from.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{Svid, TrustBundles};

/// A live view of the own SVID and of the trust bundles. Reads are lock-free.
pub trait SvidSource: fmt::Debug + Send + Sync {
    /// The newest SVID. It stays the last one while the Workload API is away, so look at
    /// [`Svid::is_valid_at`] before relying on it.
    fn svid(&self) -> Arc<Svid>;
    /// The newest bundles.
    fn bundles(&self) -> Arc<TrustBundles>;
    /// Counts changes of SVID or bundles; await [`watch::Receiver::changed`].
    fn watch(&self) -> watch::Receiver<u64>;
}

/// What is replaced as a whole.
#[derive(Debug)]
pub(crate) struct Material {
    pub svid: Arc<Svid>,
    pub bundles: Arc<TrustBundles>,
}

/// A source that changes when told to: for tests, tools, and SVIDs delivered another way.
#[derive(Debug)]
pub struct StaticSource {
    material: ArcSwap<Material>,
    revision: watch::Sender<u64>,
}

impl StaticSource {
    /// A source of this SVID and these bundles.
    pub fn new(svid: Svid, bundles: TrustBundles) -> Self {
        Self::of(Material {
            svid: Arc::new(svid),
            bundles: Arc::new(bundles),
        })
    }

    pub(crate) fn of(material: Material) -> Self {
        Self {
            material: ArcSwap::from_pointee(material),
            revision: watch::Sender::new(0),
        }
    }

    /// Replaces both at once.
    pub fn replace(&self, svid: Svid, bundles: TrustBundles) {
        self.publish(Material {
            svid: Arc::new(svid),
            bundles: Arc::new(bundles),
        });
    }

    pub(crate) fn publish(&self, material: Material) {
        self.material.store(Arc::new(material));
        self.revision.send_modify(|revision| *revision += 1);
    }
}

impl SvidSource for StaticSource {
    fn svid(&self) -> Arc<Svid> {
        Arc::clone(&self.material.load().svid)
    }
    fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.material.load().bundles)
    }
    fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
