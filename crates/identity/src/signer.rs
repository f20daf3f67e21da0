//! Keys that sign envelopes, denials and receipts (design, section 6).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use writ_sae::{Algorithm, EdDsaSigner, SignError, Signer, low_s};
use zeroize::Zeroizing;

use crate::{IdentityError, Svid, SvidSource};

/// Longest life of a delegated key, in seconds; an SVID that ends earlier shortens it.
pub const DELEGATED_KEY_LIFETIME: u64 = 3600;

/// A delegated key starts this much in the past, in seconds, for receivers whose clock is behind.
const CLOCK_SKEW: u64 = 30;

/// ES256 with the SVID's own key; `kid` is the lower-case hex SHA-256 of the DER leaf.
pub struct SvidSigner {
    key: EcdsaKeyPair,
    random: SystemRandom,
    kid: String,
    chain: Vec<Vec<u8>>,
}

impl SvidSigner {
    /// A signer for `svid`.
    ///
    /// # Errors
    /// [`IdentityError::Signing`] when ring refuses the key.
    pub fn new(svid: &Svid) -> Result<Self, IdentityError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, svid.pkcs8(), &random)
            .map_err(|e| IdentityError::Signing(e.to_string()))?;
        Ok(Self {
            key,
            random,
            kid: svid.leaf_sha256_hex().to_owned(),
            chain: svid.chain().iter().map(|der| der.to_vec()).collect(),
        })
    }
}

impl Signer for SvidSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn kid(&self) -> &str {
        &self.kid
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = self
            .key
            .sign(&self.random, message)
            .map_err(|_| SignError("ring could not sign".into()))?;
        let fixed: [u8; 64] = signature
            .as_ref()
            .try_into()
            .map_err(|_| SignError("the signature is not 64 bytes".into()))?;
        low_s(&fixed).map_err(|refusal| SignError(refusal.to_string()))
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    fn key_statement(&self) -> Option<&str> {
        None
    }
}

/// EdDSA with a key made in memory, to which the SVID delegates by a key statement.
pub struct DelegatedSigner {
    inner: EdDsaSigner,
    expires: u64,
}

impl DelegatedSigner {
    /// Makes a new Ed25519 key and lets `svid` delegate to it, from `now` (unix seconds) for at
    /// most [`DELEGATED_KEY_LIFETIME`], never beyond the SVID.
    ///
    /// # Errors
    /// [`IdentityError::SvidExpired`], or [`IdentityError::Signing`] when no key can be made.
    pub fn new(svid: &Svid, now: u64) -> Result<Self, IdentityError> {
        if !svid.is_valid_at(now) {
            return Err(IdentityError::SvidExpired(svid.not_after()));
        }
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new()
            .fill(seed.as_mut_slice())
            .map_err(|_| IdentityError::Signing("no randomness".into()))?;
        let expires = svid
            .not_after()
            .min(now.saturating_add(DELEGATED_KEY_LIFETIME));
        let starts = svid.not_before().max(now.saturating_sub(CLOCK_SKEW));
        let delegator = SvidSigner::new(svid)?;
        let inner = EdDsaSigner::delegate(&seed, &delegator, svid.spiffe_id(), starts, expires)
            .map_err(|e| IdentityError::Signing(e.to_string()))?;
        Ok(Self { inner, expires })
    }

    /// End of the delegation, unix seconds.
    pub fn expires(&self) -> u64 {
        self.expires
    }
}

impl Signer for DelegatedSigner {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }
    fn kid(&self) -> &str {
        self.inner.kid()
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.inner.sign(message)
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        self.inner.certificate_chain()
    }
    fn key_statement(&self) -> Option<&str> {
        self.inner.key_statement()
    }
}

/// Which key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// The SVID's own P-256 key, ES256.
    #[default]
    Svid,
    /// An Ed25519 key that the SVID delegates to, EdDSA.
    Delegated,
}

/// The signer to use now: follows the SVID's rotation and renews delegated keys in time.
pub struct EnvelopeKeys {
    source: Arc<dyn SvidSource>,
    kind: KeyKind,
    held: Mutex<Option<Held>>,
}

struct Held {
    svid: Arc<Svid>,
    signer: Arc<dyn Signer>,
    renew_at: u64,
}

/// A signer and the SVID behind it.
pub struct CurrentSigner {
    /// Signs.
    pub signer: Arc<dyn Signer>,
    /// Whose name it signs in; nothing signed may outlive its `not_after`.
    pub svid: Arc<Svid>,
}

impl EnvelopeKeys {
    /// Signers of this kind from this source.
    pub fn new(source: Arc<dyn SvidSource>, kind: KeyKind) -> Self {
        Self {
            source,
            kind,
            held: Mutex::new(None),
        }
    }

    /// The signer for `now` (unix seconds).
    ///
    /// # Errors
    /// [`IdentityError::SvidExpired`] when the SVID is not valid at `now`, else what the signers'
    /// constructors refuse.
    pub fn current(&self, now: u64) -> Result<CurrentSigner, IdentityError> {
        let svid = self.source.svid();
        if !svid.is_valid_at(now) {
            return Err(IdentityError::SvidExpired(svid.not_after()));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = match held.as_ref() {
            Some(held) if Arc::ptr_eq(&held.svid, &svid) && now < held.renew_at => {
                Arc::clone(&held.signer)
            }
            _ => {
                let (signer, renew_at) = self.make(&svid, now)?;
                *held = Some(Held {
                    svid: Arc::clone(&svid),
                    signer: Arc::clone(&signer),
                    renew_at,
                });
                signer
            }
        };
        Ok(CurrentSigner { signer, svid })
    }

    fn make(&self, svid: &Svid, now: u64) -> Result<(Arc<dyn Signer>, u64), IdentityError> {
        Ok(match self.kind {
            KeyKind::Svid => (Arc::new(SvidSigner::new(svid)?), u64::MAX),
            KeyKind::Delegated => {
                let signer = DelegatedSigner::new(svid, now)?;
                // Half of its life before the end; near the SVID's end a new key gains nothing.
                let renew_at = if signer.expires() < svid.not_after() {
                    now.saturating_add(DELEGATED_KEY_LIFETIME / 2)
                } else {
                    u64::MAX
                };
                (Arc::new(signer), renew_at)
            }
        })
    }
}

macro_rules! debug_without_keys {
    ($($signer:ident),*) => {$(
        impl fmt::Debug for $signer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($signer))
                    .field("kid", &Signer::kid(self))
                    .finish_non_exhaustive()
            }
        }
    )*};
}
debug_without_keys!(SvidSigner, DelegatedSigner);

impl fmt::Debug for EnvelopeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeKeys")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
