//! An action that the agent describes and carries out itself.

use std::sync::Arc;

use serde_json::Value;
use writ_canonical::{BodyBinding, CanonicalRequest};
use writ_catalog::Catalog;

use super::claims::{Asked, Stamping};
use super::{Denied, Gate};
use crate::seen::Sight;

/// What the agent asks to be decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Custom {
    /// Dotted capability, as the catalog names it.
    pub capability: String,
    /// Canonical target; its authority is a destination of the catalog.
    pub target: CanonicalRequest,
    /// Parameters, a JSON object that was read strictly.
    pub params: Value,
    /// The parameters as they were written: amounts are read from their digits.
    pub params_text: String,
    /// Idempotency key.
    pub idempotency: Option<String>,
    /// Human approval.
    pub approval: Option<[u8; 32]>,
}

/// An allowed action in the agent's hands. Its allow is durable. It holds a live envelope, so it has
/// no `Debug` form.
#[derive(Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// Id under which the record holds it.
    pub decision_id: String,
    /// SAE hash of the recorded envelope.
    pub sae_hash: [u8; 32],
    /// Canonical target URI: claim `sub`.
    pub target: String,
    /// Claim `aud`.
    pub audience: String,
    /// The envelope, of kind `custom`; absent where the destination takes none.
    pub envelope: Option<String>,
    /// `SAE-Certificate`, with the envelope.
    pub certificate: Option<String>,
}

impl Gate {
    /// Decides on an action of the agent's own, and hands the envelope over once its record is
    /// durable. How the action ends is not seen, and recorded as unknown. What the catalog makes of it is told
    /// to `sight`.
    ///
    /// # Errors
    /// [`Denied`], recorded.
    pub async fn decide_custom(
        self: &Arc<Self>,
        catalog: &Catalog,
        custom: Custom,
        sight: &mut Sight,
    ) -> Result<HandedOver, Denied> {
        let target = custom.target.target_uri();
        let binding = BodyBinding::of(custom.params_text.as_bytes());
        let asked = match asked(catalog, custom) {
            Ok(asked) => asked,
            Err((code, why)) => return Err(self.refuse(&target, code, why, 403).await),
        };
        sight.named(&asked.intent);
        let audience = asked.audience.clone();
        let released = self
            .decide(asked, binding, catalog.hash())
            .await?
            .issue(None)
            .await?;
        let handed_over = HandedOver {
            decision_id: released.decision_id.clone(),
            sae_hash: released.sae_hash,
            target,
            audience,
            envelope: released
                .envelope
                .as_ref()
                .map(|envelope| envelope.as_str().to_owned()),
            certificate: released.certificate.clone(),
        };
        released.hand_over();
        Ok(handed_over)
    }
}

/// What the catalog makes of it, or the code and the reason of a refusal.
fn asked(catalog: &Catalog, custom: Custom) -> Result<Asked, (&'static str, String)> {
    let Some(destination) = catalog.destination(&custom.target.host, custom.target.port) else {
        let why = "the catalog names no such destination; the platform team adds it";
        return Err(("unlisted-destination", why.to_owned()));
    };
    let intent = catalog
        .classify_custom(
            destination,
            &custom.target,
            &custom.capability,
            &custom.params,
            &custom.params_text,
        )
        .map_err(|refusal| (refusal.code(), refusal.to_string()))?;
    Ok(Asked {
        intent,
        target: custom.target.target_uri(),
        audience: destination.audience.clone(),
        stamping: Stamping::of(destination),
        http: None,
        idempotency: custom.idempotency,
        approval: custom.approval,
    })
}
