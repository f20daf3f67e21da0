//! The warm set: what this agent's catalog can lead to, and the callers that are expected.

use writ_catalog::Catalog;
use writ_chain::WarmSet;
use writ_policy::Action;
use writ_policy::names::{agent_key, name_hash};

use crate::config::Config;

/// The warm set: one action for each capability and window of the catalog, since their evaluations
/// touch every slot that a real action can (amounts and names are compared, not looked up), and
/// the registrations of this agent and of expected callers.
pub fn set(config: &Config, catalog: Option<&Catalog>, spiffe_id: &str) -> WarmSet {
    let mut warm = WarmSet {
        agents: config.callers.agents.iter().map(|key| key.0).collect(),
        ..WarmSet::default()
    };
    let (Some(agent), Some(catalog)) = (&config.agent, catalog) else {
        return warm;
    };
    let key = agent_key(&agent.salt.0, spiffe_id);
    warm.agents.push(key);
    warm.actions = catalog
        .windows()
        .map(|(capability, window)| Action {
            version: 1,
            agent: key.into(),
            capability: name_hash(&agent.policy_salt.0, "capability", capability).into(),
            model: agent.model.0.into(),
            window,
            ..Action::default()
        })
        .collect();
    warm
}
