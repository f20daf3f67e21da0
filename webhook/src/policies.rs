//! Which AgentPolicy a new pod is under, from a watch on all of them.

mod select;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use writ_api::{AgentPolicy, AgentPolicyStatus};

use crate::choice::{Choice, Chosen, Static};
use crate::refusal::{Code, Refusals};

pub use select::select;

/// Not listed yet.
const UNKNOWN: u8 = 0;
/// The cluster has no such kind.
const ABSENT: u8 = 1;
/// The store has what the cluster has.
const LISTED: u8 = 2;

/// Policies in one answer of a list. Each may hold a whole catalog, and the webhook keeps none.
const PAGE: u32 = 50;

/// The policies of the cluster, and what holds in namespaces that have none.
pub struct Policies {
    store: Store<AgentPolicy>,
    state: Arc<AtomicU8>,
    fallback: Option<Static>,
}

impl Policies {
    /// Policies that the future keeps. With no `fallback`, pods of a namespace without any policy
    /// are refused.
    pub fn watch(
        client: Client,
        fallback: Option<Static>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (store, writer) = reflector::store();
        let state = Arc::new(AtomicU8::new(UNKNOWN));
        let seen = Arc::clone(&state);
        let config = watcher::Config::default().page_size(PAGE);
        let events = watcher(Api::<AgentPolicy>::all(client), config)
            .default_backoff()
            .modify(lighten)
            .reflect(writer);
        let keep = async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::InitDone) => {
                        if seen.swap(LISTED, Ordering::AcqRel) != LISTED {
                            tracing::info!("AgentPolicies listed");
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        // What was listed once stays in force: a kind that is gone for a moment,
                        // as while its definition is replaced, must not free its pods.
                        if is_absent(&error) {
                            let _ = seen.compare_exchange(
                                UNKNOWN,
                                ABSENT,
                                Ordering::AcqRel,
                                Ordering::Acquire,
                            );
                        }
                        tracing::warn!(%error, "AgentPolicies not watched; trying again");
                    }
                }
            }
        };
        let policies = Self {
            store,
            state,
            fallback,
        };
        (policies, keep)
    }
}

const NOT_LISTED: &str = "the AgentPolicies of the cluster are not listed yet";
const NO_KIND: &str = "the cluster does not know AgentPolicies; install Writ's CRDs";

impl Choice for Policies {
    fn choose(&self, namespace: &str, pod: &Pod) -> Result<Chosen, Refusals> {
        self.ready().map_err(|missing| {
            Refusals::one(Code::PoliciesUnknown, "metadata.namespace", missing)
        })?;
        let policies = self.store.state();
        let mut here = policies
            .iter()
            .map(AsRef::as_ref)
            .filter(|policy: &&AgentPolicy| policy.namespace().as_deref() == Some(namespace))
            .peekable();
        match &self.fallback {
            Some(fallback) if here.peek().is_none() => fallback.choose(namespace, pod),
            _ => select(here, pod),
        }
    }

    fn ready(&self) -> Result<(), &'static str> {
        match self.state.load(Ordering::Acquire) {
            LISTED => Ok(()),
            ABSENT if self.fallback.is_some() => Ok(()),
            ABSENT => Err(NO_KIND),
            _ => Err(NOT_LISTED),
        }
    }
}

/// Whether the API server knows no such kind.
fn is_absent(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            if status.code == 404
    )
}

/// Leaves of a policy what choosing needs: catalogs are large, and every replica holds every policy.
fn lighten(policy: &mut AgentPolicy) {
    policy.metadata.managed_fields = None;
    policy.metadata.annotations = None;
    policy.spec.rules = None;
    policy.spec.catalog = None;
    policy.spec.inbound = Vec::new();
    policy.spec.tls.authorities.clear();
    policy.status = policy.status.take().map(|status| AgentPolicyStatus {
        conditions: status.conditions,
        ..AgentPolicyStatus::default()
    });
}
