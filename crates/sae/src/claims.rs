//! Claims of an envelope.

use serde::{Deserialize, Serialize};

use crate::bounds::{self, NAME_MAX, TEXT_MAX, check};
use crate::encoding::{address, b64, b64_list, b64_option, to_base64url};
use crate::json::MAX_INTEGER;
use crate::{Act, Refusal, lifetime};

/// Claims of the Signed Action Envelope.
///
/// Every member is bounded; an unknown one is refused; an optional one is absent, never `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// What is done.
    pub act: Act,
    /// The one who may accept it: a SPIFFE ID, or the target's configured authority.
    pub aud: String,
    /// Where the hash of this envelope is to be anchored.
    pub chain: Settlement,
    /// Circumstances.
    pub ctx: Context,
    /// Expiry, unix seconds; 30 to 300 s after `iat`.
    pub exp: u64,
    /// Time of the decision, unix seconds.
    pub iat: u64,
    /// SPIFFE ID of the agent.
    pub iss: String,
    /// RFC 4514 subject of the agent's certificate; may be empty.
    pub iss_dn: String,
    /// Unique id, 128 random bits.
    pub jti: Jti,
    /// Model that the agent runs.
    #[serde(rename = "mod")]
    pub model: Model,
    /// Start of validity, unix seconds, not before `iat`.
    pub nbf: u64,
    /// The decision and the state it was made on.
    pub pol: PolicyBinding,
    /// Canonical target URI.
    pub sub: String,
}

/// The envelope, as a kind of token ([`crate::Token`]).
pub type Envelope = Claims;

/// 128 random bits; base64url in the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Jti(#[serde(with = "b64")] pub [u8; 16]);

impl std::fmt::Display for Jti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&to_base64url(&self.0))
    }
}

/// Model provenance, as registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// SBOM digest, where one is registered.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub sbom: Option<[u8; 32]>,
    /// SHA-256 of the model artefact or of its manifest; all zero where none is registered.
    #[serde(with = "b64")]
    pub sha256: [u8; 32],
}

/// The policy decision, so that a stranger can make it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBinding {
    /// Block number of the state.
    pub block: u64,
    /// Hash of that block.
    #[serde(with = "b64")]
    pub block_hash: [u8; 32],
    /// Hash of the catalog that classified the request.
    #[serde(with = "b64")]
    pub catalog_hash: [u8; 32],
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Code hash that the registry names for the version contract.
    #[serde(with = "b64")]
    pub code_hash: [u8; 32],
    /// The version contract.
    #[serde(with = "address")]
    pub contract: [u8; 20],
    /// EVM profile: `writ-evm/1`.
    pub evm: String,
    /// SHA-256 of the ABI-encoded Action.
    #[serde(with = "b64")]
    pub input: [u8; 32],
    /// Policy id in the registry.
    #[serde(with = "b64")]
    pub policy: [u8; 32],
    /// Rule that decided; all zero where none matched.
    #[serde(with = "b64")]
    pub rule: [u8; 32],
    /// Salt of the agent: opens agent key = keccak256(salt, SPIFFE ID).
    #[serde(with = "b64")]
    pub salt: [u8; 16],
    /// Age of the state at the decision.
    pub state: StateAge,
}

/// Age of the state a decision was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateAge {
    /// At most 60 s old.
    Fresh,
    /// At most 300 s old, which the rule allowed.
    Cached,
}

/// Circumstances of the action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Human approval used, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub approval: Option<[u8; 32]>,
    /// TLS exporter of the connection (RFC 9266), where the PEP ends it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub cb: Option<[u8; 32]>,
    /// Data class after detectors: 0 public to 3 restricted.
    pub data_classification: u8,
    /// Position in the issuer's log.
    pub log: LogRef,
    /// Duties that come with the verdict, as a bit set.
    pub obligations: u32,
    /// SAE hashes of the actions that led to this one, at most 8, none at the root.
    #[serde(with = "b64_list")]
    pub parent_chain: Vec<[u8; 32]>,
    /// Verified user on whose behalf the agent acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Risk score that the rule saw.
    pub risk_score: u8,
    /// Session.
    pub session_id: String,
}

/// A position in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRef {
    /// Log id.
    pub id: String,
    /// Sequence number.
    pub seq: u64,
}

/// Chain and contract where hashes are anchored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// Anchor contract.
    #[serde(with = "address")]
    pub contract: [u8; 20],
    /// EIP-155 chain id.
    pub id: u64,
}

impl Claims {
    /// Checks every bound of the format.
    ///
    /// # Errors
    /// The first claim out of bounds.
    pub fn check(&self) -> Result<(), Refusal> {
        bounds::spiffe_id(&self.iss, "iss")?;
        bounds::text(&self.iss_dn, TEXT_MAX, "iss_dn")?;
        bounds::visible(&self.aud, TEXT_MAX, "aud")?;
        bounds::visible(&self.sub, TEXT_MAX, "sub")?;
        self.act.check()?;
        self.pol.check()?;
        self.ctx.check()?;
        check(
            self.ctx.data_classification >= self.act.classification,
            "ctx.data_classification",
        )?;
        check(self.chain.id <= MAX_INTEGER, "chain.id")?;
        check(self.exp <= MAX_INTEGER, "exp")?;
        let life = self.exp.checked_sub(self.iat);
        if !life.is_some_and(|life| (lifetime::MIN..=lifetime::MAX).contains(&life))
            || self.nbf < self.iat
            || self.nbf >= self.exp
        {
            return Err(Refusal::LifetimeOutOfBounds);
        }
        Ok(())
    }
}

impl PolicyBinding {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        check(self.block <= MAX_INTEGER, "pol.block")?;
        check(self.chain_id <= MAX_INTEGER, "pol.chain_id")?;
        bounds::visible(&self.evm, 32, "pol.evm")
    }
}

impl Context {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        bounds::data_class(self.data_classification, "ctx.data_classification")?;
        self.log.check("ctx.log")?;
        bounds::visible(&self.session_id, NAME_MAX, "ctx.session_id")?;
        if let Some(principal) = &self.principal {
            check(!principal.is_empty(), "ctx.principal")?;
            bounds::text(principal, NAME_MAX, "ctx.principal")?;
        }
        check(self.parent_chain.len() <= 8, "ctx.parent_chain")?;
        let mut seen = std::collections::BTreeSet::new();
        check(
            self.parent_chain.iter().all(|hash| seen.insert(hash)),
            "ctx.parent_chain",
        )
    }
}

impl LogRef {
    pub(crate) fn check(&self, claim: &'static str) -> Result<(), Refusal> {
        bounds::visible(&self.id, NAME_MAX, claim)?;
        check(self.seq <= MAX_INTEGER, claim)
    }
}
