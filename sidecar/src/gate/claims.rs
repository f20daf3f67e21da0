//! From a decision to the claims of an envelope or a denial: no I/O, no clock, no chance.

use std::collections::BTreeMap;

use writ_catalog::{Destination, Envelope, Intent};
use writ_policy::{Decision, Effect};
use writ_sae::{
    Act, BodyDigest, Claims, Context, Denial, HttpBinding, Jti, Kind, LogRef, Model, Params,
    PolicyBinding, Scalar, Settlement, StateAge,
};

/// Longest selected field's value that an envelope carries, in bytes.
const MAX_SELECTED: usize = 256;

/// What one action is, as far as it does not depend on the decision.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the catalog makes of it.
    pub intent: Intent,
    /// Canonical target URI.
    pub target: String,
    /// Who may accept it.
    pub audience: String,
    /// Whether the request carries the envelope.
    pub stamping: Stamping,
    /// The HTTP request that carries it; `None` for an opaque connection or a custom action.
    pub http: Option<HttpBinding>,
    /// Idempotency key that the agent sent.
    pub idempotency: Option<String>,
    /// Human approval that the agent presented.
    pub approval: Option<[u8; 32]>,
}

/// Whether a request carries its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamping {
    /// It does: somebody verifies it.
    Stamp,
    /// It does not: the target is a third party without a PEP, or the connection is opaque.
    Withhold,
}

impl Stamping {
    /// As the catalog says of a destination.
    pub fn of(destination: &Destination) -> Self {
        match destination.envelope {
            Envelope::Stamp => Self::Stamp,
            Envelope::Withhold => Self::Withhold,
        }
    }
}

/// Who acts.
#[derive(Debug, Clone)]
pub struct Actor {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// RFC 4514 subject of the SVID.
    pub subject_dn: String,
    /// Salt that opens the agent key.
    pub salt: [u8; 16],
    /// SHA-256 of the model.
    pub model: [u8; 32],
    /// SBOM digest.
    pub sbom: Option<[u8; 32]>,
    /// Where hashes are anchored.
    pub settlement: Settlement,
}

/// Circumstances of this one action.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// Session.
    pub session: String,
    /// SAE hashes of what led to this action, root first.
    pub parents: Vec<[u8; 32]>,
    /// Verified user on whose behalf the agent acts.
    pub principal: Option<String>,
    /// Position in the log.
    pub log: LogRef,
    /// TLS exporter of the connection.
    pub channel_binding: Option<[u8; 32]>,
}

/// Times and identity of a token.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Unique id.
    pub jti: Jti,
    /// Now, unix seconds.
    pub now: u64,
    /// Lifetime in seconds.
    pub lifetime: u64,
}

/// Claims of the envelope for an allowed action.
pub fn envelope(
    actor: &Actor,
    asked: &Asked,
    decision: &Decision,
    state: StateAge,
    circumstances: &Circumstances,
    stamp: Stamp,
) -> Claims {
    Claims {
        act: act(asked),
        aud: asked.audience.clone(),
        chain: actor.settlement.clone(),
        ctx: context(asked, Some(decision), circumstances),
        exp: stamp.now.saturating_add(stamp.lifetime),
        iat: stamp.now,
        iss: actor.spiffe_id.clone(),
        iss_dn: actor.subject_dn.clone(),
        jti: stamp.jti,
        model: Model {
            sbom: actor.sbom,
            sha256: actor.model,
        },
        nbf: stamp.now,
        pol: policy(actor, decision, state),
        sub: asked.target.clone(),
    }
}

