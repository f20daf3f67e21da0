//! The objects that a policy's pods read or are held by: ConfigMaps and a NetworkPolicy.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use writ_api::{AgentPolicy, Chain, MANAGED_BY, OPERATOR, config_map_name};
use writ_catalog::Catalog;

use super::sidecar::{self, Told};
use super::want::{Invalid, Want};
use super::{Admitted, network};
use crate::{Context, NetworkPolicies, OperatorError};

/// Label of a ConfigMap: the policy that it is of.
const OF_POLICY: &str = "writ.dev/agent-policy";

/// Keeps the NetworkPolicy of a policy's pods.
pub(super) async fn fence(
    policy: &AgentPolicy,
    namespace: &str,
    chain: &Chain,
    wanted: Option<&Want>,
    context: &Context,
) -> Result<(), OperatorError> {
    if context.settings.network_policies == NetworkPolicies::None {
        return Ok(());
    }
    let catalog = wanted.and_then(|w| Catalog::from_json(w.catalog.as_bytes()).ok());
    let dns = &context.settings.dns_namespace;
    let relay = context.settings.relay.as_ref().map(|r| r.address.as_str());
    let places = network::Places {
        home: namespace,
        dns,
        relay: relay.filter(|_| chain.spec.witnesses.is_some()),
        collector: context.settings.collector.as_ref(),
    };
    let spec = network::spec(&policy.spec, &chain.spec, catalog.as_ref(), places);
    let api: Api<NetworkPolicy> = Api::namespaced(context.client.clone(), namespace);
    let name = config_map_name(&policy.name_any(), "egress");
    let there = api.get_opt(&name).await?;
    if there.is_some_and(|n| n.spec == spec) {
        return Ok(());
    }
    let owner = policy
        .controller_owner_ref(&())
        .ok_or(OperatorError::Incomplete("uid"))?;
    let body = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": {MANAGED_BY: OPERATOR}, "ownerReferences": [owner]},
        "spec": spec,
    });
    api.patch(
        &name,
        &PatchParams::apply(OPERATOR).force(),
        &Patch::Apply(&body),
    )
    .await?;
    Ok(())
}

/// Writes the ConfigMaps of a policy's accounts, and takes away those of accounts that left.
pub(super) async fn configure(
    policy: &AgentPolicy,
    namespace: &str,
    chain: &Chain,
    accounts: &[String],
    wanted: Option<(&Want, B256)>,
    admitted: &Admitted,
    context: &Context,
) -> Result<Option<Invalid>, OperatorError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let name = policy.name_any();
    let label = config_map_name(&name, "");
    let selector = format!(
        "{MANAGED_BY}={OPERATOR},{OF_POLICY}={}",
        label.trim_end_matches('-')
    );
    let there = api
        .list(&ListParams::default().labels(&selector))
        .await?
        .items;
    let contracts = chain
        .status
        .as_ref()
        .and_then(|s| s.contracts.clone())
        .unwrap_or_default();
    let mut kept = Vec::new();
    for account in accounts {
        let map = config_map_name(&name, account);
        let present = there.iter().find(|m| m.name_any() == map);
        let agent =
            wanted.and_then(|(w, _)| Some((w, w.agents.iter().find(|a| a.account == *account)?)));
        let catalog = wanted.map(|(want, pinned)| catalog(want, pinned, present));
        let told = Told {
            spec: &policy.spec,
            chain: &chain.spec,
            contracts: &contracts,
            agent,
            catalog: catalog.as_deref(),
            admitted,
            socket: &context.settings.spire_socket,
            trust_domain: &context.settings.trust_domain,
            relay: context.settings.relay.as_ref(),
        };
        let data = match sidecar::data(&told) {
            Ok(data) => data,
            Err(invalid) => return Ok(Some(invalid)),
        };
        let unchanged = present.is_some_and(|m| m.data.as_ref() == Some(&data));
        if !unchanged {
            write(&api, policy, &map, label.trim_end_matches('-'), data).await?;
        }
        kept.push(map);
    }
    for stale in there
        .iter()
        .map(ResourceExt::name_any)
        .filter(|m| !kept.contains(m))
    {
        match api.delete(&stale, &Default::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The catalog that the chain pins. While a new one waits in the timelock, sidecars go on with the one
/// that they have.
fn catalog(want: &Want, pinned: B256, present: Option<&ConfigMap>) -> String {
    let text = present
        .and_then(|m| m.data.as_ref())
        .and_then(|d| d.get("catalog.yaml"));
    let is_pinned =
        |text: &&String| Catalog::from_yaml(text).is_ok_and(|c| B256::from(c.hash()) == pinned);
    match text.filter(is_pinned) {
        Some(text) if want.catalog_hash != pinned => text.trim_end().to_owned(),
        _ => want.catalog.clone(),
    }
}

async fn write(
    api: &Api<ConfigMap>,
    policy: &AgentPolicy,
    name: &str,
    label: &str,
    data: BTreeMap<String, String>,
) -> Result<(), OperatorError> {
    let owner = policy
        .controller_owner_ref(&())
        .ok_or(OperatorError::Incomplete("uid"))?;
    let body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {MANAGED_BY: OPERATOR, OF_POLICY: label},
            "ownerReferences": [owner],
        },
        "data": data,
    });
    api.patch(
        name,
        &PatchParams::apply(OPERATOR).force(),
        &Patch::Apply(&body),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::want::tests::{policy, wanted};

    fn present(catalog: &str) -> ConfigMap {
        ConfigMap {
            data: Some(BTreeMap::from([(
                "catalog.yaml".to_owned(),
                format!("{catalog}\n"),
            )])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn sidecars_go_on_with_the_pinned_catalog_while_a_new_one_is_queued() {
        let old = wanted(&policy()).unwrap().unwrap();
        let mut edited = policy();
        edited.spec.catalog.as_mut().unwrap()["name"] = json!("shop-2");
        let new = wanted(&edited).unwrap().unwrap();
        assert_ne!(old.catalog_hash, new.catalog_hash);
        let there = present(&old.catalog);
        assert_eq!(catalog(&new, old.catalog_hash, Some(&there)), old.catalog);
        assert_eq!(catalog(&new, new.catalog_hash, Some(&there)), new.catalog);
        assert_eq!(
            catalog(&new, B256::ZERO, None),
            new.catalog,
            "nothing is pinned yet"
        );
        assert_eq!(
            catalog(&new, old.catalog_hash, Some(&present("x"))),
            new.catalog
        );
    }
}
