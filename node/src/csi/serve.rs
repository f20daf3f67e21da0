//! The driver's two sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::pluginregistration::registration_server::RegistrationServer;
use super::registration::{CSI_FILE, State, endpoint};
use super::v1::identity_server::IdentityServer;
use super::v1::node_server::NodeServer;
use super::{Mount, registration, registration_file, service, socket};
use crate::Metrics;
use crate::run::RunError;

/// Largest request: a path, a few names, and nothing that a pod may make long.
const MAX_REQUEST: usize = 64 << 10;
/// Longest time for one; the kubelet waits two minutes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of one connection at a time. The kubelet makes a connection for each.
const AT_ONCE: usize = 16;
/// Until the kubelet is asked again that did not take the driver.
const PAUSE: Duration = Duration::from_secs(5);

/// Where the sockets are made, and where the kubelet sees them.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The kubelet's own folder, on the node.
    pub kubelet: PathBuf,
    /// `plugins/DRIVER` of it, in this program's pod.
    pub plugin: PathBuf,
    /// `plugins_registry` of it, in this program's pod.
    pub registration: PathBuf,
}

/// The driver.
pub struct Plugin {
    /// The node's name.
    pub node: String,
    /// Where its sockets are.
    pub folders: Folders,
    /// What it does.
    pub mount: Arc<dyn Mount>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Set while the kubelet has it.
    pub registered: Arc<AtomicBool>,
}

/// Serves the kubelet, and offers itself to it, until the future is dropped.
///
/// # Errors
/// [`RunError::Socket`] or [`RunError::Serve`].
pub async fn serve(plugin: Plugin) -> Result<(), RunError> {
    let Plugin {
        node,
        folders,
        mount,
        metrics,
        registered,
    } = plugin;
    let service = Arc::new(service::Service {
        node,
        kubelet: folders.kubelet.clone(),
        mount,
        metrics,
        turn: Arc::default(),
    });
    let (listener, _bound) = bind(&folders.plugin.join(CSI_FILE))?;
    let driver = server()
        .add_service(
            IdentityServer::from_arc(Arc::clone(&service)).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(NodeServer::from_arc(service).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let state = Arc::new(State {
        registered,
        ..State::default()
    });
    // Only now, since the kubelet asks the driver at once.
    tokio::select! {
        ended = driver => ended.map_err(|error| RunError::Serve(error.to_string())),
        ended = register(&folders, &state) => ended,
    }
}

/// Offers the driver to the kubelet, anew when that did not take it. A kubelet that was restarted finds the
/// socket by itself.
async fn register(folders: &Folders, state: &Arc<State>) -> Result<(), RunError> {
    let path = folders.registration.join(registration_file());
    let endpoint = endpoint(&folders.kubelet).display().to_string();
    loop {
        let (listener, bound) = bind(&path)?;
        let service = registration::Service {
            endpoint: endpoint.clone(),
            state: Arc::clone(state),
        };
        let service = RegistrationServer::new(service).max_decoding_message_size(MAX_REQUEST);
        let served = server()
            .add_service(service)
            .serve_with_incoming_shutdown(
                UnixListenerStream::new(listener),
                state.failed.notified(),
            )
            .await;
        state.registered.store(false, Ordering::Relaxed);
        served.map_err(|error| RunError::Serve(error.to_string()))?;
        drop(bound);
        tokio::time::sleep(PAUSE).await;
    }
}

fn server() -> Server {
    Server::builder()
        .timeout(PATIENCE)
        .concurrency_limit_per_connection(AT_ONCE)
        .max_concurrent_streams(AT_ONCE as u32)
        .http2_max_header_list_size(16 << 10)
}

fn bind(path: &Path) -> Result<(UnixListener, socket::Bound), RunError> {
    socket::bind(path).map_err(|source| RunError::Socket(path.to_owned(), source))
}
