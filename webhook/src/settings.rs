//! What one pod is injected with: the installation's settings, and what was chosen for the pod.

pub use writ_api::{FIRST_UID, INIT_UID, LAST_UID};
use writ_redirect::{Ipv6, Ports};

/// CSI driver of the SPIFFE project, which mounts the Workload API's socket.
pub const SPIFFE_DRIVER: &str = "csi.spiffe.io";

/// How the socket of the SPIFFE Workload API gets into the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpireSocket {
    /// By the CSI driver of this name.
    Csi(String),
    /// By this folder of the node.
    HostPath(String),
}

/// When images are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Not at all: the node must have the image.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Whom the agent's own TLS trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Trust {
    /// The pod's own CA besides the system's: the sidecar intercepts, and writes the bundle.
    Bundle,
    /// Whatever the image trusts: the sidecar does not intercept.
    Image,
}

/// Who installs the redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RedirectBy {
    /// The init container, which has NET_ADMIN and NET_RAW and is root.
    Init,
    /// The node agent. The init container has nothing and waits for it, so that the pod fits into a
    /// namespace where the Pod Security Standard `restricted` is enforced.
    Node,
}

/// Where sidecars send traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The OpenTelemetry collector's URL, for OTLP over gRPC.
    pub endpoint: String,
    /// Share of the actions that are traced where the agent says nothing about it, from 0 to 1.
    pub ratio: String,
}

/// What one pod is injected with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the init container.
    pub init_image: String,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// When both are pulled.
    pub pull_policy: PullPolicy,
    /// The sidecar's uid and gid in this pod, between [`FIRST_UID`] and [`LAST_UID`].
    pub uid: u32,
    /// The ConfigMap with the sidecar's configuration, in the pod's namespace.
    pub config: String,
    /// The sidecar's ports, as in its configuration.
    pub ports: Ports,
    /// TCP ports that the pod's containers may use among themselves.
    pub local_ports: Vec<u16>,
    /// Whom the agent's own TLS trusts. With another answer than the sidecar's configuration has,
    /// agents would look for a bundle that nobody writes.
    pub trust: Trust,
    /// Whether IPv6 is captured or dropped.
    pub ipv6: Ipv6,
    /// Who installs the redirection.
    pub redirect: RedirectBy,
    /// Where the Workload API comes from.
    pub spire: SpireSocket,
    /// CPU requested for the sidecar, unless the pod says otherwise.
    pub cpu: String,
    /// Memory of the sidecar, request and limit, unless the pod says otherwise.
    pub memory: String,
    /// Largest size of the record's volume.
    pub record_size: String,
    /// What the sidecar logs, unless the pod says otherwise.
    pub log_level: String,
    /// Where sidecars send traces, if anywhere.
    pub traces: Option<Traces>,
    /// Folders of the node that no opted-in pod may mount, nor a parent or a child of one.
    pub protected_paths: Vec<String>,
    /// What the names of the devices start with that a pod may ask for.
    pub devices: Vec<String>,
}

/// Folders of a usual node that hold sidecars' files, or the means to get at them: the kubelet's,
/// the container runtimes', SPIRE's, the kernel's, and what the node runs as root. The kubelet reads
/// logs for others, through links that a pod could make.
pub const PROTECTED_PATHS: [&str; 28] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt/cni",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/k0s",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/spire",
    "/var/log/containers",
    "/var/log/pods",
    "/var/snap",
    "/var/spool",
];

/// Devices that compute and reach no network, by what their resources' names start with.
pub const DEVICES: [&str; 7] = [
    "amd.com/gpu",
    "aws.amazon.com/neuron",
    "google.com/tpu",
    "gpu.intel.com/",
    "habana.ai/gaudi",
    "nvidia.com/gpu",
    "nvidia.com/mig-",
];

impl Default for Settings {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            init_image: format!("localhost/writ/writ-init:{version}"),
            sidecar_image: format!("localhost/writ/writ-sidecar:{version}"),
            pull_policy: PullPolicy::IfNotPresent,
            uid: FIRST_UID,
            config: "writ-sidecar".to_owned(),
            ports: Ports::default(),
            local_ports: Vec::new(),
            trust: Trust::Bundle,
            ipv6: Ipv6::On,
            redirect: RedirectBy::Init,
            spire: SpireSocket::Csi(SPIFFE_DRIVER.to_owned()),
            cpu: "50m".to_owned(),
            memory: "128Mi".to_owned(),
            record_size: "1280Mi".to_owned(),
            log_level: "info".to_owned(),
            traces: None,
            protected_paths: PROTECTED_PATHS.map(str::to_owned).to_vec(),
            devices: DEVICES.map(str::to_owned).to_vec(),
        }
    }
}

impl Settings {
    /// The same, with another uid for the sidecar.
    #[must_use]
    pub fn with_uid(&self, uid: u32) -> Self {
        Self {
            uid,
            ..self.clone()
        }
    }
}
