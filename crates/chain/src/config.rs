//! Where the chain is read, and how far it is trusted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use url::Url;
use writ_policy::Registries;

use crate::ChainError;

/// Most endpoints. Each costs one request per block.
pub const MAX_ENDPOINTS: usize = 16;

/// Which block decisions read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadTag {
    /// The newest block.
    #[default]
    Latest,
    /// The newest block that the chain's consensus calls safe.
    Safe,
}

impl HeadTag {
    /// As JSON-RPC spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Safe => "safe",
        }
    }
}

/// Where the chain is read, and how far it is trusted. An endpoint may be a provider, a node of one's own, or a light
/// client on loopback: each is checked alike.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// JSON-RPC endpoints, `http` or `https`, each with another host or port; that they belong to different operators
    /// is for the configuration to see to.
    pub endpoints: Vec<Url>,
    /// How many endpoints must agree on a block hash; more than half of them.
    pub quorum: usize,
    /// Where the registries stand.
    pub registries: Registries,
    /// Which block decisions read.
    pub head: HeadTag,
    /// Time between two looks at the head.
    pub poll: Duration,
    /// State up to this age is fresh.
    pub fresh: Duration,
    /// State up to this age may be used where the verdict allows it; older is refused.
    pub max_stale: Duration,
    /// How far a block's timestamp may lie ahead of the wall clock.
    pub max_ahead: Duration,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// While a request waits for cold state: after this long without an answer the next endpoint is asked, too.
    pub hedge: Duration,
    /// Longest wait for state outside the warm set.
    pub max_cold_wait: Duration,
    /// Largest answer, bytes.
    pub max_response_bytes: usize,
    /// Most slots kept in memory.
    pub max_slots: usize,
    /// Trust anchors for `https` endpoints; the public ones if none are given.
    pub roots: Option<Arc<RootCertStore>>,
}

impl ChainConfig {
    /// Defaults: quorum of more than half, `latest` every 2 s, fresh 60 s, cached 300 s, 250 ms for cold state.
    pub fn new(endpoints: Vec<Url>, registries: Registries) -> Self {
        Self {
            chain_id: registries.chain_id,
            quorum: endpoints.len() / 2 + 1,
            endpoints,
            registries,
            head: HeadTag::Latest,
            poll: Duration::from_secs(2),
            fresh: Duration::from_secs(60),
            max_stale: Duration::from_secs(300),
            max_ahead: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3),
            hedge: Duration::from_millis(80),
            max_cold_wait: Duration::from_millis(250),
            max_response_bytes: 2 * 1024 * 1024,
            max_slots: 8192,
            roots: None,
        }
    }

    /// Refuses what cannot work or would weaken agreement.
    ///
    /// # Errors
    /// [`ChainError::Config`] names the setting.
    pub fn validate(&self) -> Result<(), ChainError> {
        let refuse = |message: String| Err(ChainError::Config(message));
        if self.endpoints.is_empty() || self.endpoints.len() > MAX_ENDPOINTS {
            return refuse(format!(
                "give 1 to {MAX_ENDPOINTS} endpoints, not {}",
                self.endpoints.len()
            ));
        }
        if self.quorum > self.endpoints.len() || self.quorum * 2 <= self.endpoints.len() {
            return refuse(format!(
                "quorum {} of {} endpoints: it must be more than half of them, else two groups could each agree on another chain",
                self.quorum,
                self.endpoints.len()
            ));
        }
        if self.chain_id != self.registries.chain_id {
            return refuse(format!(
                "chain id {} differs from the registries' {}",
                self.chain_id, self.registries.chain_id
            ));
        }
        let mut seen = BTreeSet::new();
        for url in &self.endpoints {
            let label = label(url);
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                return refuse(format!("endpoint {label} is neither http nor https"));
            }
            if !seen.insert((
                url.host_str().map(str::to_owned),
                url.port_or_known_default(),
            )) {
                return refuse(format!(
                    "endpoint {label} is listed twice; agreement needs distinct endpoints"
                ));
            }
        }
        if self.fresh > self.max_stale {
            return refuse("the fresh bound is longer than the stale bound".to_owned());
        }
        let waits = [self.poll, self.request_timeout, self.max_cold_wait];
        if waits.iter().any(Duration::is_zero) {
            return refuse(
                "poll interval, request timeout and cold wait must be longer than zero".to_owned(),
            );
        }
        if self.max_slots < 64 || self.max_slots > writ_policy::MAX_SLOTS / 2 {
            return refuse(format!(
                "slots in memory: give 64 to {}",
                writ_policy::MAX_SLOTS / 2
            ));
        }
        Ok(())
    }
}

/// Host and port: a path or a user part may hold a secret and is never shown.
pub(crate) fn label(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port_or_known_default()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;
    use writ_policy::Address;

    fn config(urls: &[&str]) -> ChainConfig {
        let registries = Registries {
            chain_id: 1,
            agents: Address::repeat_byte(1),
            policies: Address::repeat_byte(2),
        };
        ChainConfig::new(
            urls.iter().map(|url| Url::parse(url).unwrap()).collect(),
            registries,
        )
    }

    fn refused(config: &ChainConfig) -> String {
        let Err(ChainError::Config(message)) = config.validate() else {
            panic!("accepted")
        };
        message
    }

    #[test]
    fn the_defaults_are_valid_and_need_a_majority() {
        let config = config(&[
            "https://a.example/",
            "https://b.example/",
            "http://127.0.0.1:8545/",
        ]);
        config.validate().unwrap();
        assert_eq!(config.quorum, 2);
    }

    #[test]
    fn a_quorum_that_two_groups_could_reach_is_refused() {
        let mut config = config(&["http://a/", "http://b/"]);
        config.quorum = 1;
        assert!(refused(&config).contains("more than half"));
        config.quorum = 3;
        refused(&config);
    }

    #[test]
    fn the_same_endpoint_twice_is_refused_and_its_path_not_shown() {
        let message = refused(&config(&[
            "https://a.example/key-one",
            "https://a.example:443/key-two",
        ]));
        assert!(
            message.contains("a.example:443") && !message.contains("key"),
            "{message}"
        );
    }

    #[test]
    fn other_schemes_no_endpoints_and_too_many_are_refused() {
        refused(&config(&["ftp://a/"]));
        refused(&config(&[]));
        let many: Vec<String> = (0..=MAX_ENDPOINTS)
            .map(|i| format!("http://h{i}/"))
            .collect();
        refused(&config(
            &many.iter().map(String::as_str).collect::<Vec<_>>(),
        ));
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        let good = config(&["http://a/"]);
        refused(&ChainConfig {
            fresh: Duration::from_secs(400),
            ..good.clone()
        });
        refused(&ChainConfig {
            chain_id: 2,
            ..good.clone()
        });
        refused(&ChainConfig {
            poll: Duration::ZERO,
            ..good.clone()
        });
        refused(&ChainConfig {
            max_slots: 1,
            ..good
        });
    }
}
