//! What a policy wants of the chain: a contract, a pinned catalog, registered agents. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes};
use kube::ResourceExt;
use writ_api::{AgentPolicy, spiffe_id};
use writ_catalog::Catalog;
use writ_chain::tx::AgentRecord;
use writ_policy::names;
use writ_policy::rules::{self, Names, Ruleset};

use crate::salts::{Of, Salt, Salts};

/// Why a policy cannot be carried out as it is written: a word, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Reason of the condition.
    pub reason: &'static str,
    /// What to change.
    pub message: String,
}

impl Invalid {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// The version's contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// To be created with this init code, at the address that follows from it.
    Create(Bytes),
    /// There already.
    Existing {
        /// Where.
        address: Address,
        /// keccak256 of its code, as it must be.
        code_hash: B256,
    },
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAgent {
    /// Service account.
    pub account: String,
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// Salt of its key.
    pub salt: Salt,
    /// What the registry must say.
    pub record: AgentRecord,
}

/// What a policy wants of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Id in the policy registry. Another AgentPolicy object has another one, so that a policy which was paused when
    /// its object went stays paused.
    pub policy_id: B256,
    /// The version's contract.
    pub code: Code,
    /// SHA-256 of the catalog.
    pub catalog_hash: B256,
    /// The catalog, JSON.
    pub catalog: String,
    /// Salt of the names in the rules.
    pub salt: Salt,
    /// The agents, by service account.
    pub agents: Vec<WantedAgent>,
}

/// The salts that a policy needs.
#[must_use]
pub fn salts_of(policy: &AgentPolicy, accounts: &BTreeSet<String>) -> Vec<Of> {
    let agents = accounts.iter().map(|account| Of::Agent(account.clone()));
    std::iter::once(Of::Policy(policy.name_any()))
        .chain(agents)
        .collect()
}

/// Id of a policy in the registry. It follows from the object, not from its status, which others may write.
#[must_use]
pub fn policy_id(policy: &AgentPolicy, salt: &Salt) -> B256 {
    let namespace = policy.namespace().unwrap_or_default();
    let uid = policy.uid().unwrap_or_default();
    let object = format!("{namespace}/{}/{uid}", policy.name_any());
    names::name_hash(salt, "policy", &object).into()
}

/// What a policy wants of the chain. `None`: its pods only receive.
///
/// # Errors
/// [`Invalid`]: rules or catalog cannot be used, with what to change.
pub fn want(
    policy: &AgentPolicy,
    accounts: &BTreeSet<String>,
    salts: &Salts,
    trust_domain: &str,
    approvals: Address,
) -> Result<Option<Want>, Invalid> {
    let spec = &policy.spec;
    let Some(document) = &spec.catalog else {
        return Ok(None);
    };
    let text = serde_json::to_string_pretty(document)
        .map_err(|e| Invalid::new("InvalidCatalog", format!("catalog: {e}")))?;
    let catalog = Catalog::from_json(text.as_bytes())
        .map_err(|e| Invalid::new("InvalidCatalog", format!("catalog: {e}")))?;
    let namespace = policy.namespace().unwrap_or_default();
    let own = *salts
        .get(&Of::Policy(policy.name_any()))
        .ok_or_else(|| Invalid::new("SaltMissing", "the policy's salt is not made yet"))?;
    let salt = match spec.policy_ref.as_ref().and_then(|r| r.salt.as_deref()) {
        Some(text) => salt(text)?,
        None => own,
    };
    let policy_id = policy_id(policy, &own);
    let mut keys = BTreeMap::new();
    let mut agents = Vec::new();
    let model = match &spec.model {
        None => B256::ZERO,
        Some(model) => digest("model.sha256", &model.sha256)?,
    };
    for account in accounts {
        let salt = *salts.get(&Of::Agent(account.clone())).ok_or_else(|| {
            Invalid::new(
                "SaltMissing",
                format!("the salt of {account} is not made yet"),
            )
        })?;
        let spiffe_id = spiffe_id(trust_domain, &namespace, account);
        let record = AgentRecord {
            key: names::agent_key(&salt, &spiffe_id).into(),
            policy_id,
            model,
            organisation: B256::ZERO,
            capabilities: B256::ZERO,
        };
        keys.insert(spiffe_id.clone(), salt);
        agents.push(WantedAgent {
            account: account.clone(),
            spiffe_id,
            salt,
            record,
        });
    }
    Ok(Some(Want {
        policy_id,
        code: code(policy, &catalog, &salt, &keys, approvals)?,
        catalog_hash: catalog.hash().into(),
        catalog: text,
        salt,
        agents,
    }))
}