/// Claims of a denial. `decision` is absent where the refusal came before the policy.
pub fn denial(
    actor: &Actor,
    asked: Option<&Asked>,
    target: &str,
    reason: &str,
    decision: Option<(&Decision, StateAge)>,
    circumstances: &Circumstances,
    stamp: Stamp,
) -> Denial {
    let approval = decision
        .filter(|(decision, _)| decision.effect == Effect::RequireApproval)
        .map(|(decision, _)| decision.input);
    Denial {
        act: asked.map(act),
        aud: asked.map(|asked| asked.audience.clone()),
        ctx: match asked {
            Some(asked) => context(asked, decision.map(|(decision, _)| decision), circumstances),
            None => bare_context(circumstances),
        },
        decision: writ_sae::Decision {
            approval,
            effect: if approval.is_some() {
                writ_sae::Effect::RequireApproval
            } else {
                writ_sae::Effect::Deny
            },
            reason: reason.to_owned(),
        },
        iat: stamp.now,
        iss: actor.spiffe_id.clone(),
        iss_dn: actor.subject_dn.clone(),
        jti: stamp.jti,
        pol: decision.map(|(decision, state)| policy(actor, decision, state)),
        sub: target.to_owned(),
    }
}

fn act(asked: &Asked) -> Act {
    Act {
        classification: asked.intent.class,
        envelope_hash: None,
        http: asked.http.clone(),
        idem: asked.idempotency.clone(),
        kind: kind(asked.intent.kind),
        method: asked.intent.capability.clone(),
        params: Params {
            digest: asked.intent.params_digest,
            fields: selected(&asked.intent),
        },
    }
}

fn context(asked: &Asked, decision: Option<&Decision>, at: &Circumstances) -> Context {
    Context {
        approval: asked.approval,
        cb: at.channel_binding,
        data_classification: asked.intent.class,
        obligations: decision.map_or(0, |decision| decision.obligations),
        risk_score: asked.intent.risk,
        ..bare_context(at)
    }
}

fn bare_context(at: &Circumstances) -> Context {
    Context {
        approval: None,
        cb: None,
        data_classification: 0,
        log: at.log.clone(),
        obligations: 0,
        parent_chain: at.parents.clone(),
        principal: at.principal.clone(),
        risk_score: 0,
        session_id: at.session.clone(),
    }
}

fn policy(actor: &Actor, decision: &Decision, state: StateAge) -> PolicyBinding {
    PolicyBinding {
        block: decision.block,
        block_hash: decision.block_hash,
        catalog_hash: decision.catalog_hash,
        chain_id: decision.chain_id,
        // What the registry names; the PEP holds it against its own reading. The hash over all
        // code that ran stands in the record.
        code_hash: decision.registered_code_hash,
        contract: decision.contract.into(),
        evm: decision.evm.clone(),
        input: decision.input,
        policy: decision.policy_id,
        rule: decision.rule,
        salt: actor.salt,
        state,
    }
}

/// The few fields that the catalog selects, as the envelope can carry them.
fn selected(intent: &Intent) -> BTreeMap<String, Scalar> {
    intent
        .selected
        .iter()
        .filter_map(|(name, value)| {
            let scalar = match value {
                serde_json::Value::Bool(value) => Scalar::Bool(*value),
                serde_json::Value::Number(number) => match number.as_u64() {
                    Some(integer) => Scalar::Integer(integer),
                    None => Scalar::String(number.to_string()),
                },
                serde_json::Value::String(text) if text.len() <= MAX_SELECTED => {
                    Scalar::String(text.clone())
                }
                _ => return None,
            };
            Some((name.clone(), scalar))
        })
        .collect()
}

/// The HTTP request that carries an action.
pub fn http_binding(
    request: &writ_canonical::CanonicalRequest,
    body: writ_canonical::BodyBinding,
) -> HttpBinding {
    HttpBinding {
        content_digest: match body {
            writ_canonical::BodyBinding::Bound { sha256, .. } => BodyDigest::Sha256(sha256),
            writ_canonical::BodyBinding::Unbound => BodyDigest::Unbound,
        },
        fields_digest: request.fields_digest(),
        method: request.method.clone(),
        path: request.path.clone(),
        query_digest: request.query_digest(),
    }
}

/// The envelope's name of a kind of action.
pub const fn kind(kind: writ_catalog::Kind) -> Kind {
    match kind {
        writ_catalog::Kind::Http => Kind::Http,
        writ_catalog::Kind::Mcp => Kind::Mcp,
        writ_catalog::Kind::Opaque => Kind::Opaque,
        writ_catalog::Kind::Custom => Kind::Custom,
    }
}

#[cfg(test)]
mod tests;
