//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use writ_redirect::{Ipv6, Ports, Redirect};
use writ_service::Logging;

use crate::certs::Lifetimes;
use crate::choice::Static;
use crate::overrides::{Overrides, is_name};
use crate::settings::{
    DEVICES, FIRST_UID, PROTECTED_PATHS, PullPolicy, RedirectBy, SPIFFE_DRIVER, Settings,
    SpireSocket, Traces, Trust,
};

/// Admission webhook of Writ: puts the sidecar into agents' pods, and refuses pods in which it
/// could be got around.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    version,
    after_help = "Examples:
  writ-webhook                                     inside the cluster, with certificates of its own
  writ-webhook --cert-dir /etc/writ-webhook/tls    with certificates that cert-manager keeps
  writ-webhook --spire-host-path /run/spire/agent-sockets --policies static

Paths, over HTTPS: /mutate, /validate, /warn, /connect, /connect/lookup.
Over HTTP on --admin-listen: /healthz, /readyz, /metrics."
)]
pub struct Args {
    /// Where reviews are answered, over HTTPS.
    #[arg(
        long,
        env = "WRIT_LISTEN",
        default_value = "[::]:8443",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Where health, readiness and metrics are, over HTTP.
    #[arg(
        long,
        env = "WRIT_ADMIN_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// Certificates.
    #[command(flatten)]
    pub certificates: CertArgs,
    /// What pods get.
    #[command(flatten)]
    pub injection: InjectionArgs,
    /// Logs.
    #[command(flatten)]
    pub logging: Logging,
}

/// Where serving certificates come from.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Certificates")]
pub struct CertArgs {
    /// Folder with tls.crt and tls.key that somebody else keeps (cert-manager); without it this
    /// program issues its own.
    #[arg(long, env = "WRIT_CERT_DIR", value_name = "FOLDER")]
    pub cert_dir: Option<PathBuf>,
    /// Namespace of this program.
    #[arg(
        long,
        env = "WRIT_NAMESPACE",
        default_value = "writ-system",
        value_name = "NAME"
    )]
    pub namespace: String,
    /// Service through which the API server reaches this program.
    #[arg(
        long,
        env = "WRIT_SERVICE",
        default_value = "writ-webhook",
        value_name = "NAME"
    )]
    pub service: String,
    /// Secret that holds the certificate authorities; the installation makes it empty.
    #[arg(
        long,
        env = "WRIT_AUTHORITIES_SECRET",
        default_value = "writ-webhook-authorities",
        value_name = "NAME"
    )]
    pub authorities_secret: String,
    /// Name of both webhook configurations, whose caBundle this program keeps.
    #[arg(
        long,
        env = "WRIT_CONFIGURATION",
        default_value = "writ",
        value_name = "NAME"
    )]
    pub configuration: String,
    /// Life of a certificate authority.
    #[arg(long, env = "WRIT_CA_LIFETIME", default_value = "90d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub ca_lifetime: Duration,
    /// How long a new authority is published before it serves, and an old one after that.
    #[arg(long, env = "WRIT_CA_OVERLAP", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub ca_overlap: Duration,
    /// Life of a serving certificate.
    #[arg(long, env = "WRIT_CERT_LIFETIME", default_value = "24h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub cert_lifetime: Duration,
    /// How often certificates are looked at.
    #[arg(long, env = "WRIT_CERT_CHECK", default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub cert_check: Duration,
}

impl CertArgs {
    /// The lifetimes, checked.
    ///
    /// # Errors
    /// Which flag to change.
    pub fn lifetimes(&self) -> Result<Lifetimes, String> {
        if self.cert_check.is_zero() || self.cert_check > self.ca_overlap / 3 {
            return Err("--cert-check must be at most a third of --ca-overlap".to_owned());
        }
        Lifetimes::new(self.ca_lifetime, self.cert_lifetime, self.ca_overlap)
            .map_err(|_| "--ca-lifetime must be at least nine times --ca-overlap".to_owned())
    }

    /// The names of the Service.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let name = format!("{}.{}.svc", self.service, self.namespace);
        vec![format!("{name}.cluster.local"), name]
    }
}

