//! Signers whose key is in memory: for an SVID that the Workload API delivers, and for the
//! Ed25519 key that an SVID delegates to.

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::{
    Algorithm, IssueError, KeyStatement, SignError, Signer, issue_key_statement, leaf_kid,
};

/// ES256 with an in-memory P-256 key (deterministic, RFC 6979).
pub struct Es256Signer {
    key: p256::ecdsa::SigningKey,
    kid: String,
    chain: Vec<Vec<u8>>,
}

impl Es256Signer {
    /// A signer for the leaf of `chain` (DER, leaf first) with its 32-byte big-endian secret.
    ///
    /// # Errors
    /// When the secret is no P-256 scalar or the chain is empty.
    pub fn new(secret: &Zeroizing<[u8; 32]>, chain: Vec<Vec<u8>>) -> Result<Self, SignError> {
        let key = p256::ecdsa::SigningKey::from_slice(secret.as_slice())
            .map_err(|_| SignError("the secret is no P-256 scalar".into()))?;
        let leaf = chain
            .first()
            .ok_or_else(|| SignError("the certificate chain is empty".into()))?;
        Ok(Self {
            key,
            kid: leaf_kid(leaf),
            chain,
        })
    }

    /// SEC 1 uncompressed point of the public key.
    pub fn public_key(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        point.as_bytes().to_vec()
    }
}

impl Signer for Es256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn kid(&self) -> &str {
        &self.kid
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        use p256::ecdsa::signature::Signer;
        let signature: p256::ecdsa::Signature = self
            .key
            .try_sign(message)
            .map_err(|e| SignError(e.to_string()))?;
        let mut out = [0; 64];
        out.copy_from_slice(&signature.to_bytes());
        Ok(out)
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    fn key_statement(&self) -> Option<&str> {
        None
    }
}

/// EdDSA with an in-memory Ed25519 key that an SVID delegated to.
pub struct EdDsaSigner {
    key: ed25519_dalek::SigningKey,
    kid: String,
    chain: Vec<Vec<u8>>,
    statement: String,
}

impl EdDsaSigner {
    /// Lets the SVID key `svid` of `spiffe_id` delegate to the key made of 32 random bytes
    /// `seed`, from `nbf` to `exp` (unix seconds), `exp` no later than the SVID's.
    ///
    /// # Errors
    /// When `svid` cannot sign the statement.
    pub fn delegate(
        seed: &Zeroizing<[u8; 32]>,
        svid: &dyn Signer,
        spiffe_id: &str,
        nbf: u64,
        exp: u64,
    ) -> Result<Self, IssueError> {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let claims = KeyStatement::new(spiffe_id, key.verifying_key().to_bytes(), nbf, exp);
        let statement = issue_key_statement(&claims, svid)?;
        Ok(Self {
            key,
            kid: hex::encode(statement.hash()),
            chain: svid.certificate_chain().to_vec(),
            statement: statement.into_string(),
        })
    }
}

impl Signer for EdDsaSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }
    fn kid(&self) -> &str {
        &self.kid
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.key
            .try_sign(message)
            .map(|signature| signature.to_bytes())
            .map_err(|e| SignError(e.to_string()))
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    fn key_statement(&self) -> Option<&str> {
        Some(&self.statement)
    }
}
