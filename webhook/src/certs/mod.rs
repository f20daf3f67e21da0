//! Serving certificates: issued and rotated by the webhook itself, or read from a folder.

mod authorities;
mod folder;
mod kube_store;
mod rotation;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use authorities::{Authorities, Authority, Lifetimes, Serving};
pub use folder::{Folder, follow};
pub use kube_store::{Configurations, SecretStore};
pub use rotation::{Publisher, Rotation, Saved, Store};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A key or certificate could not be made or read.
    #[error("certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// A key or certificate cannot serve.
    #[error("certificate: {0}; check that certificate and key belong together")]
    Rustls(#[from] rustls::Error),
    /// A file could not be read.
    #[error("cannot read {path}: {reason}; check that the Secret is mounted there")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The clock shows no time that a certificate can name.
    #[error("the clock shows {0} seconds after 1970; set it")]
    Clock(u64),
    /// There is no time for a rotation.
    #[error("{0:?}: the overlap must be positive, and the authority must live nine overlaps")]
    Lifetimes(Lifetimes),
    /// The Kubernetes API did not answer as needed.
    #[error("{what}: {reason}")]
    Kubernetes {
        /// What was tried, and what it needs.
        what: String,
        /// What the API said.
        reason: String,
    },
    /// What the Secret holds cannot be read.
    #[error(
        "Secret {0}: authorities.json cannot be read ({1}); delete the key to have it made anew"
    )]
    Stored(String, String),
}

/// The certificate that is served now.
#[derive(Debug, Default)]
pub struct Current(ArcSwapOption<CertifiedKey>);

impl Current {
    /// Serves `certified` from the next handshake on.
    pub fn set(&self, certified: CertifiedKey) {
        self.0.store(Some(Arc::new(certified)));
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// A chain and its key (PEM), checked to belong together.
///
/// # Errors
/// When they do not, or are none.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertError> {
    let general = |reason: String| CertError::Rustls(rustls::Error::General(reason));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| general(error.to_string()))?;
    if chain.is_empty() {
        return Err(general("no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| general(error.to_string()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(certified)
}
