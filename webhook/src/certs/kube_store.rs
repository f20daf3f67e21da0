//! The authorities in a Secret of the webhook's own namespace, and in its registrations.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Authorities, CertError, Publisher, Saved, Store};

/// Key of the Secret under which the authorities stand.
const KEY: &str = "authorities.json";

/// A Secret that the installation made empty: so this program needs no right to create one.
#[derive(Clone)]
pub struct SecretStore {
    api: Api<Secret>,
    name: String,
}

impl SecretStore {
    /// The Secret `name` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    async fn get(&self) -> Result<Secret, CertError> {
        self.api.get(&self.name).await.map_err(|error| {
            failed(
                format!("reading Secret {}, which the installation makes", self.name),
                &error,
            )
        })
    }
}

impl Store for SecretStore {
    async fn load(&self) -> Result<(Authorities, String), CertError> {
        let secret = self.get().await?;
        let version = secret.metadata.resource_version.unwrap_or_default();
        let data = secret.data.unwrap_or_default();
        let Some(ByteString(text)) = data.get(KEY) else {
            return Ok((Authorities::default(), version));
        };
        let stored = serde_json::from_slice(text)
            .map_err(|error| CertError::Stored(self.name.clone(), error.to_string()))?;
        Ok((stored, version))
    }

    async fn save(&self, authorities: &Authorities, version: &str) -> Result<Saved, CertError> {
        let text = serde_json::to_vec(authorities)
            .map_err(|error| CertError::Stored(self.name.clone(), error.to_string()))?;
        let mut secret = self.get().await?;
        secret.metadata.resource_version = Some(version.to_owned());
        secret
            .data
            .get_or_insert_default()
            .insert(KEY.to_owned(), ByteString(text));
        match self
            .api
            .replace(&self.name, &PostParams::default(), &secret)
            .await
        {
            Ok(_) => Ok(Saved::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Saved::Theirs),
            Err(error) => Err(failed(format!("writing Secret {}", self.name), &error)),
        }
    }
}

/// The webhook configurations of this installation.
#[derive(Clone)]
pub struct Configurations {
    client: Client,
    name: String,
}

impl Configurations {
    /// The mutating and the validating one, both of this name.
    #[must_use]
    pub fn new(client: Client, name: &str) -> Self {
        Self {
            client,
            name: name.to_owned(),
        }
    }

    async fn set<K>(
        &self,
        bundle: &str,
        clients: fn(&mut K) -> Vec<&mut WebhookClientConfig>,
    ) -> Result<(), CertError>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let kind = K::kind(&());
        let what =
            |verb: &str| format!("{verb} {kind} {}, which the installation makes", self.name);
        let old = api
            .get(&self.name)
            .await
            .map_err(|error| failed(what("reading"), &error))?;
        let mut new = old.clone();
        for client in clients(&mut new) {
            client.ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
        }
        let value = |object: &K| {
            serde_json::to_value(object).map_err(|error| CertError::Kubernetes {
                what: what("writing"),
                reason: error.to_string(),
            })
        };
        let mut patch = json_patch::diff(&value(&old)?, &value(&new)?);
        if patch.0.is_empty() {
            return Ok(());
        }
        // The patch names webhooks by their place, so it holds for this version alone.
        patch.0.insert(
            0,
            json_patch::PatchOperation::Test(json_patch::TestOperation {
                path: json_patch::jsonptr::PointerBuf::from_tokens(["metadata", "resourceVersion"]),
                value: old.meta().resource_version.clone().into(),
            }),
        );
        api.patch(
            &self.name,
            &PatchParams::default(),
            &Patch::<K>::Json(patch),
        )
        .await
        .map_err(|error| failed(what("patching"), &error))?;
        tracing::info!(%kind, name = self.name, "caBundle published");
        Ok(())
    }
}

impl Publisher for Configurations {
    async fn publish(&self, bundle: &str) -> Result<(), CertError> {
        self.set::<MutatingWebhookConfiguration>(bundle, |configuration| {
            let webhooks = configuration.webhooks.iter_mut().flatten();
            webhooks.map(|webhook| &mut webhook.client_config).collect()
        })
        .await?;
        self.set::<ValidatingWebhookConfiguration>(bundle, |configuration| {
            let webhooks = configuration.webhooks.iter_mut().flatten();
            webhooks.map(|webhook| &mut webhook.client_config).collect()
        })
        .await
    }
}

fn failed(what: String, error: &kube::Error) -> CertError {
    CertError::Kubernetes {
        what,
        reason: error.to_string(),
    }
}
