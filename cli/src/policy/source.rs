//! Where a policy is read from: a file, two files, or an AgentPolicy of the cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, hex};
use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::Value;
use writ_api::{AgentPolicy, AgentPolicySpec, Chain};
use writ_catalog::Catalog;
use writ_policy::rules::Ruleset;

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::read_text;

/// A policy as it is written.
#[derive(Debug)]
pub struct Written {
    /// For messages: `shop/buyers`, or the file.
    pub title: String,
    /// The rules.
    pub rules: Ruleset,
    /// The catalog.
    pub catalog: Catalog,
    /// SHA-256 of the model that acts, 0 for none.
    pub model: B256,
    /// The rest of the AgentPolicy, where it is one.
    pub spec: Option<AgentPolicySpec>,
}

/// A policy in a cluster, with what names are salted with there.
#[derive(Debug)]
pub struct Deployed {
    /// The object.
    pub policy: AgentPolicy,
    /// Salt of the names in its rules, where a sidecar of it is configured.
    pub salt: Option<[u8; 16]>,
    /// Salt of each agent.
    pub agents: BTreeMap<String, [u8; 16]>,
    /// Approval registry of its chain.
    pub approvals: Address,
    /// Catalogs that its sidecars have.
    pub catalogs: Vec<Catalog>,
}

/// Which policy: one of the cluster, or files.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// AgentPolicy of the cluster.
    #[arg(value_name = "POLICY", conflicts_with_all = ["policy", "rules"])]
    pub name: Option<String>,
    /// AgentPolicy, YAML or JSON file; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "rules")]
    pub policy: Option<PathBuf>,
    /// Rules, YAML file.
    #[arg(long, value_name = "FILE", requires = "catalog")]
    pub rules: Option<PathBuf>,
    /// Catalog, YAML file.
    #[arg(long, value_name = "FILE", requires = "rules")]
    pub catalog: Option<PathBuf>,
}

impl Which {
    /// Reads it. What is in a cluster comes with its salts.
    pub async fn read(
        &self,
        cluster: &ClusterArgs,
    ) -> Result<(Written, Option<Deployed>), CliError> {
        match (&self.name, &self.policy, &self.rules, &self.catalog) {
            (_, Some(file), ..) => Ok((Written::from_file(file)?, None)),
            (_, _, Some(rules), Some(catalog)) => Ok((Written::from_parts(rules, catalog)?, None)),
            (Some(name), ..) => {
                let cluster = cluster.connect().await?;
                let deployed = Deployed::read(&cluster, cluster.namespace(), name).await?;
                Ok((Written::of(&deployed.policy)?, Some(deployed)))
            }
            _ => Err(CliError::Argument(
                "name an AgentPolicy of the cluster, or --policy FILE, or --rules FILE and --catalog FILE"
                    .to_owned(),
            )),
        }
    }
}

impl Written {
    /// An AgentPolicy in a file.
    pub fn from_file(file: &Path) -> Result<Self, CliError> {
        let refuse = |reason: String| CliError::File {
            path: file.to_owned(),
            reason,
        };
        let value: Value =
            serde_saphyr::from_str(&read_text(file)?).map_err(|e| refuse(e.to_string()))?;
        if value.get("kind").and_then(Value::as_str) != Some("AgentPolicy") {
            return Err(refuse(
                "this is no AgentPolicy (kind: AgentPolicy); rules alone go with --rules and --catalog".to_owned(),
            ));
        }
        let policy: AgentPolicy =
            serde_json::from_value(value).map_err(|e| refuse(e.to_string()))?;
        Self::titled(&policy, file.display().to_string())
    }

    /// Rules and a catalog in files.
    pub fn from_parts(rules: &Path, catalog: &Path) -> Result<Self, CliError> {
        let catalog_text = read_text(catalog)?;
        Ok(Self {
            title: rules.display().to_string(),
            rules: Ruleset::from_yaml(&read_text(rules)?).map_err(|e| CliError::File {
                path: rules.to_owned(),
                reason: e.to_string(),
            })?,
            catalog: Catalog::from_yaml(&catalog_text).map_err(|e| CliError::File {
                path: catalog.to_owned(),
                reason: e.to_string(),
            })?,
            model: B256::ZERO,
            spec: None,
        })
    }