fn code(
    policy: &AgentPolicy,
    catalog: &Catalog,
    salt: &Salt,
    agents: &BTreeMap<String, Salt>,
    approvals: Address,
) -> Result<Code, Invalid> {
    if let Some(there) = &policy.spec.policy_ref {
        let address = there
            .address
            .parse()
            .map_err(|_| Invalid::new("InvalidPolicyRef", "policyRef.address is not an address"))?;
        return Ok(Code::Existing {
            address,
            code_hash: digest("policyRef.codeHash", &there.code_hash)?,
        });
    }
    let document = policy.spec.rules.as_ref().ok_or_else(|| {
        Invalid::new(
            "InvalidRules",
            "rules: name rules or policyRef beside the catalog",
        )
    })?;
    let invalid = |error: String| Invalid::new("InvalidRules", format!("rules: {error}"));
    let ruleset = Ruleset::from_yaml(&document.to_string()).map_err(|e| invalid(e.to_string()))?;
    let capabilities: Vec<String> = catalog.capabilities().map(str::to_owned).collect();
    let known = Names {
        salt,
        agents,
        capabilities: &capabilities,
    };
    let compiled = rules::compile(&ruleset, known).map_err(|e| invalid(e.to_string()))?;
    let init = rules::init_code(&compiled.contract_rules(), approvals);
    Ok(Code::Create(init.map_err(|e| invalid(e.to_string()))?))
}

fn digest(field: &str, text: &str) -> Result<B256, Invalid> {
    text.parse()
        .map_err(|_| Invalid::new("InvalidDigest", format!("{field} is not 64 hex digits")))
}

