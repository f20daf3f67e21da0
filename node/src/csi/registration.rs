//! How the kubelet gets to know the driver: it finds a socket in its folder, and asks there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use super::DRIVER;
use super::pluginregistration::registration_server::Registration;
use super::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// The version of the interface that the driver keeps.
const VERSION: &str = "1.0.0";

/// The registration socket's file name.
///
/// The kubelet's client makes an `:authority` of the socket's whole path, percent-encoded
/// (`%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2F…`), which no host name may have (RFC 3986, section
/// 3.2.2), so HTTP/2 servers that check it refuse the request. Before an `@` it may stand: all up to there
/// is then user information, and the driver's name is the host.
#[must_use]
pub fn registration_file() -> String {
    format!("writ@{DRIVER}-reg.sock")
}

/// The driver's socket, as the kubelet sees it.
pub(super) fn endpoint(kubelet: &Path) -> std::path::PathBuf {
    kubelet.join("plugins").join(DRIVER).join(CSI_FILE)
}

/// The driver's socket's file name.
pub(super) const CSI_FILE: &str = "csi.sock";

/// What is known of the registration.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether the kubelet took the driver.
    pub(super) registered: Arc<AtomicBool>,
    /// Told when it did not. It asks again only where the socket is made anew.
    pub(super) failed: Notify,
}

pub(super) struct Service {
    pub(super) endpoint: String,
    pub(super) state: Arc<State>,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let registered = status.plugin_registered;
        self.state.registered.store(registered, Ordering::Relaxed);
        if registered {
            tracing::info!(driver = DRIVER, "the kubelet registered the driver");
        } else {
            tracing::warn!(
                driver = DRIVER,
                error = status.error,
                "the kubelet did not register the driver; trying again"
            );
            self.state.failed.notify_one();
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
