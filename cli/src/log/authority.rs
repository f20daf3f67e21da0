//! Whose signatures count: a trust bundle, or else only the certificates that the log holds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use writ_identity::TrustBundles;
use writ_ledger::{Authority, Signed, StartSignature, Whose, WitnessId};
use writ_sae::{
    Algorithm, DefaultVerifier, Denial, Envelope, Expectations, SignatureCheck, SignatureVerifier,
    Unverified, VerifiedSvid, VerifyKey,
};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::error::CliError;

type Chain = Vec<Vec<u8>>;

/// Checks the signatures of a log.
pub(super) struct Certificates {
    bundles: Option<TrustBundles>,
    /// Chains that starts brought, by SHA-256 of their leaf.
    chains: RefCell<BTreeMap<[u8; 32], Chain>>,
}

impl Certificates {
    /// Trusts the bundles, each given as `trust-domain=file.pem`; without any, signatures are
    /// checked against the certificates in the log alone.
    pub(super) fn load(bundles: &[String]) -> Result<Self, CliError> {
        let mut trusted = TrustBundles::new();
        for bundle in bundles {
            let (domain, path) = bundle.split_once('=').ok_or_else(|| {
                CliError::Argument(format!("{bundle}: give a bundle as example.org=ca.pem"))
            })?;
            let bad = |reason: String| CliError::File {
                path: Path::new(path).to_owned(),
                reason,
            };
            let pem = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| bad(e.to_string()))?;
            trusted
                .insert(domain, pem)
                .map_err(|e| bad(e.to_string()))?;
        }
        Ok(Self {
            bundles: (!bundles.is_empty()).then_some(trusted),
            chains: RefCell::default(),
        })
    }

    fn svid(&self, chain: &[Vec<u8>], time: u64) -> Result<VerifiedSvid, String> {
        match &self.bundles {
            Some(bundles) => bundles.verify_chain(chain, time).map_err(|e| e.to_string()),
            None => unproved_svid(chain).ok_or_else(|| "its certificate is no SVID".to_owned()),
        }
    }

    /// With a bundle, what should be signed must be: else leaving a signature out would do.
    fn missing(&self, what: &str) -> Result<Signed, String> {
        match self.bundles {
            Some(_) => Err(what.to_owned()),
            None => Ok(Signed::Unchecked(what.to_owned())),
        }
    }

    fn signed(&self, spiffe_id: &str) -> Signed {
        match self.bundles {
            Some(_) => Signed::Trusted(spiffe_id.to_owned()),
            None => Signed::Consistent(spiffe_id.to_owned()),
        }
    }
}

impl Authority for Certificates {
    fn start(
        &self,
        statement: &[u8],
        by: Option<&StartSignature>,
        time: u64,
    ) -> Result<Signed, String> {
        let Some(by) = by else {
            return self.missing("no SVID vouches for its key");
        };
        let svid = self.svid(&by.chain, time)?;
        let key = VerifyKey::from_svid(&svid).map_err(|e| e.to_string())?;
        let value: [u8; 64] = by.value.as_slice().try_into().map_err(|_| "wrong length")?;
        let check = DefaultVerifier::default().verify(
            Algorithm::Es256,
            &point(&svid.public_key),
            statement,
            &value,
        );
        if by.alg != Algorithm::Es256.as_str() || check != SignatureCheck::Good {
            return Err("it is not the SVID's".to_owned());
        }
        self.chains
            .borrow_mut()
            .insert(svid.leaf_sha256, by.chain.clone());
        Ok(self.signed(key.spiffe_id()))
    }

    fn token(
        &self,
        jws: &str,
        whose: Whose,
        time: u64,
        certificate: &dyn Fn(&WitnessId) -> Option<Vec<u8>>,
    ) -> Result<Signed, String> {
        let token = Token::parse(jws)?;
        let kid = token.kid();
        let known = self.chains.borrow().get(&kid).cloned();
        // A certificate that came by rotation stands among the witnesses, under its `kid`.
        let chain = known.or_else(|| certificate(&WitnessId(kid)).map(|leaf| vec![leaf]));
        let Some(chain) = chain else {
            let why = "the log does not hold its certificate";
            return match whose {
                Whose::Own => self.missing(why),
                Whose::Caller => Ok(Signed::Unchecked(why.to_owned())),
            };
        };
        let svid = self.svid(&chain, time)?;
        let key = VerifyKey::from_svid(&svid).map_err(|e| e.to_string())?;
        token.verify(&key)?;
        Ok(self.signed(key.spiffe_id()))
    }
}

enum Token {
    Envelope(Box<Unverified<Envelope>>),
    Denial(Box<Unverified<Denial>>),
}

impl Token {
    fn parse(jws: &str) -> Result<Self, String> {
        match Unverified::<Envelope>::parse(jws) {
            Ok(envelope) => Ok(Self::Envelope(Box::new(envelope))),
            Err(refusal) => Unverified::<Denial>::parse(jws)
                .map(|denial| Self::Denial(Box::new(denial)))
                .map_err(|_| refusal.to_string()),
        }
    }

    fn kid(&self) -> [u8; 32] {
        let kid = match self {
            Self::Envelope(token) => token.kid(),
            Self::Denial(token) => token.kid(),
        };
        let mut bytes = [0; 32];
        // The parser let only 64 hexadecimal digits through.
        let _ = alloy_primitives::hex::decode_to_slice(kid, &mut bytes);
        bytes
    }

    fn verify(self, key: &VerifyKey) -> Result<(), String> {
        match self {
            Self::Envelope(token) => {
                let claims = token.unverified_claims();
                let audience = [claims.aud.clone()];
                let now = claims.nbf;
                let expect = Expectations {
                    now,
                    skew: 0,
                    audience: &audience,
                    peer: None,
                    replay_since: None,
                };
                token.verify(key, &expect).map(drop)
            }
            Self::Denial(token) => token.verify(key).map(drop),
        }
        .map_err(|refusal| refusal.to_string())
    }
}

/// Reads a leaf without asking who issued it.
fn unproved_svid(chain: &[Vec<u8>]) -> Option<VerifiedSvid> {
    let leaf = chain.first()?;
    let certificate = x509_cert::Certificate::from_der(leaf).ok()?;
    let tbs = certificate.tbs_certificate();
    let (_, names) = tbs.get_extension::<SubjectAltName>().ok()??;
    let spiffe_id = names.0.iter().find_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
        _ => None,
    })?;
    Some(VerifiedSvid {
        spiffe_id,
        public_key: tbs
            .subject_public_key_info()
            .subject_public_key
            .as_bytes()?
            .to_vec(),
        leaf_sha256: Sha256::digest(leaf).into(),
        subject_dn: tbs.subject().to_string(),
        not_after: tbs.validity().not_after.to_unix_duration().as_secs(),
    })
}

/// The SEC 1 point at the end of a P-256 `SubjectPublicKeyInfo`, or the point itself.
fn point(key: &[u8]) -> Vec<u8> {
    key.get(key.len().saturating_sub(65)..)
        .unwrap_or(key)
        .to_vec()
}
