//! The driver over its real sockets, as the kubelet speaks to it, with a stand-in for what mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use writ_node::csi::pluginregistration::registration_client::RegistrationClient;
use writ_node::csi::pluginregistration::{InfoRequest, RegistrationStatus};
use writ_node::csi::v1::identity_client::IdentityClient;
use writ_node::csi::v1::node_client::NodeClient;
use writ_node::csi::v1::volume_capability::access_mode::Mode;
use writ_node::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use writ_node::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest,
    NodeGetInfoRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, ProbeRequest,
    VolumeCapability,
};
use writ_node::csi::{DRIVER, Folders, Mount, Plugin, Published, Target, registration_file, serve};
use writ_node::run::RunError;
use writ_node::{Metrics, NodeError};

const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";
const PATIENCE: Duration = Duration::from_secs(20);

/// Notes what it is asked to do, and does what it is told to.
#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<String>>,
    folder_is_gone: AtomicBool,
}

impl Notes {
    fn note(&self, what: &str, target: &Target) -> Result<(), NodeError> {
        let folder = target.folder().display().to_string();
        self.asked.lock().unwrap().push(format!("{what} {folder}"));
        match self.folder_is_gone.load(Ordering::Relaxed) {
            true => Err(NodeError::SocketFolder("was removed")),
            false => Ok(()),
        }
    }
}

impl Mount for Notes {
    fn publish(&self, target: &Target) -> Result<Published, NodeError> {
        self.note("publish", target).map(|()| Published::Now)
    }

    fn unpublish(&self, target: &Target) -> Result<(), NodeError> {
        self.note("unpublish", target)
    }
}

/// A driver that runs, and the kubelet's side of it.
struct Driver {
    folder: TempDir,
    kubelet: PathBuf,
    notes: Arc<Notes>,
    registered: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    serving: JoinHandle<Result<(), RunError>>,
}

impl Driver {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (notes, registered) = (Arc::new(Notes::default()), Arc::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let kubelet = PathBuf::from("/var/lib/kubelet");
        let plugin = Plugin {
            node: "node-1".to_owned(),
            folders: Folders {
                kubelet: kubelet.clone(),
                plugin: folder.path().to_owned(),
                registration: folder.path().to_owned(),
            },
            mount: Arc::clone(&notes) as Arc<dyn Mount>,
            metrics: Arc::clone(&metrics),
            registered: Arc::clone(&registered),
        };
        let serving = tokio::spawn(serve(plugin));
        let driver = Self {
            folder,
            kubelet,
            notes,
            registered,
            metrics,
            serving,
        };
        driver.registration_file(None).await;
        driver
    }

    /// Waits for the registration socket, another one than `before`, and returns its inode.
    async fn registration_file(&self, before: Option<u64>) -> u64 {
        let path = self.folder.path().join(registration_file());
        let appears = async {
            loop {
                let inode = std::fs::metadata(&path).map(|found| found.ino()).ok();
                match inode {
                    Some(inode) if inode != before.unwrap_or(0) => return inode,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, appears)
            .await
            .expect("the kubelet finds a socket")
    }

    async fn channel(&self, file: &str, authority: &str) -> Channel {
        let path = self.folder.path().join(file);
        let connect = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let origin = format!("http://{authority}").parse().unwrap();
        Endpoint::from_static("http://kubelet")
            .origin(origin)
            .connect_with_connector(connect)
            .await
            .unwrap()
    }

    /// As the kubelet speaks to drivers.
    async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel("csi.sock", "localhost").await)
    }

    /// As the kubelet speaks to what it finds in its folder.
    async fn registration(&self) -> RegistrationClient<Channel> {
        let path = self
            .kubelet
            .join("plugins_registry")
            .join(registration_file());
        let file = registration_file();
        RegistrationClient::new(self.channel(&file, &authority_of(&path)).await)
    }