    /// Of an AgentPolicy.
    pub fn of(policy: &AgentPolicy) -> Result<Self, CliError> {
        let title = match policy.namespace() {
            Some(namespace) => format!("{namespace}/{}", policy.name_any()),
            None => policy.name_any(),
        };
        Self::titled(policy, title)
    }

    fn titled(policy: &AgentPolicy, title: String) -> Result<Self, CliError> {
        let refuse = |reason: String| CliError::Argument(format!("AgentPolicy {title}: {reason}"));
        let (Some(rules), Some(catalog)) = (&policy.spec.rules, &policy.spec.catalog) else {
            return Err(refuse(
                "it has no rules of its own: with policyRef the contract brings them, and pods that only receive \
                 have none"
                    .to_owned(),
            ));
        };
        let model = policy.spec.model.as_ref().map(|model| model.sha256.parse());
        let model = model
            .transpose()
            .map_err(|_| refuse("model.sha256 is not 64 hex digits".to_owned()))?;
        Ok(Self {
            // In lines, so that an error can show the one that it means.
            rules: Ruleset::from_yaml(&format!("{rules:#}")).map_err(|e| refuse(e.to_string()))?,
            catalog: Catalog::from_json(catalog.to_string().as_bytes())
                .map_err(|e| refuse(format!("catalog: {e}")))?,
            model: model.unwrap_or(B256::ZERO),
            spec: Some(policy.spec.clone()),
            title,
        })
    }
}

impl Deployed {
    /// Reads an AgentPolicy with its ConfigMaps and its Chain.
    pub async fn read(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self, CliError> {
        let policy: AgentPolicy = cluster.get(namespace, name).await?.ok_or_else(|| {
            CliError::Argument(format!(
                "there is no AgentPolicy {name} in namespace {namespace}; see `kubectl get agentpolicies -A`"
            ))
        })?;
        let chain: Option<Chain> = cluster.get_cluster(&policy.spec.chain).await?;
        let contracts = chain.and_then(|c| c.status).and_then(|s| s.contracts);
        let approvals = contracts.and_then(|c| c.approval_registry.parse().ok());
        let mut deployed = Self {
            salt: None,
            agents: BTreeMap::new(),
            approvals: approvals.unwrap_or(Address::ZERO),
            catalogs: Vec::new(),
            policy,
        };
        let known = deployed.policy.status.clone().unwrap_or_default().agents;
        for agent in known {
            if let Some(map) = cluster
                .get::<ConfigMap>(namespace, &agent.config_map)
                .await?
            {
                deployed.add(&agent.spiffe_id, &map);
            }
        }
        Ok(deployed)
    }

    /// What the sidecars of one account are told.
    fn add(&mut self, spiffe_id: &str, map: &ConfigMap) {
        let file = |name: &str| map.data.as_ref().and_then(|data| data.get(name));
        let config: Option<Value> =
            file("sidecar.yaml").and_then(|text| serde_saphyr::from_str(text).ok());
        let salt = |name: &str| {
            let text = config.as_ref()?.pointer(name)?.as_str()?;
            hex::decode_to_array::<_, 16>(text).ok()
        };
        if let Some(salt) = salt("/agent/policySalt") {
            self.salt = Some(salt);
        }
        if let Some(salt) = salt("/agent/salt") {
            self.agents.insert(spiffe_id.to_owned(), salt);
        }
        let catalog = file("catalog.yaml").and_then(|text| Catalog::from_yaml(text).ok());
        self.catalogs.extend(catalog);
    }

    /// What the registry says of an agent: `active`, `paused`, `revoked` or `unknown`.
    pub fn registered(&self, spiffe_id: &str) -> Option<&str> {
        let status = self.policy.status.as_ref()?;
        let agent = status.agents.iter().find(|a| a.spiffe_id == spiffe_id)?;
        Some(&agent.status)
    }
}
