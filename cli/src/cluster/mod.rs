//! The Kubernetes API as the commands use it: every failure says what to do about it.

mod explain;

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use http_body_util::Limited;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::util::MapResponseLayer;

use crate::error::CliError;
use crate::progress::shown;
pub use explain::{Ask, status_message};

/// Objects asked for at once.
const PAGE: u32 = 500;
/// Most bytes of one answer: a page of objects of the largest size that etcd keeps is less.
const MAX_ANSWER: usize = 1 << 30;
/// Most pages of one list.
const MAX_PAGES: usize = 400;

/// Which cluster, and which namespace of it.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig file. Default: KUBECONFIG, else ~/.kube/config, else this pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
}

/// A cluster's API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
    named: Option<String>,
    namespace: String,
}

impl ClusterArgs {
    /// The namespace that was named.
    pub fn named(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The same cluster, as helm names it.
    pub fn helm_flags(&self) -> Vec<String> {
        let context = self.context.iter().map(|c| format!("--kube-context={c}"));
        let file = self.kubeconfig.iter();
        let file = file.map(|f| format!("--kubeconfig={}", f.display()));
        context.chain(file).collect()
    }

    /// Reads the configuration. Nothing is asked of the cluster yet.
    pub async fn connect(&self) -> Result<Cluster, CliError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &self.kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file).map_err(|e| explain::config(&e))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await,
            None => match Config::infer().await {
                Ok(config) => Ok(config),
                Err(_) => Config::from_kubeconfig(&options).await,
            },
        };
        let mut config = config.map_err(|e| explain::config(&e))?;
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_secs(60));
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let builder = ClientBuilder::try_from(config).map_err(|e| explain::client(&server, &e))?;
        let bounded = MapResponseLayer::new(|answer: http::Response<_>| {
            answer.map(|body| Limited::new(body, MAX_ANSWER))
        });
        let client = builder.with_layer(&bounded).build();
        Ok(Cluster {
            client,
            server,
            named: self.namespace.clone(),
            namespace: self.namespace.clone().unwrap_or(namespace),
        })
    }
}

impl Cluster {
    /// The namespace that was named, or the context's.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace, where one was named.
    pub fn named_namespace(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// Address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// For requests that are not about objects.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What a failed request means.
    pub fn explain(&self, ask: &Ask, error: kube::Error) -> CliError {
        explain::api(&self.server, ask, error)
    }

    /// A refusal that came as an answer.
    pub fn forbidden(&self, ask: &Ask, text: &str) -> CliError {
        explain::forbidden(ask, text)
    }

    /// All objects, of one namespace or of all.
    pub async fn list<K>(&self, namespace: Option<&str>) -> Result<Vec<K>, CliError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.pages(&api, Ask::of::<K>("list", namespace)).await
    }

    /// All objects that belong to no namespace.
    pub async fn list_cluster<K>(&self) -> Result<Vec<K>, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::all(self.client.clone());
        self.pages(&api, Ask::of::<K>("list", None)).await
    }

    async fn pages<K>(&self, api: &Api<K>, ask: Ask) -> Result<Vec<K>, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        for _ in 0..MAX_PAGES {
            let page = shown(&ask.doing(), api.list(&params))
                .await
                .map_err(|e| explain::api(&self.server, &ask, e))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
                None => return Ok(all),
            }
        }
        Err(CliError::Argument(format!(
            "more {} than this command reads: name a namespace",
            ask.resource()
        )))
    }

    /// One object of a namespace, where it exists.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, CliError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = Api::namespaced(self.client.clone(), namespace);
        self.one(&api, name, Ask::of::<K>("get", Some(namespace)))
            .await
    }

    /// One object that belongs to no namespace, where it exists.
    pub async fn get_cluster<K>(&self, name: &str) -> Result<Option<K>, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::all(self.client.clone());
        self.one(&api, name, Ask::of::<K>("get", None)).await
    }

    async fn one<K>(&self, api: &Api<K>, name: &str, ask: Ask) -> Result<Option<K>, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        match shown(&ask.doing(), api.get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if explain::is_absent(&error) => Ok(None),
            Err(error) => Err(explain::api(&self.server, &ask, error)),
        }
    }

    /// Creates an object that belongs to no namespace. `None`: there is one of this name already.
    pub async fn create_cluster<K>(&self, object: &K) -> Result<Option<K>, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let ask = Ask::of::<K>("create", None);
        match shown(&ask.doing(), api.create(&PostParams::default(), object)).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(explain::api(&self.server, &ask, error)),
        }
    }

    /// Creates an object of a namespace.
    pub async fn create<K>(&self, namespace: &str, object: &K) -> Result<K, CliError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let ask = Ask::of::<K>("create", Some(namespace));
        shown(&ask.doing(), api.create(&PostParams::default(), object))
            .await
            .map_err(|e| explain::api(&self.server, &ask, e))
    }

    /// Changes an object that belongs to no namespace.
    pub async fn merge_cluster<K>(&self, name: &str, patch: &Value) -> Result<K, CliError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let ask = Ask::of::<K>("patch", None);
        let params = PatchParams::default();
        shown(&ask.doing(), api.patch(name, &params, &Patch::Merge(patch)))
            .await
            .map_err(|e| explain::api(&self.server, &ask, e))
    }

    /// Deletes an object of a namespace, where it exists.
    pub async fn delete<K>(&self, namespace: &str, name: &str) -> Result<(), CliError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let ask = Ask::of::<K>("delete", Some(namespace));
        match shown(&ask.doing(), api.delete(name, &DeleteParams::default())).await {
            Ok(_) => Ok(()),
            Err(error) if explain::is_absent(&error) => Ok(()),
            Err(error) => Err(explain::api(&self.server, &ask, error)),
        }
    }
}
