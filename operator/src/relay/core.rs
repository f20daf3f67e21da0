//! What a relay serves, from what the custom resources say. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt as _;
use url::Url;
use writ_api::{AgentRevocation, Chain, ChainSpec, Enforcement, Head, Phase, Witnesses};
use writ_chain::{ChainConfig, HeadTag};
use writ_policy::{Address, Registries};
use writ_relay::{ChainSettings, Enforced, Notice, WitnessAt};

/// How old a witness's signature may be, in seconds. What sidecars are told.
pub const SKEW: u64 = 10;

/// A chain as it is read for others: registries play no part in it.
///
/// # Errors
/// What to change in the Chain, or in the flags.
pub fn reading(chain_id: u64, endpoints: Vec<Url>, head: HeadTag) -> Result<ChainConfig, String> {
    let registries = Registries {
        chain_id,
        agents: Address::ZERO,
        policies: Address::ZERO,
    };
    let config = ChainConfig {
        head,
        ..ChainConfig::new(endpoints, registries)
    };
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

/// What is served of a Chain; `None` if it names no witnesses.
///
/// # Errors
/// What to change in the Chain.
pub fn chain(spec: &ChainSpec) -> Result<Option<ChainSettings>, String> {
    let Some(Witnesses { members, needed }) = &spec.witnesses else {
        return Ok(None);
    };
    let endpoints = spec
        .endpoints
        .iter()
        .map(|text| Url::parse(text).map_err(|e| format!("an endpoint is not a URL: {e}")))
        .collect::<Result<_, _>>()?;
    let witness = |member: &writ_api::WitnessMember| WitnessAt {
        spiffe_id: member.spiffe_id.clone(),
        address: member.address.clone(),
    };
    let settings = ChainSettings {
        chain: reading(spec.chain_id, endpoints, tag(spec.head))?,
        witnesses: members.iter().map(witness).collect(),
        needed: usize::try_from(*needed).unwrap_or(usize::MAX),
        skew: SKEW,
    };
    settings
        .check()
        .map_err(|error| format!("spec.witnesses: {error}"))?;
    Ok(Some(settings))
}

/// The block that is read.
#[must_use]
pub fn tag(head: Head) -> HeadTag {
    match head {
        Head::Latest => HeadTag::Latest,
        Head::Safe => HeadTag::Safe,
    }
}

/// What is served of all Chains, by chain id. Of two with one id the one whose name comes first; what cannot be served is
/// left out and told.
#[must_use]
pub fn served(chains: &[ChainRead]) -> (BTreeMap<u64, ChainSettings>, Vec<String>) {
    let mut served = BTreeMap::new();
    let mut problems = Vec::new();
    let mut sorted: Vec<&ChainRead> = chains.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for ChainRead { name, spec } in sorted {
        match chain(spec) {
            Ok(Some(settings)) => {
                served.entry(spec.chain_id).or_insert(settings);
            }
            Ok(None) => {}
            Err(problem) => problems.push(format!("Chain {name}: {problem}")),
        }
    }
    (served, problems)
}

/// A Chain's name and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainRead {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: ChainSpec,
}

impl ChainRead {
    /// Of the object.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        Self {
            name: chain.name_any(),
            spec: chain.spec.clone(),
        }
    }
}

/// The notice of a revocation: `None` once it is final, when every sidecar reads it on chain.
#[must_use]
pub fn notice(revocation: &AgentRevocation) -> Option<Notice> {
    let status = revocation.status.clone().unwrap_or_default();
    if status.phase == Some(Phase::Final) {
        return None;
    }
    let made = revocation.metadata.creation_timestamp.as_ref()?;
    let key = revocation.spec.agent_key.clone().or(status.agent_key);
    let key = key.and_then(|text| {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim_start_matches("0x"), &mut key).ok()?;
        Some(key)
    });
    Some(Notice {
        id: revocation.uid()?,
        spiffe_id: revocation.spec.spiffe_id.clone(),
        agent_key: key,
        issued_at: u64::try_from(made.0.as_second()).ok()?,
    })
}

/// What a revocation's status says of this relay's sidecars.
#[must_use]
pub fn enforcement(relay: &str, enforced: Enforced) -> Enforcement {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Enforcement {
        relay: relay.to_owned(),
        enforcing: count(enforced.enforcing),
        connected: count(enforced.connected),
    }
}

/// How long changes are collected before they are written: a thousand sidecars acknowledge at once.
pub const COLLECT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(name: &str, witnesses: serde_json::Value) -> ChainRead {
        let mut spec = json!({"chainId": 84532, "endpoints": ["http://a:8545"]});
        if !witnesses.is_null() {
            spec["witnesses"] = witnesses;
        }
        ChainRead {
            name: name.to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
        }
    }

    fn witnesses() -> serde_json::Value {
        let member = |n: u8| json!({"spiffeId": format!("spiffe://a/w{n}"), "address": format!("w{n}:15910")});
        json!({"members": [member(0), member(1), member(2)], "needed": 2})
    }

    #[test]
    fn a_chain_without_witnesses_is_not_served() {
        let (served, problems) = served(&[read("a", serde_json::Value::Null)]);
        assert!(served.is_empty() && problems.is_empty());
    }

    #[test]
    fn of_two_chains_with_one_id_the_first_by_name_is_served() {
        let mut other = witnesses();
        other["needed"] = json!(3);
        let (served, _) = served(&[read("b", other), read("a", witnesses())]);
        assert_eq!(served[&84532].needed, 2);
        assert_eq!(served[&84532].witnesses[1].address, "w1:15910");
    }

    #[test]
    fn what_cannot_be_served_is_told_with_its_name() {
        let mut bad = read("bad", witnesses());
        bad.spec.endpoints = vec!["nonsense".to_owned()];
        let mut minority = witnesses();
        minority["needed"] = json!(1);
        let reads = [bad, read("few", minority), read("good", witnesses())];
        let (served, problems) = served(&reads);
        assert_eq!(served.len(), 1);
        assert!(problems[0].contains("bad"), "{problems:?}");
        assert!(problems[1].contains("few: spec.witnesses"), "{problems:?}");
    }

    fn revocation(status: serde_json::Value) -> AgentRevocation {
        serde_json::from_value(json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentRevocation",
            "metadata": {"name": "stop", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"spiffeId": "spiffe://a/ns/x/sa/y", "reason": "stolen"},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_revocation_is_told_at_once_and_until_it_is_final() {
        let first = notice(&revocation(json!({}))).unwrap();
        assert_eq!((first.id.as_str(), first.agent_key), ("u-1", None));
        assert_eq!(first.issued_at, 1_767_225_600);
        let key = format!("0x{}", "ab".repeat(32));
        let sent = revocation(json!({"phase": "Submitted", "agentKey": key}));
        assert_eq!(notice(&sent).unwrap().agent_key, Some([0xab; 32]));
        assert_eq!(notice(&revocation(json!({"phase": "Final"}))), None);
    }
}
