//! Trust bundles as the PEP takes them: always the newest.

use std::sync::Arc;

use writ_identity::SvidSource;
use writ_sae::{ChainError, ChainVerifier, VerifiedSvid};

/// Verifies chains against the bundles that the source holds at that moment.
pub(super) struct CurrentBundles(pub Arc<dyn SvidSource>);

impl ChainVerifier for CurrentBundles {
    fn verify_chain(&self, chain: &[Vec<u8>], now: u64) -> Result<VerifiedSvid, ChainError> {
        self.0
            .bundles()
            .verify_chain(chain, now)
            .map_err(|error| ChainError(error.to_string()))
    }
}
