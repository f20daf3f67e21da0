//! What a chain's status says, from what was seen. No I/O.

use url::Url;
use writ_api::conditions::{self, Said, Truth};
use writ_api::{ChainSpec, ChainStatus, Contracts, EndpointStatus, Governance};

/// What was seen of a chain.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Each endpoint, in the order of the spec.
    pub endpoints: Vec<EndpointStatus>,
    /// The contracts in use, and who governs them.
    pub contracts: Option<(Contracts, Governance)>,
    /// What is wrong with the contracts or the keys: reason and sentence.
    pub problem: Option<(&'static str, String)>,
}

/// Scheme, host and port of an endpoint: what follows often holds an access key.
#[must_use]
pub fn host(endpoint: &str) -> String {
    match Url::parse(endpoint) {
        Ok(url) => {
            let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
            format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
        }
        Err(_) => "(not a URL)".to_owned(),
    }
}

/// What the status says, times aside.
#[must_use]
pub fn say(spec: &ChainSpec, seen: &Seen) -> Vec<Said> {
    let (status, reason, message) = ready(spec, seen);
    let mut said = vec![Said::new(conditions::READY, status, reason, message)];
    if spec.development {
        said.push(Said::new(
            conditions::DEVELOPMENT,
            Truth::True,
            "KnownKeys",
            "NOT FOR PRODUCTION: one owner, no delay, and keys that everybody knows",
        ));
    }
    said
}

fn ready(spec: &ChainSpec, seen: &Seen) -> (Truth, &'static str, String) {
    let healthy = seen.endpoints.iter().filter(|e| e.healthy).count();
    let needed = usize::try_from(spec.quorum).unwrap_or(usize::MAX);
    if healthy < needed {
        let first = seen.endpoints.iter().find_map(|e| e.problem.clone());
        let message = format!(
            "{healthy} of {} endpoints answer, {needed} must: {}",
            seen.endpoints.len(),
            first.unwrap_or_else(|| "none was asked".to_owned())
        );
        return (Truth::False, "QuorumMissing", message);
    }
    if let Some((reason, message)) = &seen.problem {
        return (Truth::False, reason, message.clone());
    }
    match &seen.contracts {
        None => (
            Truth::False,
            "ContractsMissing",
            "the contracts are not deployed".to_owned(),
        ),
        Some((_, governance)) => (
            Truth::True,
            "Ready",
            format!(
                "{healthy} endpoints answer; changes need {} of {} owners and wait {}",
                governance.threshold, governance.owners, governance.delay
            ),
        ),
    }
}

/// The status, with the times of conditions that did not change.
#[must_use]
pub fn status(
    before: &ChainStatus,
    spec: &ChainSpec,
    generation: i64,
    seen: &Seen,
    now: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> ChainStatus {
    ChainStatus {
        observed_generation: Some(generation),
        conditions: conditions::merge(&before.conditions, &say(spec, seen), generation, now),
        block: seen.endpoints.iter().find_map(|e| e.block),
        endpoints: seen.endpoints.clone(),
        contracts: seen
            .contracts
            .as_ref()
            .map(|(contracts, _)| contracts.clone()),
        governance: seen
            .contracts
            .as_ref()
            .map(|(_, governance)| governance.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(quorum: u32, development: bool) -> ChainSpec {
        serde_json::from_value(json!({
            "chainId": 84532, "quorum": quorum, "development": development,
            "endpoints": ["http://a:8545", "http://b:8545"],
        }))
        .unwrap()
    }

    fn endpoint(healthy: bool) -> EndpointStatus {
        EndpointStatus {
            host: "http://a:8545".to_owned(),
            healthy,
            block: healthy.then_some(7),
            problem: (!healthy).then(|| "connection refused".to_owned()),
        }
    }

    fn seen(first: bool, second: bool) -> Seen {
        Seen {
            endpoints: vec![endpoint(first), endpoint(second)],
            contracts: Some((Contracts::default(), Governance::default())),
            problem: None,
        }
    }

    fn reason(spec: &ChainSpec, seen: &Seen) -> (Truth, &'static str) {
        let said = say(spec, seen);
        (said[0].status, said[0].reason)
    }

    #[test]
    fn an_endpoint_less_than_the_quorum_is_not_ready() {
        assert_eq!(
            reason(&spec(2, false), &seen(true, true)),
            (Truth::True, "Ready")
        );
        assert_eq!(
            reason(&spec(2, false), &seen(false, true)),
            (Truth::False, "QuorumMissing")
        );
        assert_eq!(
            reason(&spec(1, false), &seen(false, true)),
            (Truth::True, "Ready")
        );
    }

    #[test]
    fn contracts_that_are_missing_or_wrong_are_not_ready() {
        let missing = Seen {
            contracts: None,
            ..seen(true, true)
        };
        assert_eq!(reason(&spec(1, false), &missing).1, "ContractsMissing");
        let wrong = Seen {
            problem: Some(("ContractsMismatch", "another timelock".to_owned())),
            ..seen(true, true)
        };
        assert_eq!(
            reason(&spec(1, false), &wrong),
            (Truth::False, "ContractsMismatch")
        );
    }

    #[test]
    fn a_development_chain_says_so_loudly() {
        let said = say(&spec(1, true), &seen(true, true));
        assert!(
            said.iter()
                .any(|s| s.kind == conditions::DEVELOPMENT
                    && s.message.contains("NOT FOR PRODUCTION"))
        );
        assert_eq!(say(&spec(1, false), &seen(true, true)).len(), 1);
    }

    #[test]
    fn an_access_key_in_a_url_does_not_reach_the_status() {
        assert_eq!(
            host("https://rpc.example/v2/secret?key=secret"),
            "https://rpc.example"
        );
        assert_eq!(host("http://user:secret@rpc:8545/x"), "http://rpc:8545");
        assert_eq!(host("secret"), "(not a URL)");
    }
}
