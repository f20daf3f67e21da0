//! The HTTP client: rustls with ring, no proxies, no redirects, no retries of its own.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::roots::system_roots;
use crate::{ChainConfig, ChainError};

/// Connections kept open per endpoint.
const IDLE_CONNECTIONS: usize = 4;

/// One client for all endpoints.
pub(crate) fn http_client(config: &ChainConfig) -> Result<reqwest::Client, ChainError> {
    let client = |e: &dyn std::fmt::Display| ChainError::Client(e.to_string());
    let roots = match &config.roots {
        Some(roots) => Arc::clone(roots),
        None => Arc::new(system_roots()),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| client(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(config.request_timeout)
        .timeout(config.request_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .user_agent(concat!("writ/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| client(&e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use writ_policy::{Address, Registries};

    #[test]
    fn the_client_installs_no_process_wide_crypto_provider() {
        let registries = Registries {
            chain_id: 1,
            agents: Address::ZERO,
            policies: Address::ZERO,
        };
        let before = rustls::crypto::CryptoProvider::get_default().is_some();
        http_client(&ChainConfig::new(Vec::new(), registries)).unwrap();
        assert_eq!(
            rustls::crypto::CryptoProvider::get_default().is_some(),
            before
        );
    }
}