/// What pods get.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Injection")]
pub struct InjectionArgs {
    /// Where sidecars' configurations come from.
    #[arg(long, env = "WRIT_POLICIES", value_enum, default_value_t = PolicySource::AgentPolicies)]
    pub policies: PolicySource,
    /// ConfigMap with the sidecar's configuration, in the pod's namespace, that somebody keeps by
    /// hand; writ-sidecar if --policies is static. Given more than once, pods choose by the
    /// annotation writ.dev/policy; the first is for those that do not.
    #[arg(
        long,
        env = "WRIT_STATIC_CONFIG",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub static_config: Vec<String>,
    /// Whether that configuration intercepts agents' TLS; an AgentPolicy says it itself.
    #[arg(long, env = "WRIT_TRUST", value_enum, default_value_t = Trust::Bundle)]
    pub trust: Trust,
    /// TCP ports that a pod's containers may use among themselves, separated by commas.
    #[arg(
        long,
        env = "WRIT_LOCAL_PORTS",
        value_name = "PORT",
        value_delimiter = ','
    )]
    pub local_ports: Vec<u16>,
    /// Image of the init container.
    #[arg(long, env = "WRIT_INIT_IMAGE", default_value_t = Settings::default().init_image, value_name = "IMAGE")]
    pub init_image: String,
    /// Image of the sidecar.
    #[arg(long, env = "WRIT_SIDECAR_IMAGE", default_value_t = Settings::default().sidecar_image, value_name = "IMAGE")]
    pub sidecar_image: String,
    /// When both images are pulled.
    #[arg(long, env = "WRIT_PULL_POLICY", value_enum, default_value_t = PullPolicy::IfNotPresent)]
    pub pull_policy: PullPolicy,
    /// CSI driver that mounts the socket of the SPIFFE Workload API.
    #[arg(
        long,
        env = "WRIT_SPIRE_CSI_DRIVER",
        default_value = SPIFFE_DRIVER,
        value_name = "NAME"
    )]
    pub spire_csi_driver: String,
    /// Folder of the node with that socket; instead of the CSI driver.
    #[arg(long, env = "WRIT_SPIRE_HOST_PATH", value_name = "FOLDER")]
    pub spire_host_path: Option<String>,
    /// Further folders of the node that no opted-in pod may mount, separated by commas.
    #[arg(
        long,
        env = "WRIT_PROTECTED_PATHS",
        value_name = "FOLDER",
        value_delimiter = ','
    )]
    pub protected_path: Vec<String>,
    /// Further devices that opted-in pods may ask for, by what their resources' names start with,
    /// separated by commas: only such as reach no network.
    #[arg(
        long,
        env = "WRIT_DEVICES",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pub devices: Vec<String>,
    /// CPU requested for the sidecar.
    #[arg(long, env = "WRIT_SIDECAR_CPU", default_value_t = Settings::default().cpu, value_name = "QUANTITY")]
    pub sidecar_cpu: String,
    /// Memory of the sidecar, request and limit.
    #[arg(long, env = "WRIT_SIDECAR_MEMORY", default_value_t = Settings::default().memory, value_name = "QUANTITY")]
    pub sidecar_memory: String,
    /// Largest size of the record's volume.
    #[arg(long, env = "WRIT_RECORD_SIZE", default_value_t = Settings::default().record_size, value_name = "QUANTITY")]
    pub record_size: String,
    /// What sidecars log.
    #[arg(
        long,
        env = "WRIT_SIDECAR_LOG",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub sidecar_log: String,
    /// OpenTelemetry collector that sidecars send traces to, over OTLP/gRPC, such as
    /// `http://collector.observability.svc:4317`.
    #[arg(long, env = "WRIT_OTLP_ENDPOINT", value_parser = collector, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of the actions that are traced where the agent says nothing about it, from 0 to 1.
    #[arg(long, env = "WRIT_TRACE_RATIO", default_value = "0.01", value_parser = share, value_name = "SHARE")]
    pub trace_ratio: String,
    /// Who installs the redirection: the init container, or the node agent writ-node, so that pods fit
    /// into restricted namespaces (with the CSI driver for the socket, not with --spire-host-path).
    #[arg(long, env = "WRIT_REDIRECT", value_enum, default_value_t = RedirectBy::Init, value_name = "WHO")]
    pub redirect: RedirectBy,
    /// Whether IPv6 is captured like IPv4, or dropped.
    #[arg(long, env = "WRIT_IPV6", value_enum, default_value_t = Ipv6Mode::On)]
    pub ipv6: Ipv6Mode,
    /// The sidecar's port for captured outbound connections, as in its configuration.
    #[arg(long, env = "WRIT_OUTBOUND_PORT", value_name = "PORT", default_value_t = Ports::default().outbound)]
    pub outbound_port: u16,
    /// The sidecar's port for captured inbound connections.
    #[arg(long, env = "WRIT_INBOUND_PORT", value_name = "PORT", default_value_t = Ports::default().inbound)]
    pub inbound_port: u16,
    /// The sidecar's port for health, readiness, metrics and probes.
    #[arg(long, env = "WRIT_ADMIN_PORT", value_name = "PORT", default_value_t = Ports::default().status)]
    pub admin_port: u16,
    /// The sidecar's port for its local API.
    #[arg(long, env = "WRIT_API_PORT", value_name = "PORT", default_value_t = Ports::default().local_api)]
    pub api_port: u16,
    /// The sidecar's port for DNS.
    #[arg(long, env = "WRIT_DNS_PORT", value_name = "PORT", default_value_t = Ports::default().dns)]
    pub dns_port: u16,
}

