//! What can be wrong with an identity, and what to check.

use std::io;
use std::path::PathBuf;

/// Why an identity, a chain or a key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The chain has no certificate.
    #[error("the peer sent no certificate; check that it has an SVID")]
    EmptyChain,
    /// More certificates than [`crate::MAX_CHAIN_CERTIFICATES`].
    #[error("the certificate chain has {0} certificates, at most {max} are accepted", max = crate::MAX_CHAIN_CERTIFICATES)]
    ChainTooLong(usize),
    /// A certificate larger than [`crate::MAX_CERTIFICATE_BYTES`].
    #[error("a certificate has {0} bytes, at most {max} are accepted", max = crate::MAX_CERTIFICATE_BYTES)]
    CertificateTooLarge(usize),
    /// Not a DER X.509 v3 certificate.
    #[error("a certificate is malformed: {0}")]
    Malformed(String),
    /// No URI subject alternative name.
    #[error("the certificate has no URI SAN, so it is no SVID; check the registration entry")]
    NoSpiffeId,
    /// More than one URI subject alternative name.
    #[error("the certificate has {0} URI SANs, an SVID has exactly one")]
    MultipleUriSans(usize),
    /// The URI is no SPIFFE ID of a workload.
    #[error("{id:?} is no SPIFFE ID of a workload: {reason}")]
    InvalidSpiffeId {
        /// What stands there, shortened.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// A CA certificate where a leaf belongs.
    #[error("the leaf is a CA certificate, which no workload may present")]
    LeafIsCa,
    /// Key usage is absent, lacks digitalSignature, or allows signing certificates or CRLs.
    #[error("the leaf's key usage is not that of an SVID: {0}")]
    KeyUsage(&'static str),
    /// Extended key usage is present but not that of an SVID.
    #[error("the leaf's extended key usage lacks serverAuth or clientAuth")]
    ExtendedKeyUsage,
    /// Not a P-256 key.
    #[error("the leaf's key is no P-256 key; set the workload SVID key type to ec-p256")]
    UnsupportedKey,
    /// A certificate that may not sign stands between leaf and bundle.
    #[error("an intermediate is no CA that may sign certificates")]
    IntermediateNotCa,
    /// The bundle of the trust domain is not known.
    #[error("no bundle for trust domain {0:?}; check federation and the Workload API")]
    UnknownTrustDomain(String),
    /// A certificate of the path has expired.
    #[error("a certificate of the chain has expired; check rotation and the clocks")]
    Expired,
    /// A certificate of the path is not valid yet.
    #[error("a certificate of the chain is not valid yet; check the clocks")]
    NotYetValid,
    /// The path ends at no authority of the trust domain.
    #[error("the chain leads to no authority of trust domain {0:?}")]
    UntrustedIssuer(String),
    /// The path breaks another rule of RFC 5280.
    #[error("the chain is not valid: {0}")]
    InvalidPath(String),
    /// The peer is who it says, but not who may be here.
    #[error(
        "the peer is {peer}, which is not accepted here; check the destination's peer identity"
    )]
    PeerNotAuthorized {
        /// SPIFFE ID of the peer.
        peer: String,
    },
    /// Key and certificate do not belong together, or the key cannot be read.
    #[error("the private key does not fit the certificate: {0}")]
    KeyMismatch(String),
    /// Own SVID has expired.
    #[error("the own SVID expired at {0} (unix seconds); check the Workload API")]
    SvidExpired(u64),
    /// The Workload API gave nothing usable.
    #[error(
        "the Workload API gave no usable SVID: {0}; check the socket and the registration entry"
    )]
    WorkloadApi(String),
    /// An authority of a bundle cannot be used.
    #[error("the bundle of {trust_domain:?} cannot be used: {reason}")]
    Bundle {
        /// Whose bundle.
        trust_domain: String,
        /// What is wrong.
        reason: String,
    },
    /// A TLS connection that is not finished, or not TLS 1.3.
    #[error("no channel binding: {0}")]
    ChannelBinding(String),
    /// TLS settings cannot be made.
    #[error("TLS settings: {0}")]
    Tls(String),
    /// No root certificate to trust.
    #[error("no root certificates: {0}; install ca-certificates or name a CA file")]
    Roots(String),
    /// A signing key could not be used.
    #[error("signing key: {0}")]
    Signing(String),
    /// The interception CA could not be made or read.
    #[error("interception CA: {0}")]
    Ca(String),
    /// A name outside the constraints of the interception CA.
    #[error(
        "{0:?} is outside the names that the interception CA may certify; names added later take effect when the pod starts anew"
    )]
    NameNotPermitted(String),
    /// The key directory is not memory-backed.
    #[error("{path} is not on tmpfs or ramfs; mount an emptyDir with medium: Memory there")]
    NotMemoryBacked {
        /// The directory.
        path: PathBuf,
    },
    /// The key file can be read by others.
    #[error("{path} has mode {mode:o}; it must be 0600 and belong to the sidecar")]
    InsecureKeyFile {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
}

impl IdentityError {
    pub(crate) fn io(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::Io {
            path: path.into(),
            reason: error.to_string(),
        }
    }
}

impl From<IdentityError> for writ_sae::ChainError {
    fn from(error: IdentityError) -> Self {
        Self(error.to_string())
    }
}
