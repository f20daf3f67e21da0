//! How this sidecar reaches targets: names it resolved itself, identities from the catalog.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use writ_identity::SvidSource;
use writ_identity::tls::{self as svid_tls, ExpectedPeer};

use crate::dns::Resolver;
use crate::upstream::{Dialer, Security, Target, UpstreamError, Version};

/// Resolver, identity and certificate authorities of one sidecar.
pub struct SidecarDialer {
    resolver: Arc<Resolver>,
    identity: Arc<dyn SvidSource>,
    /// TLS settings by named authority, made once at start; `None` holds the public roots.
    authorities: HashMap<Option<String>, Arc<ClientConfig>>,
}

impl SidecarDialer {
    /// A dialer over settings that were all made at start.
    pub fn new(
        resolver: Arc<Resolver>,
        identity: Arc<dyn SvidSource>,
        authorities: HashMap<Option<String>, Arc<ClientConfig>>,
    ) -> Self {
        Self {
            resolver,
            identity,
            authorities,
        }
    }
}

impl Dialer for SidecarDialer {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, UpstreamError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = literal.parse() {
            return Ok(vec![address]);
        }
        let addresses = self.resolver.resolve(host).await.map_err(|error| {
            tracing::debug!(host, %error, "name not resolved");
            UpstreamError::NoAddress {
                host: host.to_owned(),
            }
        })?;
        if addresses.is_empty() {
            return Err(UpstreamError::NoAddress {
                host: host.to_owned(),
            });
        }
        Ok(addresses)
    }

    fn tls(&self, target: &Target) -> Result<Option<Arc<ClientConfig>>, UpstreamError> {
        let setup = |reason: String| UpstreamError::Setup {
            host: target.host.clone(),
            reason,
        };
        match &target.security {
            Security::Plain => Ok(None),
            Security::Mtls { peer } => {
                let peer = ExpectedPeer::new(peer).map_err(|error| setup(error.to_string()))?;
                let config = svid_tls::client_config(Arc::clone(&self.identity), peer)
                    .map_err(|error| setup(error.to_string()))?;
                Ok(Some(with_alpn(config, target.version)))
            }
            Security::Tls { authority } => {
                let config = self.authorities.get(authority).ok_or_else(|| {
                    setup(format!(
                        "the catalog names the certificate authority {:?}, which outbound.authorities does not define",
                        authority.as_deref().unwrap_or("public")
                    ))
                })?;
                Ok(Some(with_alpn(Arc::clone(config), target.version)))
            }
        }
    }
}

/// Offers the versions that can be spoken.
fn with_alpn(config: Arc<ClientConfig>, version: Version) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = match version {
        Version::Http1 => vec![b"http/1.1".to_vec()],
        Version::Http2 => vec![b"h2".to_vec()],
        Version::Negotiated => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Arc::new(config)
}