fn salt(text: &str) -> Result<Salt, Invalid> {
    let mut salt = [0; 16];
    hex::decode_to_slice(text, &mut salt)
        .map_err(|_| Invalid::new("InvalidPolicyRef", "policyRef.salt is not 32 hex digits"))?;
    Ok(salt)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn policy() -> AgentPolicy {
        serde_json::from_value(json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
            "metadata": {"name": "buyers", "namespace": "shop", "uid": "u-1", "generation": 3},
            "spec": {
                "rules": {"version": 1, "rules": [
                    {"name": "search", "agent": "any", "capability": "search.*", "effect": "allow", "max_class": "public"},
                ]},
                "catalog": {
                    "version": 1, "name": "shop",
                    "destinations": [{
                        "name": "search", "host": "search.shop", "port": 80,
                        "peer": {"spiffe": "spiffe://example.org/ns/shop/sa/search"},
                        "upstream": {"mode": "mtls", "port": 8443}, "agent_tls": "originate",
                        "envelope": "stamp", "pep": "sidecar",
                    }],
                    "entries": [{
                        "name": "query", "destination": "search", "protocol": "http", "method": "GET",
                        "path": "/q", "capability": "search.query", "class": "public",
                    }],
                },
            },
        }))
        .unwrap()
    }

    pub(crate) fn accounts() -> BTreeSet<String> {
        BTreeSet::from(["buyer".to_owned()])
    }

    pub(crate) fn salts() -> Salts {
        Salts::from([
            (Of::Policy("buyers".to_owned()), [1; 16]),
            (Of::Agent("buyer".to_owned()), [2; 16]),
        ])
    }

    pub(crate) fn wanted(policy: &AgentPolicy) -> Result<Option<Want>, Invalid> {
        want(
            policy,
            &accounts(),
            &salts(),
            "example.org",
            Address::repeat_byte(7),
        )
    }

    fn changed(pointer: &str, value: serde_json::Value) -> AgentPolicy {
        let mut json = serde_json::to_value(policy()).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_same_policy_wants_the_same_contract() {
        let (one, two) = (wanted(&policy()).unwrap(), wanted(&policy()).unwrap());
        assert_eq!(one, two);
        let one = one.unwrap();
        assert!(matches!(&one.code, Code::Create(code) if !code.is_empty()));
        assert_eq!(
            one.agents[0].spiffe_id,
            "spiffe://example.org/ns/shop/sa/buyer"
        );
    }

    #[test]
    fn an_object_made_again_gets_another_policy_id_and_keeps_the_agents_key() {
        let again = changed("/metadata/uid", json!("u-2"));
        let (one, two) = (
            wanted(&policy()).unwrap().unwrap(),
            wanted(&again).unwrap().unwrap(),
        );
        assert_ne!(one.policy_id, two.policy_id);
        assert_eq!(one.agents[0].record.key, two.agents[0].record.key);
    }

    #[test]
    fn what_is_wrong_is_said_by_reason_with_the_place() {
        for (pointer, value, reason, says) in [
            (
                "/spec/catalog/entries/0/destination",
                json!("nowhere"),
                "InvalidCatalog",
                "nowhere",
            ),
            (
                "/spec/rules/rules/0/capability",
                json!("pay.*"),
                "InvalidRules",
                "pay.*",
            ),
            (
                "/spec/rules/rules/0/agent",
                json!("spiffe://example.org/ns/other/sa/x"),
                "InvalidRules",
                "no salt",
            ),
            (
                "/spec/rules/rules/0/effect",
                json!("permit"),
                "InvalidRules",
                "effect",
            ),
        ] {
            let invalid = wanted(&changed(pointer, value)).unwrap_err();
            assert_eq!(invalid.reason, reason, "{invalid:?}");
            assert!(invalid.message.contains(says), "{invalid:?}");
        }
    }

    #[test]
    fn a_reference_brings_address_code_hash_and_salt() {
        let mut policy = policy();
        policy.spec.rules = None;
        policy.spec.policy_ref = Some(writ_api::PolicyRef {
            address: format!("0x{}", "11".repeat(20)),
            code_hash: format!("0x{}", "22".repeat(32)),
            salt: Some("33".repeat(16)),
        });
        let want = wanted(&policy).unwrap().unwrap();
        assert_eq!(want.salt, [0x33; 16]);
        let expected = Code::Existing {
            address: Address::repeat_byte(0x11),
            code_hash: B256::repeat_byte(0x22),
        };
        assert_eq!(want.code, expected);
    }

    #[test]
    fn pods_that_only_receive_want_nothing_of_the_chain() {
        let mut policy = policy();
        policy.spec.rules = None;
        policy.spec.catalog = None;
        assert_eq!(wanted(&policy), Ok(None));
    }

    #[test]
    fn the_published_schema_of_rules_has_the_compilers_fields() {
        let compiler = Ruleset::json_schema();
        let crd = serde_json::to_value(
            writ_api::crds()
                .into_iter()
                .find(|(n, _)| n == "agentpolicies.yaml")
                .unwrap()
                .1,
        )
        .unwrap();
        let published = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            ["properties"]["rules"];
        let keys = |value: &serde_json::Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let required = |value: &serde_json::Value| -> BTreeSet<String> {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            keys(&published["properties"]),
            keys(&compiler["properties"])
        );
        let (ours, theirs) = (
            &published["properties"]["rules"]["items"],
            &compiler["$defs"]["RuleDocument"],
        );
        assert_eq!(keys(&ours["properties"]), keys(&theirs["properties"]));
        assert_eq!(required(&ours["required"]), required(&theirs["required"]));
    }
}
