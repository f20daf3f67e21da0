//! A policy in-process: its catalog, and its contract's own code in the EVM.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use sha2::{Digest, Sha256};
use writ_policy::abi::ACTION_VERSION;
use writ_policy::names::{agent_key, name_hash};
use writ_policy::rules::{self, Compiled, CompiledRule, Names, Ruling, Trial};
use writ_policy::{Action, Effect};

use super::source::{Deployed, Written};
use crate::error::CliError;

/// What names are salted with.
#[derive(Debug, Clone)]
struct Salts {
    names: [u8; 16],
    agents: BTreeMap<String, [u8; 16]>,
}

/// What a policy is asked about.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub capability: String,
    pub class: u8,
    pub risk: u8,
    pub amount: U256,
    pub resource: Option<String>,
    pub target: String,
    pub window: u32,
    pub spent: U256,
    pub calls: u64,
    /// 0 bound, 1 unbound, 2 opaque.
    pub binding: u8,
    pub params: [u8; 32],
    pub approval: B256,
    pub state_age: u32,
    /// Unix seconds.
    pub time: u64,
    pub model: B256,
}

/// A policy that can be asked.
pub struct Engine {
    salts: Salts,
    pub compiled: Compiled,
    trial: Trial,
}

impl Engine {
    /// With the salts of the cluster, so that its contract is the one that stands on chain.
    pub fn deployed(written: &Written, deployed: &Deployed) -> Result<Self, CliError> {
        let mut salts = invented(written);
        salts.names = deployed.salt.unwrap_or(salts.names);
        salts.agents.extend(deployed.agents.clone());
        Self::with(written, salts, deployed.approvals)
    }

    /// With invented salts: it decides the same, under another code hash.
    pub fn local(written: &Written) -> Result<Self, CliError> {
        Self::with(written, invented(written), Address::ZERO)
    }

    fn with(written: &Written, salts: Salts, approvals: Address) -> Result<Self, CliError> {
        let capabilities: Vec<String> = written.catalog.capabilities().map(str::to_owned).collect();
        let compiled = rules::compile(
            &written.rules,
            Names {
                salt: &salts.names,
                agents: &salts.agents,
                capabilities: &capabilities,
            },
        )?;
        let init = rules::init_code(&compiled.contract_rules(), approvals)?;
        Ok(Self {
            trial: Trial::of(&init)?,
            salts,
            compiled,
        })
    }

    /// keccak256 of the contract's code.
    pub fn code_hash(&self) -> B256 {
        self.trial.code_hash()
    }

    /// Asks the contract.
    pub fn decide(&self, agent: &str, asked: &Asked) -> Result<Ruling, CliError> {
        let salts = &self.salts;
        let name = |kind: &str, name: &str| B256::from(name_hash(&salts.names, kind, name));
        let salt = salts
            .agents
            .get(agent)
            .copied()
            .unwrap_or_else(|| invent(agent));
        let action = Action {
            version: ACTION_VERSION,
            agent: agent_key(&salt, agent).into(),
            capability: name("capability", &asked.capability),
            resource: asked
                .resource
                .as_deref()
                .map_or(B256::ZERO, |r| name("resource", r)),
            target: name("target", &asked.target),
            params: asked.params.into(),
            amount: asked.amount,
            spent: asked.spent,
            calls: asked.calls,
            window: asked.window,
            classification: asked.class,
            risk: asked.risk,
            binding: asked.binding,
            stateAge: asked.state_age,
            model: asked.model,
            approval: asked.approval,
            time: asked.time,
            ..Action::default()
        };
        Ok(self.trial.evaluate(&action)?)
    }

    /// The rule that a ruling names.
    pub fn rule(&self, ruling: &Ruling) -> Option<&CompiledRule> {
        self.compiled.rules.iter().find(|r| r.key() == ruling.rule)
    }

    /// A rule in words: `allow, amount <= 10.00, class <= public`.
    pub fn words(&self, rule: &CompiledRule) -> String {
        let mut words = vec![effect(rule).to_owned()];
        words.extend(rules::conditions(rule, &self.compiled));
        words.join(", ")
    }
}

/// The effect of a rule as it is written in the rules.
pub fn effect(rule: &CompiledRule) -> &'static str {
    match rule.rule.effect {
        writ_policy::abi::Effect::Allow => "allow",
        writ_policy::abi::Effect::RequireApproval => "require-approval",
        _ => "deny",
    }
}

/// What was decided, as records say it: a required approval is a denial.
pub fn decision(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny | Effect::RequireApproval => "deny",
    }
}

fn invented(written: &Written) -> Salts {
    let named = written.rules.rules.iter().map(|rule| rule.agent.as_str());
    Salts {
        names: invent("names"),
        agents: named
            .filter(|agent| *agent != "any")
            .map(|agent| (agent.to_owned(), invent(agent)))
            .collect(),
    }
}

/// A salt for an agent that has none here: it keeps agents apart, and hides nothing.
fn invent(of: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(of).into();
    let mut salt = [0; 16];
    salt.copy_from_slice(digest.split_at(16).0);
    salt
}