/// Where sidecars' configurations come from.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// The AgentPolicy that selects the pod. In namespaces without any, --static-config if it is
    /// given; else their pods are refused until there is one.
    AgentPolicies,
    /// Always --static-config.
    Static,
}

/// Whether pods use IPv6.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Mode {
    /// Captured like IPv4.
    On,
    /// Every IPv6 packet is dropped.
    Off,
}

impl InjectionArgs {
    /// The settings, checked.
    ///
    /// # Errors
    /// Which flag to change.
    pub fn settings(&self) -> Result<Settings, String> {
        let ports = Ports {
            outbound: self.outbound_port,
            inbound: self.inbound_port,
            status: self.admin_port,
            local_api: self.api_port,
            dns: self.dns_port,
        };
        // What the init container would refuse in every pod is refused here once.
        Redirect::new(FIRST_UID)
            .and_then(|redirect| redirect.with_ports(ports))
            .and_then(|redirect| redirect.with_local_ports(self.local_ports.iter().copied()))
            .map_err(|error| error.to_string())?;
        for name in &self.static_config {
            if !is_name(name) {
                return Err(format!("--static-config {name:?} is no ConfigMap's name"));
            }
        }
        self.check_sidecar()?;
        let spire = match &self.spire_host_path {
            Some(path) => SpireSocket::HostPath(absolute("--spire-host-path", path)?),
            None => SpireSocket::Csi(self.spire_csi_driver.clone()),
        };
        let mut protected_paths = PROTECTED_PATHS.map(str::to_owned).to_vec();
        for path in &self.protected_path {
            protected_paths.push(absolute("--protected-path", path)?);
        }
        let mut devices = DEVICES.map(str::to_owned).to_vec();
        for device in &self.devices {
            if !device.contains('/') {
                return Err(format!(
                    "--devices {device:?} is no name as example.com/device"
                ));
            }
            devices.push(device.clone());
        }
        Ok(Settings {
            init_image: self.init_image.clone(),
            sidecar_image: self.sidecar_image.clone(),
            pull_policy: self.pull_policy,
            uid: FIRST_UID,
            config: match self.static_config.first() {
                Some(first) => first.clone(),
                None => Settings::default().config,
            },
            ports,
            local_ports: self.local_ports.clone(),
            trust: self.trust,
            ipv6: match self.ipv6 {
                Ipv6Mode::On => Ipv6::On,
                Ipv6Mode::Off => Ipv6::Off,
            },
            redirect: self.redirect,
            spire,
            cpu: self.sidecar_cpu.clone(),
            memory: self.sidecar_memory.clone(),
            record_size: self.record_size.clone(),
            log_level: self.sidecar_log.clone(),
            traces: self.otlp_endpoint.clone().map(|endpoint| Traces {
                endpoint,
                ratio: self.trace_ratio.clone(),
            }),
            protected_paths,
            devices,
        })
    }

    /// The configurations that are kept by hand: those given, else the usual one where there are
    /// no others.
    #[must_use]
    pub fn fixed(&self, settings: &Settings) -> Option<Static> {
        let others = self.static_config.get(1..).unwrap_or_default();
        let fixed = Static::new(
            settings.config.clone(),
            others.to_vec(),
            settings.local_ports.clone(),
            settings.trust,
        );
        let given = !self.static_config.is_empty() || self.policies == PolicySource::Static;
        given.then_some(fixed)
    }

