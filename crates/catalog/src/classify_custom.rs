//! From an action that the agent describes to intent.

use std::collections::HashMap;

use serde_json::{Value, json};
use writ_canonical::CanonicalRequest;

use crate::classify::{facts, intent, refused};
use crate::intent::{Intent, Kind};
use crate::refusal::{Reason, Refusal};
use crate::{Catalog, Destination};

impl Catalog {
    /// What an action is that no captured request carries. `target` is its canonical target, under
    /// `destination`; `params` and `params_text` are its parameters, a JSON object that was read
    /// strictly, and its text.
    ///
    /// # Errors
    /// A [`Refusal`]: the action is denied without asking the policy.
    pub fn classify_custom(
        &self,
        destination: &Destination,
        target: &CanonicalRequest,
        capability: &str,
        params: &Value,
        params_text: &str,
    ) -> Result<Intent, Refusal> {
        let entry = self
            .index
            .custom(destination.at, capability)
            .and_then(|at| self.entries.get(at));
        let entry = entry.ok_or_else(|| Refusal::unlisted(Reason::Unlisted))?;
        let mut facts = facts(entry, &HashMap::new(), Some((params, params_text)))
            .map_err(|reason| refused(entry, reason))?;
        facts.findings = self.detectors.request_line(target);
        facts.findings.extend(self.detectors.json(params));
        let digested = json!({ "capability": capability, "params": params });
        Ok(intent(Kind::Custom, entry, &digested, facts))
    }
}
