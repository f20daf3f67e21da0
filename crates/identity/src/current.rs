//! Chains verified against the newest trust bundles, each once a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{Context, SHA256};
use writ_sae::{ChainError, ChainVerifier, VerifiedSvid};

use crate::{SvidSource, TrustBundles};

/// Most chains remembered at once; a full memory is emptied.
const MOST: usize = 256;

/// Verifies chains against the bundles that the source holds at that moment.
///
/// Whether a chain verifies depends on the chain, the bundles and the second, and on nothing else.
/// So one that verified is not verified again before one of these changes.
pub struct CurrentBundles {
    source: Arc<dyn SvidSource>,
    verified: Mutex<Verified>,
}

/// Chains that verified against these bundles in this second, by the hash of their certificates.
struct Verified {
    bundles: Arc<TrustBundles>,
    at: u64,
    chains: HashMap<[u8; 32], VerifiedSvid>,
}

impl CurrentBundles {
    /// Verifies against what `source` holds.
    pub fn new(source: Arc<dyn SvidSource>) -> Self {
        let verified = Mutex::new(Verified {
            bundles: source.bundles(),
            at: 0,
            chains: HashMap::new(),
        });
        Self { source, verified }
    }
}

impl Verified {
    fn start_over_if(&mut self, bundles: &Arc<TrustBundles>, now: u64) {
        if self.at != now || !Arc::ptr_eq(&self.bundles, bundles) || self.chains.len() >= MOST {
            self.bundles = Arc::clone(bundles);
            self.at = now;
            self.chains.clear();
        }
    }
}

impl ChainVerifier for CurrentBundles {
    fn verify_chain(&self, chain: &[Vec<u8>], now: u64) -> Result<VerifiedSvid, ChainError> {
        let bundles = self.source.bundles();
        let name = name(chain);
        {
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.start_over_if(&bundles, now);
            if let Some(svid) = verified.chains.get(&name) {
                return Ok(svid.clone());
            }
        }
        let svid = bundles
            .verify_chain(chain, now)
            .map_err(|error| ChainError(error.to_string()))?;
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have moved on to newer bundles or another second meanwhile.
        if verified.at == now && Arc::ptr_eq(&verified.bundles, &bundles) {
            verified.chains.insert(name, svid.clone());
        }
        Ok(svid)
    }
}

/// SHA-256 over the certificates, each after its length, so that no two chains share a name.
fn name(chain: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for certificate in chain {
        hash.update(&(certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    name
}