    fn request(&self) -> NodePublishVolumeRequest {
        let info = [
            ("csi.storage.k8s.io/pod.uid", UID),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        NodePublishVolumeRequest {
            volume_id: "csi-0".to_owned(),
            target_path: format!(
                "/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/spire/mount"
            ),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode {
                    mode: Mode::SingleNodeWriter.into(),
                }),
            }),
            readonly: true,
            volume_context: info
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    fn unpublication(&self) -> NodeUnpublishVolumeRequest {
        let NodePublishVolumeRequest {
            volume_id,
            target_path,
            ..
        } = self.request();
        NodeUnpublishVolumeRequest {
            volume_id,
            target_path,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.notes.asked.lock().unwrap().clone()
    }

    fn counted(&self, operation: &str, outcome: &str) -> u64 {
        self.metrics
            .volumes
            .with_label_values(&[operation, outcome])
            .get()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What the kubelet's client, grpc-go, makes of a socket's path (its `encodeAuthority`).
fn authority_of(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]@".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.to_str().unwrap().bytes().map(encode).collect()
}

#[tokio::test]
async fn the_kubelet_finds_the_driver_and_is_told_where_its_socket_is() {
    let driver = Driver::start().await;
    let mut registration = driver.registration().await;
    let info = registration
        .get_info(InfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.r#type, "CSIPlugin");
    assert_eq!(info.name, DRIVER);
    assert_eq!(
        info.endpoint,
        format!("/var/lib/kubelet/plugins/{DRIVER}/csi.sock")
    );
    assert_eq!(info.supported_versions, ["1.0.0"]);
    assert!(!driver.registered.load(Ordering::Relaxed));
    let status = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    registration
        .notify_registration_status(status)
        .await
        .unwrap();
    assert!(driver.registered.load(Ordering::Relaxed));
}

#[test]
fn the_kubelets_authority_of_another_file_name_would_be_no_authority() {
    let folder = Path::new("/var/lib/kubelet/plugins_registry");
    let parse = |file: &str| format!("http://{}", authority_of(&folder.join(file))).parse::<Uri>();
    parse(&registration_file()).unwrap();
    assert!(parse(&format!("{DRIVER}-reg.sock")).is_err());
}

#[tokio::test]
async fn a_kubelet_that_did_not_take_the_driver_finds_its_socket_anew() {
    let driver = Driver::start().await;
    let before = driver.registration_file(None).await;
    let status = RegistrationStatus {
        plugin_registered: false,
        error: "no CSINode".to_owned(),
    };
    let mut registration = driver.registration().await;
    registration
        .notify_registration_status(status)
        .await
        .unwrap();
    drop(registration);
    driver.registration_file(Some(before)).await;
    let mut registration = driver.registration().await;
    registration.get_info(InfoRequest {}).await.unwrap();
}

#[tokio::test]
async fn the_driver_says_what_it_is_and_that_it_can_nothing_else() {
    let driver = Driver::start().await;
    let mut identity = IdentityClient::new(driver.channel("csi.sock", "localhost").await);
    let info = identity
        .get_plugin_info(GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.name, DRIVER);
    assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
    identity
        .get_plugin_capabilities(GetPluginCapabilitiesRequest {})
        .await
        .unwrap();
    let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
    let mut node = driver.node().await;
    node.node_get_capabilities(NodeGetCapabilitiesRequest {})
        .await
        .unwrap();
    let info = node
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.node_id.as_str(), info.max_volumes_per_node),
        ("node-1", 0)
    );
}

#[tokio::test]
async fn a_volume_is_mounted_and_unmounted_where_the_kubelet_says() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    node.node_publish_volume(driver.request()).await.unwrap();
    node.node_unpublish_volume(driver.unpublication())
        .await
        .unwrap();
    let folder = format!("{UID}/volumes/kubernetes.io~csi/spire");
    assert_eq!(
        driver.asked(),
        [format!("publish {folder}"), format!("unpublish {folder}")]
    );
    assert_eq!(driver.counted("publish", "Done"), 1);
    assert_eq!(driver.counted("unpublish", "Done"), 1);
}

#[tokio::test]
async fn what_is_refused_is_an_invalid_argument_and_nothing_is_mounted() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    let mut writable = driver.request();
    writable.readonly = false;
    let refused = node.node_publish_volume(writable).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("readOnly"), "{refused}");
    let mut elsewhere = driver.unpublication();
    elsewhere.target_path = "/etc".to_owned();
    let refused = node.node_unpublish_volume(elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(driver.asked(), Vec::<String>::new());
    assert_eq!(driver.counted("publish", "Refused"), 1);
    assert_eq!(driver.counted("unpublish", "Refused"), 1);
}

#[tokio::test]
async fn a_folder_that_went_is_told_of_and_may_be_tried_again() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    driver.notes.folder_is_gone.store(true, Ordering::Relaxed);
    let failed = node
        .node_publish_volume(driver.request())
        .await
        .unwrap_err();
    assert_eq!(failed.code(), Code::FailedPrecondition);
    assert!(failed.message().contains("was removed"), "{failed}");
    driver.notes.folder_is_gone.store(false, Ordering::Relaxed);
    node.node_publish_volume(driver.request()).await.unwrap();
    assert_eq!(driver.counted("publish", "SocketFolder"), 1);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_read() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    let mut large = driver.request();
    large
        .volume_context
        .insert("key".to_owned(), "v".repeat(100 << 10));
    let refused = node.node_publish_volume(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert_eq!(driver.asked(), Vec::<String>::new());
    node.node_publish_volume(driver.request()).await.unwrap();
}

#[tokio::test]
async fn its_sockets_go_with_it_and_are_roots_alone_before() {
    let driver = Driver::start().await;
    let files = [
        driver.folder.path().join("csi.sock"),
        driver.folder.path().join(registration_file()),
    ];
    for file in &files {
        assert_eq!(std::fs::metadata(file).unwrap().mode() & 0o777, 0o600);
    }
    driver.serving.abort();
    let ended = async {
        while files.iter().any(|file| file.exists()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("no socket is left");
}
