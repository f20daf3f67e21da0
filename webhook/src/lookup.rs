//! Whether a running pod has a sidecar, for `exec` and `attach` where not every pod has one.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use crate::names;
use crate::review::Covered;

/// Finds out whether a pod has a sidecar.
pub trait Lookup: Send + Sync + 'static {
    /// Whether the pod `name` in `namespace` has one.
    fn covered<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Covered>;
}

/// Asks the API server.
#[derive(Clone)]
pub struct KubeLookup(pub Client);

impl Lookup for KubeLookup {
    fn covered<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Covered> {
        Box::pin(async move {
            let api: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
            let metadata = match api.get_metadata_opt(name).await {
                Ok(Some(found)) => found.metadata,
                Ok(None) => return Covered::No,
                Err(error) => return Covered::Unknown(error.to_string()),
            };
            let has = |entries: &Option<std::collections::BTreeMap<String, String>>, name| {
                entries.as_ref().is_some_and(|e| e.contains_key(name))
            };
            if has(&metadata.annotations, names::INJECTED) {
                Covered::Pod
            } else {
                Covered::No
            }
        })
    }
}
