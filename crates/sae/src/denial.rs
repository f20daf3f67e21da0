//! A signed denial: proof of what was refused, and why. A PEP never accepts one.

use serde::{Deserialize, Serialize};

use crate::bounds::{self, TEXT_MAX, check};
use crate::encoding::b64_option;
use crate::json::MAX_INTEGER;
use crate::{Act, Context, Jti, PolicyBinding, Refusal};

/// Claims of a denial. It is a record, so it has no expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// What was asked for; absent where the request could not be classified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// The target it was meant for, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Circumstances.
    pub ctx: Context,
    /// The decision.
    pub decision: Decision,
    /// Time of the decision, unix seconds.
    pub iat: u64,
    /// SPIFFE ID of the agent.
    pub iss: String,
    /// RFC 4514 subject of the agent's certificate; may be empty.
    pub iss_dn: String,
    /// Unique id.
    pub jti: Jti,
    /// Policy state; absent where the refusal came before the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pol: Option<PolicyBinding>,
    /// Target URI as asked for.
    pub sub: String,
}

/// Why the action was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The approval that would turn the denial; present exactly with `require-approval`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub approval: Option<[u8; 32]>,
    /// What was decided.
    pub effect: Effect,
    /// Stable code of the reason: `amount-over-limit`.
    pub reason: String,
}

/// A denial's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Refused.
    Deny,
    /// Refused until a human approves.
    RequireApproval,
}

impl Denial {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        bounds::spiffe_id(&self.iss, "iss")?;
        bounds::text(&self.iss_dn, TEXT_MAX, "iss_dn")?;
        if let Some(aud) = &self.aud {
            bounds::visible(aud, TEXT_MAX, "aud")?;
        }
        bounds::visible(&self.sub, TEXT_MAX, "sub")?;
        if let Some(act) = &self.act {
            act.check()?;
        }
        if let Some(pol) = &self.pol {
            pol.check()?;
        }
        self.ctx.check()?;
        bounds::code(&self.decision.reason, "decision.reason")?;
        check(
            (self.decision.effect == Effect::RequireApproval) == self.decision.approval.is_some(),
            "decision.approval",
        )?;
        check(self.iat <= MAX_INTEGER, "iat")
    }
}
