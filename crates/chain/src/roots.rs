//! Certificate authorities of the system, for `https` endpoints.

use rustls::RootCertStore;

/// The system's roots (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or its well-known places). A store that
/// cannot be read is empty, and then no `https` endpoint is trusted.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "a system certificate could not be read");
    }
    // System stores hold the odd certificate that webpki cannot read; it is not trusted then.
    roots.add_parsable_certificates(loaded.certs);
    roots
}
