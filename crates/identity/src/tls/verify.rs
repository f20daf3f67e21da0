//! rustls's hooks: which certificate to present, and whose to accept.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Authorize;
use crate::{IdentityError, SvidSource};

/// Presents the source's newest SVID, and none once it has expired.
#[derive(Debug)]
pub(super) struct SvidResolver {
    source: Arc<dyn SvidSource>,
    clock: Arc<dyn TimeProvider>,
}

impl SvidResolver {
    pub(super) fn new(source: Arc<dyn SvidSource>, clock: Arc<dyn TimeProvider>) -> Self {
        Self { source, clock }
    }

    fn current(&self, offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let svid = self.source.svid();
        let now = self.clock.current_time()?.as_secs();
        if !svid.is_valid_at(now) {
            tracing::error!(
                ?svid,
                "the own SVID is not valid now; handshakes fail until it rotates"
            );
            return None;
        }
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Arc::clone(svid.certified()))
    }
}

impl ResolvesServerCert for SvidResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current(hello.signature_schemes())
    }
}

impl ResolvesClientCert for SvidResolver {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current(schemes)
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts a peer whose chain leads to its trust domain's newest bundle and whom the
/// authorization names. The name that was dialed plays no part.
#[derive(Debug)]
pub(super) struct SvidVerifier {
    source: Arc<dyn SvidSource>,
    authorize: Authorize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SvidVerifier {
    pub(super) fn new(source: Arc<dyn SvidSource>, authorize: Authorize) -> Self {
        Self {
            source,
            authorize,
            algorithms: super::provider().signature_verification_algorithms,
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain: Vec<&[u8]> = std::iter::once(leaf)
            .chain(intermediates)
            .map(AsRef::as_ref)
            .collect();
        let bundles = self.source.bundles();
        bundles
            .verify_chain(&chain, now.as_secs())
            .and_then(|peer| self.authorize.check(&peer.spiffe_id))
            .map_err(|error| {
                tracing::warn!(%error, "TLS peer refused");
                Error::InvalidCertificate(certificate_error(error))
            })
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// The alert that the peer sees; the error itself stays readable in logs and for callers.
fn certificate_error(error: IdentityError) -> CertificateError {
    match error {
        IdentityError::Expired => CertificateError::Expired,
        IdentityError::NotYetValid => CertificateError::NotValidYet,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is off between sidecars".into())
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for SvidVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
