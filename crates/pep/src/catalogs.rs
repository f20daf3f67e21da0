//! The caller's catalog, by hash: what the request is, worked out again.

use std::collections::HashMap;
use std::sync::Arc;

use writ_canonical::json::JsonLimits;
use writ_canonical::{CanonicalRequest, mcp};
use writ_catalog::model::Protocol;
use writ_catalog::{BodyView, Catalog, Destination, Intent};
use writ_sae::Kind;

/// What a catalog makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// Protocol.
    pub kind: Kind,
    /// Capability.
    pub capability: String,
    /// Data class: 0 public to 3 restricted.
    pub class: u8,
    /// SHA-256 of the parameters.
    pub params_digest: [u8; 32],
    /// Audience of the destination that the request leads to.
    pub audience: String,
}

/// One caller's catalog.
pub trait CallerCatalog: Send + Sync {
    /// All that the request may be as it arrived: one, unless the catalog leads to the same
    /// target from several ports on the caller's side. `body` is `None` where the envelope leaves
    /// it unbound.
    ///
    /// # Errors
    /// A text saying why it is nothing.
    fn classify(
        &self,
        head: &CanonicalRequest,
        body: Option<&[u8]>,
    ) -> Result<Vec<Classified>, String>;
}

/// Catalogs of admitted callers, by the hash that the registry names.
pub trait Catalogs: Send + Sync {
    /// The catalog with that hash, if held.
    fn by_hash(&self, hash: &[u8; 32]) -> Option<Arc<dyn CallerCatalog>>;
}

impl Catalogs for HashMap<[u8; 32], Arc<dyn CallerCatalog>> {
    fn by_hash(&self, hash: &[u8; 32]) -> Option<Arc<dyn CallerCatalog>> {
        self.get(hash).cloned()
    }
}

impl CallerCatalog for Catalog {
    fn classify(
        &self,
        head: &CanonicalRequest,
        body: Option<&[u8]>,
    ) -> Result<Vec<Classified>, String> {
        let mut found = Vec::new();
        let mut why = "no destination of the catalog leads here".to_owned();
        // What arrives bears the upstream's scheme and port, the catalog is asked by the port
        // that the agent used.
        let leads_here = |destination: &&Destination| {
            destination.upstream.port == head.port
                && destination.scheme() == head.scheme
                && self.destination(&head.host, destination.port) == Some(*destination)
        };
        for destination in self.destinations().filter(leads_here) {
            match intent(self, destination, head, body) {
                Ok(intent) => found.push(Classified {
                    kind: kind(&intent),
                    capability: intent.capability,
                    class: intent.class,
                    params_digest: intent.params_digest,
                    audience: destination.audience.clone(),
                }),
                Err(reason) => why = reason,
            }
        }
        if found.is_empty() {
            Err(why)
        } else {
            Ok(found)
        }
    }
}

fn kind(intent: &Intent) -> Kind {
    match intent.kind {
        writ_catalog::Kind::Http => Kind::Http,
        writ_catalog::Kind::Mcp => Kind::Mcp,
        writ_catalog::Kind::Opaque => Kind::Opaque,
        writ_catalog::Kind::Custom => Kind::Custom,
    }
}

fn intent(
    catalog: &Catalog,
    destination: &Destination,
    head: &CanonicalRequest,
    body: Option<&[u8]>,
) -> Result<Intent, String> {
    if let (Protocol::Mcp, Some(body @ [_, ..])) = (catalog.protocol(destination, head), body) {
        let message = mcp::parse(body, &JsonLimits::default()).map_err(|e| e.to_string())?;
        return catalog
            .classify_mcp(destination, head, &message)
            .map_err(|e| e.to_string());
    }
    let view = body.map_or(BodyView::Unbound, BodyView::Bytes);
    catalog
        .classify(destination, head, view)
        .map_err(|e| e.to_string())
}
