//! TLS settings: mTLS between sidecars by SPIFFE ID, TLS to ordinary servers, and the agent's
//! side of an intercepted connection. The ring provider is passed explicitly everywhere.
//!
//! Between sidecars: TLS 1.3 only, both sides present an SVID, no resumption (a resumed session
//! would skip the check of a peer whose SVID was replaced or whose bundle was withdrawn), no early
//! data. Own certificate and bundles are read anew in every handshake, so rotation needs no new
//! settings and open connections go on.

mod upstream;
mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, CommonState, Connection, ProtocolVersion, ServerConfig};
use writ_sae::VerifiedSvid;

use crate::bundle::sha256;
use crate::{IdentityError, SvidSource, leaf};

pub use upstream::{UpstreamRoots, upstream_client_config};
use verify::{SvidResolver, SvidVerifier};

/// ALPN of HTTP/2 and HTTP/1.1, in order of preference.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Label of the exporter of RFC 9266, section 4.2.
const CHANNEL_BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// The one SPIFFE ID that a server must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedPeer(String);

impl ExpectedPeer {
    /// Exactly this SPIFFE ID.
    ///
    /// # Errors
    /// [`IdentityError::InvalidSpiffeId`].
    pub fn new(spiffe_id: impl Into<String>) -> Result<Self, IdentityError> {
        let id = spiffe_id.into();
        leaf::workload_id(&id)?;
        Ok(Self(id))
    }
}

/// Which clients a server accepts, all of them with an SVID that leads to a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorize {
    /// Every workload of every trust domain in the bundles. The PEP decides further.
    AnyInBundle,
    /// Every workload of this trust domain.
    TrustDomain(String),
    /// These SPIFFE IDs; an empty set accepts nobody.
    Ids(BTreeSet<String>),
}

impl Authorize {
    pub(crate) fn check(&self, peer: &str) -> Result<(), IdentityError> {
        let accepted = match self {
            Self::AnyInBundle => true,
            Self::TrustDomain(domain) => {
                leaf::workload_id(peer)?.trust_domain_name() == domain.as_str()
            }
            Self::Ids(ids) => ids.contains(peer),
        };
        if accepted {
            Ok(())
        } else {
            Err(IdentityError::PeerNotAuthorized {
                peer: peer.to_owned(),
            })
        }
    }
}

impl From<ExpectedPeer> for Authorize {
    fn from(peer: ExpectedPeer) -> Self {
        Self::Ids(BTreeSet::from([peer.0]))
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|protocol| protocol.to_vec()).collect()
}

pub(crate) fn setup_error(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Tls(error.to_string())
}

/// Settings of a client that presents the source's SVID and accepts only `peer`.
///
/// # Errors
/// [`IdentityError::Tls`] when rustls refuses the settings.
pub fn client_config(
    source: Arc<dyn SvidSource>,
    peer: ExpectedPeer,
) -> Result<Arc<ClientConfig>, IdentityError> {
    client_config_at(source, peer, Arc::new(DefaultTimeProvider))
}

/// [`client_config`] with a clock of its own.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_at(
    source: Arc<dyn SvidSource>,
    peer: ExpectedPeer,
    clock: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = SvidVerifier::new(Arc::clone(&source), peer.into());
    let resolver = SvidResolver::new(source, Arc::clone(&clock));
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Settings of a server that presents the source's SVID and accepts only whom `authorize` names.
///
/// # Errors
/// [`IdentityError::Tls`] when rustls refuses the settings.
pub fn server_config(
    source: Arc<dyn SvidSource>,
    authorize: Authorize,
) -> Result<Arc<ServerConfig>, IdentityError> {
    server_config_at(source, authorize, Arc::new(DefaultTimeProvider))
}

