//! A stage whose sidecars the operator configures.

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use writ_api::{AgentPolicy, AgentPolicySpec};

use super::Stage;
use crate::until;

impl Stage {
    /// Applies the AgentPolicies of agents and tools, and waits until both are in force.
    pub(super) async fn govern(&self) {
        self.apply::<AgentPolicy>(&self.agents, self.agents_policy())
            .await;
        self.apply::<AgentPolicy>(&self.tools, self.tools_policy())
            .await;
        for namespace in [&self.agents, &self.tools] {
            self.in_force(namespace).await;
        }
    }

    /// The stage's AgentPolicy in a namespace.
    pub async fn policy(&self, namespace: &str) -> AgentPolicy {
        let api: Api<AgentPolicy> = Api::namespaced(self.client(), namespace);
        api.get("peers").await.expect("the stage's AgentPolicy")
    }

    /// Changes what the agents' AgentPolicy says, and returns its generation.
    pub async fn change_policy(&self, change: impl FnOnce(&mut AgentPolicySpec)) -> i64 {
        self.change_policy_of(&self.agents, change).await
    }

    /// The same of the AgentPolicy in a namespace of the stage.
    pub async fn change_policy_of(
        &self,
        namespace: &str,
        change: impl FnOnce(&mut AgentPolicySpec),
    ) -> i64 {
        let mut policy = self.policy(namespace).await;
        change(&mut policy.spec);
        let api: Api<AgentPolicy> = Api::namespaced(self.client(), namespace);
        let patch = json!({"spec": policy.spec});
        let changed = api
            .patch("peers", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("a change that is accepted");
        changed.metadata.generation.expect("a generation")
    }

    /// Waits until a namespace's AgentPolicy is in force as it is written, and returns it.
    pub async fn in_force(&self, namespace: &str) -> AgentPolicy {
        until(
            &format!("the AgentPolicy of {namespace} is in force"),
            async || {
                let api: Api<AgentPolicy> = Api::namespaced(self.client(), namespace);
                let policy = api.get("peers").await.ok()?;
                let status = policy.status.as_ref()?;
                let current = status.observed_generation == policy.metadata.generation;
                let holds = status
                    .conditions
                    .iter()
                    .any(|c| c.type_ == "InForce" && c.status == "True");
                (current && holds).then_some(policy)
            },
        )
        .await
    }

    /// Opts the namespace outside in, with agents under the same rules as the stage's own, but whom the
    /// tools' AgentPolicy does not admit.
    pub async fn govern_strangers(&self) {
        let own = self.agents_policy().to_string();
        let agents = |namespace: &str| format!("/ns/{namespace}/sa/peer");
        let theirs = own.replace(&agents(&self.agents), &agents(&self.outside));
        let theirs = serde_json::from_str(&theirs).expect("JSON as it was written");
        self.opt_in_namespace(&self.outside, Some("enabled")).await;
        self.apply::<AgentPolicy>(&self.outside, theirs).await;
        self.in_force(&self.outside).await;
    }

    fn agents_policy(&self) -> Value {
        let yaml = |text: &str| -> Value { serde_saphyr::from_str(text).expect("YAML") };
        json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy", "metadata": {"name": "peers"},
            "spec": {
                "serviceAccounts": ["peer"],
                "rules": yaml(&self.rules()),
                "catalog": yaml(&self.catalog()),
                "tls": {"intercept": true},
                "discloseTo": [self.tools],
                "staleness": {
                    "fresh": format!("{}s", self.options.staleness.0),
                    "max": format!("{}s", self.options.staleness.1),
                },
                "record": {"maxBytes": 67_108_864},
            },
        })
    }

    fn tools_policy(&self) -> Value {
        json!({
            "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy", "metadata": {"name": "peers"},
            "spec": {
                "inbound": [
                    {"port": 8443, "appPort": 8080, "authorities": [format!("{}:8443", self.host("payments"))]},
                    {"port": 8444, "appPort": 8081, "protocol": "Mcp",
                     "authorities": [format!("{}:8444", self.host("mcp"))]},
                ],
                "callers": {"policies": [{"namespace": self.agents, "name": "peers"}]},
                "record": {"maxBytes": 67_108_864},
            },
        })
    }
}
