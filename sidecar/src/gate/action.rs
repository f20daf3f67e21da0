//! The `Action` that the policy contract sees: names only as salted hashes.

use alloy_primitives::{B256, U256};
use writ_canonical::BodyBinding;
use writ_policy::Action;
use writ_policy::names::{agent_key, name_hash};
use writ_sae::Kind;

use super::Profile;
use super::claims::Asked;
use crate::parents::Lineage;

/// Version of the `Action` structure.
const VERSION: u16 = 1;

/// Who asks, in which circumstances.
pub(super) struct Subject<'a> {
    pub profile: &'a Profile,
    pub spiffe_id: &'a str,
    /// Our own session, for actions that no arrived request caused.
    pub session: &'a str,
    pub lineage: &'a Lineage,
    /// Unix seconds.
    pub now: u64,
}

/// Makes the action; `spent` and `calls` are filled in while the budget is held.
pub(super) fn action(
    subject: &Subject<'_>,
    asked: &Asked,
    binding: BodyBinding,
    state_age: u64,
) -> Action {
    let Subject {
        profile,
        spiffe_id,
        session,
        lineage,
        now,
    } = *subject;
    let intent = &asked.intent;
    let name = |kind: &str, name: &str| B256::from(name_hash(&profile.policy_salt, kind, name));
    let optional =
        |kind: &str, value: Option<&str>| value.map_or(B256::ZERO, |value| name(kind, value));
    Action {
        version: VERSION,
        agent: agent_key(&profile.salt, spiffe_id).into(),
        principal: optional("principal", lineage.principal.as_deref()),
        capability: name("capability", &intent.capability),
        resource: optional("resource", intent.resource.as_deref()),
        target: name("target", &asked.target),
        params: intent.params_digest.into(),
        parent: lineage.parents.last().copied().unwrap_or_default().into(),
        amount: intent
            .amount
            .as_ref()
            .map_or(U256::ZERO, |amount| amount.value),
        spent: U256::ZERO,
        calls: 0,
        window: intent.window,
        classification: intent.class,
        risk: intent.risk,
        binding: match (claims_kind(asked), binding) {
            (Kind::Opaque, _) => 2,
            (_, BodyBinding::Bound { .. }) => 0,
            (_, BodyBinding::Unbound) => 1,
        },
        stateAge: u32::try_from(state_age).unwrap_or(u32::MAX),
        model: profile.model.into(),
        session: name("session", lineage.session.as_deref().unwrap_or(session)),
        approval: asked.approval.unwrap_or_default().into(),
        time: now,
        ext: B256::ZERO,
    }
}

fn claims_kind(asked: &Asked) -> Kind {
    super::claims::kind(asked.intent.kind)
}