/// [`server_config`] with a clock of its own.
///
/// # Errors
/// As [`server_config`].
pub fn server_config_at(
    source: Arc<dyn SvidSource>,
    authorize: Authorize,
    clock: Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = SvidVerifier::new(Arc::clone(&source), authorize);
    let resolver = SvidResolver::new(source, Arc::clone(&clock));
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup_error)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn();
    without_resumption(&mut config);
    Ok(Arc::new(config))
}

/// Settings that serve an agent an intercepted connection with a leaf of the pod's CA.
///
/// # Errors
/// [`IdentityError::Tls`] when rustls refuses the settings.
pub fn intercept_server_config(
    leaf: Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup_error)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
    config.alpn_protocols = alpn();
    without_resumption(&mut config);
    Ok(Arc::new(config))
}

fn without_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// A finished TLS peer: its chain was verified by the handshake that these settings made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSvid {
    /// Identity, key and validity of the leaf.
    pub svid: VerifiedSvid,
    /// DER chain as presented, leaf first; what an envelope's `kid` may refer to.
    pub chain: Vec<Vec<u8>>,
}

/// Who is at the other end of a connection made with [`client_config`] or [`server_config`].
///
/// # Errors
/// [`IdentityError::EmptyChain`] before the handshake is complete.
pub fn peer_svid(connection: &CommonState) -> Result<PeerSvid, IdentityError> {
    let chain = match connection.peer_certificates() {
        Some(chain) if !connection.is_handshaking() => chain,
        _ => return Err(IdentityError::EmptyChain),
    };
    let first = chain.first().ok_or(IdentityError::EmptyChain)?;
    let leaf = leaf::read(first)?;
    Ok(PeerSvid {
        svid: VerifiedSvid {
            spiffe_id: leaf.spiffe_id.to_string(),
            public_key: leaf.public_key,
            leaf_sha256: sha256(first),
            subject_dn: leaf.subject_dn,
            not_after: leaf.not_after,
        },
        chain: chain.iter().map(|der| der.to_vec()).collect(),
    })
}

/// SPIFFE ID at the other end; see [`peer_svid`].
///
/// # Errors
/// As [`peer_svid`].
pub fn peer_spiffe_id(connection: &CommonState) -> Result<String, IdentityError> {
    peer_svid(connection).map(|peer| peer.svid.spiffe_id)
}

/// A connection that exports keying material (RFC 8446, section 7.5).
pub trait Exporter {
    /// The negotiated version, once known.
    fn version(&self) -> Option<ProtocolVersion>;
    /// 32 bytes for `label` with an empty context.
    ///
    /// # Errors
    /// rustls's, before the handshake is complete.
    fn export(&self, label: &[u8]) -> Result<[u8; 32], rustls::Error>;
}

macro_rules! exporter {
    ($($connection:ty),*) => {$(
        impl Exporter for $connection {
            fn version(&self) -> Option<ProtocolVersion> {
                self.protocol_version()
            }
            fn export(&self, label: &[u8]) -> Result<[u8; 32], rustls::Error> {
                self.export_keying_material([0; 32], label, Some(b""))
            }
        }
    )*};
}
exporter!(ClientConnection, ServerConnection, Connection);

/// The `tls-exporter` channel binding of RFC 9266: equal on both sides of one TLS 1.3 connection
/// and on no other.
///
/// # Errors
/// [`IdentityError::ChannelBinding`] before the handshake is complete, or below TLS 1.3.
pub fn channel_binding(connection: &impl Exporter) -> Result<[u8; 32], IdentityError> {
    match connection.version() {
        Some(ProtocolVersion::TLSv1_3) => connection
            .export(CHANNEL_BINDING_LABEL)
            .map_err(|e| IdentityError::ChannelBinding(e.to_string())),
        Some(other) => Err(IdentityError::ChannelBinding(format!(
            "the connection speaks {other:?}, the exporter needs TLS 1.3"
        ))),
        None => Err(IdentityError::ChannelBinding(
            "the handshake is not complete".into(),
        )),
    }
}
