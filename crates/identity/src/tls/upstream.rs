//! TLS to an ordinary server (`upstream.mode: tls`): host name and roots, no SVID presented.

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::{RootCertStore, version};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{alpn, provider, setup_error};
use crate::IdentityError;

/// Most certificates that a CA file may hold.
const MAX_ROOTS: usize = 1024;

/// Whom to trust to vouch for a host name.
#[derive(Debug, Clone)]
pub enum UpstreamRoots {
    /// The roots of the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or its well-known places).
    System,
    /// Only the CA certificates of this PEM text.
    Pem(Vec<u8>),
}

impl UpstreamRoots {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`IdentityError::Roots`] when there is none, or one cannot be read.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let roots = match self {
            Self::System => system_roots()?,
            Self::Pem(pem) => CertificateDer::pem_slice_iter(pem)
                .take(MAX_ROOTS + 1)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| IdentityError::Roots(e.to_string()))?,
        };
        match roots.len() {
            0 => Err(IdentityError::Roots("none found".into())),
            1..=MAX_ROOTS => Ok(roots),
            _ => Err(IdentityError::Roots(format!("more than {MAX_ROOTS}"))),
        }
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let loaded = rustls_native_certs::load_native_certs();
    match loaded.errors.first() {
        // One unreadable file beside readable roots is common, and takes trust away only.
        Some(error) if loaded.certs.is_empty() => Err(IdentityError::Roots(error.to_string())),
        _ => Ok(loaded.certs),
    }
}

/// Settings of a client that verifies the server's host name against `roots`. TLS 1.2 and 1.3.
///
/// # Errors
/// [`IdentityError::Roots`] or [`IdentityError::Tls`].
pub fn upstream_client_config(roots: &UpstreamRoots) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut store = RootCertStore::empty();
    let certificates = roots.certificates()?;
    match roots {
        // System stores hold the odd certificate that webpki cannot read; it is not trusted then.
        UpstreamRoots::System => {
            store.add_parsable_certificates(certificates);
        }
        UpstreamRoots::Pem(_) => {
            for certificate in certificates {
                store
                    .add(certificate)
                    .map_err(|e| IdentityError::Roots(e.to_string()))?;
            }
        }
    }
    if store.is_empty() {
        return Err(IdentityError::Roots("none usable".into()));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(setup_error)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
