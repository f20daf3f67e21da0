//! Which configuration a pod's sidecar gets.

use k8s_openapi::api::core::v1::Pod;

use crate::overrides::Overrides;
use crate::refusal::{Code, Refusals};
use crate::settings::Trust;

/// What was chosen for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Name of the ConfigMap with the sidecar's configuration, in the pod's namespace.
    pub config: String,
    /// TCP ports that the pod's containers may use among themselves.
    pub local_ports: Vec<u16>,
    /// Whom the agent's own TLS trusts.
    pub trust: Trust,
}

/// Chooses a pod's configuration.
pub trait Choice: Send + Sync + 'static {
    /// The configuration for `pod` in `namespace`.
    ///
    /// # Errors
    /// Refusals, when there is none or not just one.
    fn choose(&self, namespace: &str, pod: &Pod) -> Result<Chosen, Refusals>;

    /// Whether pods can be chosen for; until then each is refused.
    ///
    /// # Errors
    /// What is missing.
    fn ready(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Configurations that somebody keeps by hand, without AgentPolicies.
#[derive(Clone, Debug)]
pub struct Static {
    first: String,
    others: Vec<String>,
    local_ports: Vec<u16>,
    trust: Trust,
}

impl Static {
    /// The ConfigMap `first`, unless the pod's `writ.dev/policy` names one of `others`.
    #[must_use]
    pub fn new(first: String, others: Vec<String>, local_ports: Vec<u16>, trust: Trust) -> Self {
        Self {
            first,
            others,
            local_ports,
            trust,
        }
    }
}

impl Choice for Static {
    fn choose(&self, _: &str, pod: &Pod) -> Result<Chosen, Refusals> {
        let (overrides, _) = Overrides::read(pod);
        let config = match overrides.policy {
            None => self.first.clone(),
            Some(named) if named == self.first || self.others.contains(&named) => named,
            Some(named) => {
                return Err(Refusals::one(
                    Code::PolicyChoice,
                    "metadata.annotations[writ.dev/policy]",
                    format!("{named:?} is none of the configurations that the webhook was given"),
                ));
            }
        };
        Ok(Chosen {
            config,
            local_ports: self.local_ports.clone(),
            trust: self.trust,
        })
    }
}
