//! The configuration file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use spiffe::{SpiffeId, TrustDomain};

use crate::IssuerError;

/// Shortest life of an SVID, in seconds.
const MIN_TTL: u64 = 2;
/// Longest life of an SVID, in seconds (T-054: 24 h).
const MAX_TTL: u64 = 24 * 3600;

/// Who gets which identity on which socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Trust domains, each with a CA of its own.
    pub trust_domains: Vec<TrustDomainConfig>,
    /// Life of an SVID, in seconds, 2 to 86,400 (default 3,600); renewed after half of it.
    #[serde(default = "hour")]
    pub svid_ttl_seconds: u64,
    /// Sockets to serve.
    pub sockets: Vec<Socket>,
}

/// One trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrustDomainConfig {
    /// Name, as in `spiffe://name/...`.
    pub name: String,
    /// Trust domains whose bundles its workloads get as well.
    #[serde(default)]
    pub federates_with: BTreeSet<String>,
}

/// One socket. Everyone may connect; the identity depends on who does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Socket {
    /// Path of the Unix socket; one left over by a process that ended is replaced.
    pub path: PathBuf,
    /// Identities by uid.
    pub workloads: Vec<Workload>,
}

/// One registration entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The caller's uid. Without it whoever reaches this socket has the identity, so the socket
    /// must be given to that workload alone.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
}

fn hour() -> u64 {
    3600
}

impl Config {
    /// Reads and checks YAML.
    ///
    /// # Errors
    /// [`IssuerError::Config`] with what does not fit.
    pub fn from_yaml(yaml: &str) -> Result<Self, IssuerError> {
        let config: Self =
            serde_saphyr::from_str(yaml).map_err(|e| IssuerError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks that names are valid and refer to each other.
    ///
    /// # Errors
    /// [`IssuerError::Config`] with what does not fit.
    pub fn check(&self) -> Result<(), IssuerError> {
        let wrong = |what: String| Err(IssuerError::Config(what));
        if !(MIN_TTL..=MAX_TTL).contains(&self.svid_ttl_seconds) {
            return wrong(format!("svidTtlSeconds must be {MIN_TTL} to {MAX_TTL}"));
        }
        let mut domains = BTreeSet::new();
        for domain in &self.trust_domains {
            let parsed = TrustDomain::new(&domain.name)
                .map_err(|e| IssuerError::Config(format!("trust domain {:?}: {e}", domain.name)))?;
            if parsed.as_str() != domain.name || !domains.insert(domain.name.as_str()) {
                return wrong(format!(
                    "trust domain {:?} is not plain or not unique",
                    domain.name
                ));
            }
        }
        let foreign = self.trust_domains.iter().flat_map(|d| &d.federates_with);
        for name in foreign {
            if !domains.contains(name.as_str()) {
                return wrong(format!("federatesWith names unknown trust domain {name:?}"));
            }
        }
        let mut paths = BTreeSet::new();
        for socket in &self.sockets {
            if !paths.insert(&socket.path) {
                return wrong(format!("socket {} stands twice", socket.path.display()));
            }
            socket.check(&domains)?;
        }
        if paths.is_empty() {
            return wrong("no sockets".into());
        }
        Ok(())
    }
}

impl Socket {
    fn check(&self, domains: &BTreeSet<&str>) -> Result<(), IssuerError> {
        for workload in &self.workloads {
            let id = SpiffeId::new(&workload.spiffe_id)
                .map_err(|e| IssuerError::Config(format!("{:?}: {e}", workload.spiffe_id)))?;
            if id.path().is_empty() || !domains.contains(id.trust_domain_name()) {
                return Err(IssuerError::Config(format!(
                    "{id} needs a path and a trust domain of trustDomains"
                )));
            }
        }
        Ok(())
    }

    /// Identities of a caller with this uid.
    pub(crate) fn identities(&self, uid: u32) -> impl Iterator<Item = &str> {
        self.workloads
            .iter()
            .filter(move |workload| workload.uid.is_none_or(|known| known == uid))
            .map(|workload| workload.spiffe_id.as_str())
    }
}