    /// The same bounds as for a pod's own annotations.
    fn check_sidecar(&self) -> Result<(), String> {
        use crate::names::{CPU, LOG_LEVEL, MEMORY};
        let mut pod = k8s_openapi::api::core::v1::Pod::default();
        let given = [
            (CPU, &self.sidecar_cpu),
            (MEMORY, &self.sidecar_memory),
            (LOG_LEVEL, &self.sidecar_log),
        ];
        pod.metadata.annotations = Some(
            given
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .into(),
        );
        let (_, refusals) = Overrides::read(&pod);
        refusals.or(()).map_err(|refusals| {
            format!("--sidecar-cpu, --sidecar-memory, --sidecar-log: {refusals}")
        })
    }
}

fn collector(text: &str) -> Result<String, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    let named = url.host().is_some_and(|host| !host.is_empty());
    (named && matches!(url.scheme_str(), Some("http" | "https")))
        .then(|| text.to_owned())
        .ok_or_else(|| "an http or https URL is needed, such as http://collector:4317".to_owned())
}

fn share(text: &str) -> Result<String, String> {
    let share = text.parse::<f64>().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .map(|_| text.to_owned())
        .ok_or_else(|| "a number from 0 to 1 is needed".to_owned())
}

fn absolute(flag: &str, path: &str) -> Result<String, String> {
    let good = path.starts_with('/') && path.len() > 1 && !path.split('/').any(|p| p == "..");
    good.then(|| path.to_owned())
        .ok_or_else(|| format!("{flag} {path:?} is no absolute path of a folder"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn settings(line: &str) -> Result<Settings, String> {
        let words = std::iter::once("writ-webhook").chain(line.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        args.certificates.lifetimes()?;
        args.injection.settings()
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        assert_eq!(settings("").unwrap(), Settings::default());
    }

    #[test]
    fn flags_say_what_pods_get() {
        let settings = settings(
            "--spire-host-path /run/spire/agent-sockets --static-config a,b --local-ports 6379 \
             --protected-path /srv/keys --devices example.com/npu --ipv6 off --sidecar-memory 256Mi \
             --redirect node \
             --otlp-endpoint http://collector.observability.svc:4317 --trace-ratio 0.5",
        )
        .unwrap();
        let socket = SpireSocket::HostPath("/run/spire/agent-sockets".to_owned());
        assert_eq!(settings.spire, socket);
        assert_eq!(settings.config, "a");
        assert_eq!(settings.local_ports, [6379]);
        assert!(settings.protected_paths.contains(&"/srv/keys".to_owned()));
        assert!(settings.devices.contains(&"example.com/npu".to_owned()));
        assert_eq!(settings.ipv6, Ipv6::Off);
        assert_eq!(settings.redirect, RedirectBy::Node);
        assert_eq!(settings.memory, "256Mi");
        let traces = Traces {
            endpoint: "http://collector.observability.svc:4317".to_owned(),
            ratio: "0.5".to_owned(),
        };
        assert_eq!(settings.traces, Some(traces));
    }

    #[test]
    fn configurations_kept_by_hand_hold_where_they_are_asked_for_alone() {
        let fixed = |line: &str| {
            let words = std::iter::once("writ-webhook").chain(line.split_whitespace());
            let injection = Args::try_parse_from(words).unwrap().injection;
            let fixed = injection.fixed(&injection.settings().unwrap())?;
            let pod = k8s_openapi::api::core::v1::Pod::default();
            Some(
                crate::choice::Choice::choose(&fixed, "any", &pod)
                    .unwrap()
                    .config,
            )
        };
        assert_eq!(fixed(""), None);
        assert_eq!(fixed("--policies static").as_deref(), Some("writ-sidecar"));
        assert_eq!(fixed("--static-config a,b").as_deref(), Some("a"));
    }

    #[test]
    fn what_no_pod_could_start_with_is_refused_at_once() {
        for line in [
            "--local-ports 15801",
            "--dns-port 53",
            "--admin-port 15801",
            "--static-config ../x",
            "--spire-host-path relative",
            "--protected-path /a/../b",
            "--devices gpu",
            "--devices example.com/a,",
            "--sidecar-cpu lots",
            "--sidecar-memory 1Mi",
            "--sidecar-log loud",
            "--otlp-endpoint collector:4317",
            "--otlp-endpoint file:///spans",
            "--trace-ratio 2",
            "--redirect sidecar",
            "--ca-lifetime 8h --ca-overlap 1h",
            "--cert-check 1h",
        ] {
            assert!(settings(line).is_err(), "{line}");
        }
    }
}
