//! SVIDs from a SPIFFE Workload API, by the `spiffe` crate: any implementation, any transport
//! that its endpoint address names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use spiffe::x509_source::{SvidPicker, X509SourceState};
use spiffe::{X509BundleSet, X509Source, X509SourceBuilder, X509Svid};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::source::Material;
use crate::{IdentityError, StaticSource, Svid, SvidSource, TrustBundles, leaf};

/// Whether the Workload API still stands behind the SVID that the source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceHealth {
    /// The newest material is in use.
    Current,
    /// The Workload API answered that no identity is issued (any more). The last SVID stays until
    /// it expires: an agent that restarts says the same for a moment; revocation is on chain.
    Withdrawn,
    /// The newest material was unusable, or of another identity, and was not taken.
    Rejected,
    /// The client ended; nothing is refreshed any more.
    Closed,
}

impl SourceHealth {
    const ALL: [Self; 4] = [Self::Current, Self::Withdrawn, Self::Rejected, Self::Closed];
}

/// SVID and bundles, kept fresh in the background. Dropping it ends the connection.
#[derive(Debug)]
pub struct WorkloadApiSource {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    current: StaticSource,
    health: AtomicU8,
}

/// Settings of a [`WorkloadApiSource`].
#[derive(Debug, Clone)]
pub struct WorkloadApiSourceBuilder {
    endpoint: String,
    spiffe_id: Option<String>,
    first_svid_within: Duration,
    backoff: (Duration, Duration),
}

impl WorkloadApiSourceBuilder {
    /// Takes the SVID of this SPIFFE ID, where the workload has several.
    #[must_use]
    pub fn spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.spiffe_id = Some(id.into());
        self
    }

    /// How long [`Self::connect`] waits for the first SVID (30 s): entries may come late.
    #[must_use]
    pub fn first_svid_within(mut self, timeout: Duration) -> Self {
        self.first_svid_within = timeout;
        self
    }

    /// Shortest and longest pause between attempts to connect anew (200 ms, 10 s).
    #[must_use]
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.backoff = (shortest, longest);
        self
    }

    /// Connects and waits for the first SVID.
    ///
    /// # Errors
    /// [`IdentityError::WorkloadApi`] when none comes in time, and what [`Svid::new`] refuses.
    pub async fn connect(self) -> Result<WorkloadApiSource, IdentityError> {
        if let Some(id) = &self.spiffe_id {
            leaf::workload_id(id)?;
        }
        let mut builder = X509SourceBuilder::new()
            .endpoint(&self.endpoint)
            .reconnect_backoff(self.backoff.0, self.backoff.1)
            .initial_sync_timeout(self.first_svid_within);
        if let Some(id) = self.spiffe_id {
            builder = builder.picker(ById(id));
        }
        let source = builder
            .build()
            .await
            .map_err(|e| IdentityError::WorkloadApi(e.to_string()))?;
        // Subscribe before the first read, so that no update falls between them.
        let updates = source.updated();
        let material = material(&source.state())?;
        let shared = Arc::new(Shared {
            current: StaticSource::of(material),
            health: AtomicU8::new(SourceHealth::Current as u8),
        });
        let task = tokio::spawn(follow(source, updates, Arc::clone(&shared)));
        Ok(WorkloadApiSource { shared, task })
    }
}

impl WorkloadApiSource {
    /// Settings for the Workload API at `endpoint`: a socket path, or the address of the SPIFFE
    /// Workload Endpoint specification (`unix:///run/spire/agent.sock`, `tcp://127.0.0.1:8081`).
    pub fn builder(endpoint: &str) -> WorkloadApiSourceBuilder {
        let endpoint = if endpoint.starts_with('/') {
            format!("unix://{endpoint}")
        } else {
            endpoint.to_owned()
        };
        WorkloadApiSourceBuilder {
            endpoint,
            spiffe_id: None,
            first_svid_within: Duration::from_secs(30),
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
        }
    }

    /// Connects with the default settings.
    ///
    /// # Errors
    /// As [`WorkloadApiSourceBuilder::connect`].
    pub async fn connect(endpoint: &str) -> Result<Self, IdentityError> {
        Self::builder(endpoint).connect().await
    }

    /// What readiness and metrics report.
    pub fn health(&self) -> SourceHealth {
        let stored = usize::from(self.shared.health.load(Ordering::Acquire));
        SourceHealth::ALL
            .get(stored)
            .copied()
            .unwrap_or(SourceHealth::Closed)
    }
}

impl SvidSource for WorkloadApiSource {
    fn svid(&self) -> Arc<Svid> {
        self.shared.current.svid()
    }
    fn bundles(&self) -> Arc<TrustBundles> {
        self.shared.current.bundles()
    }
    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.current.watch()
    }
}

impl Drop for WorkloadApiSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct ById(String);

impl SvidPicker for ById {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        svids
            .iter()
            .position(|svid| svid.spiffe_id().to_string() == self.0)
    }
}

async fn follow(source: X509Source, mut updates: spiffe::X509SourceUpdates, shared: Arc<Shared>) {
    while updates.changed().await.is_ok() {
        let health = apply(&source.state(), &shared);
        shared.health.store(health as u8, Ordering::Release);
    }
    shared
        .health
        .store(SourceHealth::Closed as u8, Ordering::Release);
}

fn apply(state: &X509SourceState, shared: &Shared) -> SourceHealth {
    if let Some(reason) = state.withdrawal() {
        tracing::warn!(%reason, "the Workload API issues no identity; keeping the last SVID until it expires");
        return SourceHealth::Withdrawn;
    }
    let held = shared.current.svid();
    match material(state) {
        Ok(new) if new.svid.spiffe_id() == held.spiffe_id() => {
            tracing::info!(svid = ?new.svid, "SVID or bundles rotated");
            shared.current.publish(new);
            SourceHealth::Current
        }
        Ok(new) => {
            tracing::error!(
                held = held.spiffe_id(),
                offered = new.svid.spiffe_id(),
                "the Workload API offers another identity; keeping the one this process started with"
            );
            SourceHealth::Rejected
        }
        Err(error) => {
            tracing::error!(%error, "the Workload API offers unusable material; keeping the last");
            SourceHealth::Rejected
        }
    }
}

fn material(state: &X509SourceState) -> Result<Material, IdentityError> {
    let unusable = |e: spiffe::X509SourceError| IdentityError::WorkloadApi(e.to_string());
    let svid = state.svid().map_err(unusable)?;
    let context = state.context().map_err(unusable)?;
    let chain = svid
        .cert_chain()
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
        .collect();
    let key = Zeroizing::new(svid.private_key().as_bytes().to_vec());
    let svid = Arc::new(Svid::new(chain, key)?);
    let bundles = Arc::new(bundles(context.bundle_set(), svid.trust_domain())?);
    Ok(Material { svid, bundles })
}

/// A federated bundle that cannot be used is left out, so its trust domain is refused; without the
/// own bundle nothing can be verified at all.
fn bundles(set: &X509BundleSet, own: &str) -> Result<TrustBundles, IdentityError> {
    let mut bundles = TrustBundles::new();
    for (domain, bundle) in set.iter() {
        let authorities = bundle
            .authorities()
            .iter()
            .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()));
        match bundles.insert(domain.as_str(), authorities) {
            Ok(()) => {}
            Err(error) if domain.as_str() == own => return Err(error),
            Err(error) => tracing::warn!(%error, "a federated trust domain is not trusted"),
        }
    }
    Ok(bundles)
}
