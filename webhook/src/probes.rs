//! The application's probes: kubelet asks the sidecar's admin port instead, and the sidecar asks
//! the application.
//!
//! Captured inbound connections need an SVID, which the kubelet has not. The sidecar learns the
//! declared targets from `WRIT_PROBES` and answers for those alone.

use k8s_openapi::api::core::v1::{
    Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use crate::names;
use crate::refusal::{Code, Refusals};

/// Largest `WRIT_PROBES`, in bytes: it is an environment variable.
pub const MAX_BYTES: usize = 32 << 10;
/// Most targets of one pod.
pub const MAX_TARGETS: usize = 128;
/// First part of the path under which a probe is answered.
const PREFIX: &str = "/probe/";

/// One probe that the sidecar answers. The form is the sidecar's, see `sidecar/src/probes.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Path at the admin port: `/probe/<container>/<kind>`.
    pub path: String,
    /// How long the application may take, in seconds.
    pub timeout_seconds: i32,
    /// What to ask.
    #[serde(flatten)]
    pub ask: Ask,
}

impl Target {
    /// The container whose probe it is.
    #[must_use]
    pub fn container(&self) -> &str {
        let rest = self.path.strip_prefix(PREFIX).unwrap_or(&self.path);
        rest.split('/').next().unwrap_or(rest)
    }
}

/// What to ask the application, as its manifest says it; ports are numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// GET, answered with 200 to 399.
    HttpGet(HTTPGetAction),
    /// A connection that is accepted.
    TcpSocket(TCPSocketAction),
    /// `grpc.health.v1.Health/Check`, answered with SERVING.
    Grpc(GRPCAction),
}

/// Points every probe of `container` at the sidecar; the targets are added to `targets`.
pub fn rewrite(
    container: &mut Container,
    admin_port: u16,
    targets: &mut Vec<Target>,
    refusals: &mut Refusals,
) {
    let field = |kind: &str| format!("spec.containers[{}].{kind}", container.name);
    let ports = Ports::of(container);
    let path = |kind: &str| format!("{PREFIX}{}/{kind}", container.name);
    for (kind, name, probe) in [
        ("startup", "startupProbe", &mut container.startup_probe),
        ("liveness", "livenessProbe", &mut container.liveness_probe),
        (
            "readiness",
            "readinessProbe",
            &mut container.readiness_probe,
        ),
    ] {
        let Some(probe) = probe else { continue };
        let http = probe.http_get.as_ref().map(|action| &action.host);
        let tcp = probe.tcp_socket.as_ref().map(|action| &action.host);
        refuse_hosts(http.into_iter().chain(tcp), refusals, || field(name));
        let Some(ask) = take(probe) else { continue };
        match ports.resolve(ask) {
            Ok(ask) => {
                targets.push(Target {
                    path: path(kind),
                    timeout_seconds: probe.timeout_seconds.unwrap_or(1),
                    ask,
                });
                probe.http_get = Some(at_sidecar(path(kind), admin_port));
            }
            Err(port) => refuse_port(refusals, field(name), &port),
        }
    }
    let Some(lifecycle) = &mut container.lifecycle else {
        return;
    };
    for (kind, name, handler) in [
        (
            "post-start",
            "lifecycle.postStart",
            &mut lifecycle.post_start,
        ),
        ("pre-stop", "lifecycle.preStop", &mut lifecycle.pre_stop),
    ] {
        let Some(handler) = handler else { continue };
        let host = handler.http_get.iter().map(|action| &action.host);
        refuse_hosts(host, refusals, || field(name));
        let Some(action) = handler.http_get.take_if(|action| goes_to_pod(&action.host)) else {
            continue;
        };
        match ports.resolve(Ask::HttpGet(action)) {
            Ok(ask) => {
                targets.push(Target {
                    path: path(kind),
                    timeout_seconds: HOOK_SECONDS,
                    ask,
                });
                handler.http_get = Some(at_sidecar(path(kind), admin_port));
            }
            Err(port) => refuse_port(refusals, field(name), &port),
        }
    }
}

/// How long a lifecycle hook may take. The kubelet bounds it by the pod's grace period.
const HOOK_SECONDS: i32 = 600;

fn refuse_port(refusals: &mut Refusals, field: String, port: &str) {
    refusals.add(
        Code::ProbePort,
        field,
        format!("its container has no port {port:?}"),
    );
}

/// The node's own request would carry what the manifest says to whomever it names.
fn refuse_hosts<'a>(
    hosts: impl Iterator<Item = &'a Option<String>>,
    refusals: &mut Refusals,
    field: impl Fn() -> String,
) {
    for host in hosts.filter(|host| !goes_to_pod(host)) {
        refusals.add(
            Code::ProbeHost,
            format!("{}.host", field()),
            format!(
                "the node would ask {:?}, past the sidecar",
                host.as_deref().unwrap_or_default()
            ),
        );
    }
}

/// Takes what the kubelet would ask the pod; a command stays.
fn take(probe: &mut Probe) -> Option<Ask> {
    if let Some(action) = probe.http_get.take_if(|action| goes_to_pod(&action.host)) {
        return Some(Ask::HttpGet(action));
    }
    if let Some(action) = probe.tcp_socket.take_if(|action| goes_to_pod(&action.host)) {
        return Some(Ask::TcpSocket(action));
    }
    probe.grpc.take().map(Ask::Grpc)
}

fn goes_to_pod(host: &Option<String>) -> bool {
    host.as_deref().is_none_or(str::is_empty)
}

fn at_sidecar(path: String, admin_port: u16) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path),
        port: IntOrString::Int(admin_port.into()),
        scheme: Some("HTTP".to_owned()),
        ..HTTPGetAction::default()
    }
}

/// Puts the targets of an earlier injection back, so that injecting again starts from the
/// application's own probes. A probe at the sidecar's port that no target explains is refused.
pub fn restore(
    container: &mut Container,
    admin_port: u16,
    targets: &[Target],
    refusals: &mut Refusals,
) {
    let name = container.name.clone();
    let known = |action: &HTTPGetAction| -> Option<Ask> {
        let target = targets
            .iter()
            .find(|target| Some(&target.path) == action.path.as_ref())?;
        let ours = at_sidecar(target.path.clone(), admin_port);
        (*action == ours).then(|| target.ask.clone())
    };
    let mut stray = |kind: &str| {
        refusals.add(
            Code::ReservedPort,
            format!("spec.containers[{name}].{kind}"),
            format!("port {admin_port} is the sidecar's"),
        );
    };
    for (kind, probe) in [
        ("startupProbe", &mut container.startup_probe),
        ("livenessProbe", &mut container.liveness_probe),
        ("readinessProbe", &mut container.readiness_probe),
    ] {
        let Some(probe) = probe else { continue };
        let Some(action) = probe.http_get.take_if(|a| is_at(&a.port, admin_port)) else {
            if probe
                .tcp_socket
                .as_ref()
                .is_some_and(|a| is_at(&a.port, admin_port))
            {
                stray(kind);
            }
            continue;
        };
        match known(&action) {
            Some(Ask::HttpGet(original)) => probe.http_get = Some(original),
            Some(Ask::TcpSocket(original)) => probe.tcp_socket = Some(original),
            Some(Ask::Grpc(original)) => probe.grpc = Some(original),
            None => stray(kind),
        }
    }
    let Some(lifecycle) = &mut container.lifecycle else {
        return;
    };
    for (kind, handler) in [
        ("lifecycle.postStart", &mut lifecycle.post_start),
        ("lifecycle.preStop", &mut lifecycle.pre_stop),
    ] {
        let Some(LifecycleHandler { http_get, .. }) = handler else {
            continue;
        };
        let Some(action) = http_get.take_if(|a| is_at(&a.port, admin_port)) else {
            continue;
        };
        match known(&action) {
            Some(Ask::HttpGet(original)) => *http_get = Some(original),
            _ => stray(kind),
        }
    }
}

fn is_at(port: &IntOrString, number: u16) -> bool {
    match port {
        IntOrString::Int(port) => *port == i32::from(number),
        IntOrString::String(port) => port.parse() == Ok(number),
    }
}

/// The targets as the sidecar reads them; `None` when there are none.
pub fn encode(targets: &[Target], refusals: &mut Refusals) -> Option<String> {
    if targets.is_empty() {
        return None;
    }
    // These types have no map with keys other than strings, so this cannot fail.
    let text = serde_json::to_string(targets).unwrap_or_default();
    if targets.len() > MAX_TARGETS || text.len() > MAX_BYTES {
        refusals.add(
            Code::TooManyProbes,
            "spec.containers",
            format!(
                "{} probes of {} bytes; a sidecar answers {MAX_TARGETS} of {MAX_BYTES} bytes",
                targets.len(),
                text.len()
            ),
        );
    }
    Some(text)
}

/// Reads what [`encode`] wrote; anything else has no targets.
#[must_use]
pub fn decode(text: &str) -> Vec<Target> {
    if text.len() > MAX_BYTES {
        return Vec::new();
    }
    serde_json::from_str(text).unwrap_or_default()
}

/// The named ports of one container.
struct Ports(Vec<(String, i32)>);

impl Ports {
    fn of(container: &Container) -> Self {
        let ports = container.ports.iter().flatten();
        Self(
            ports
                .filter_map(|port| Some((port.name.clone()?, port.container_port)))
                .collect(),
        )
    }

    /// The same with the port's number, or the port that has none.
    fn resolve(&self, mut ask: Ask) -> Result<Ask, String> {
        match &mut ask {
            Ask::HttpGet(action) => action.port = self.number(&action.port)?,
            Ask::TcpSocket(action) => action.port = self.number(&action.port)?,
            Ask::Grpc(action) => {
                self.number(&IntOrString::Int(action.port))?;
            }
        }
        Ok(ask)
    }

    fn number(&self, port: &IntOrString) -> Result<IntOrString, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => self
                .0
                .iter()
                .find_map(|(named, number)| (named == name).then_some(*number))
                .or_else(|| name.parse().ok()),
        };
        match number {
            Some(number @ 1..=65_535) => Ok(IntOrString::Int(number)),
            _ => Err(match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            }),
        }
    }
}

/// Whether any probe would be asked at the sidecar's own ports by its manifest.
#[must_use]
pub fn is_ours(target: &Target, own: impl Fn(u16) -> bool) -> bool {
    let port = match &target.ask {
        Ask::HttpGet(action) => &action.port,
        Ask::TcpSocket(action) => &action.port,
        Ask::Grpc(action) => return u16::try_from(action.port).is_ok_and(own),
    };
    match port {
        IntOrString::Int(port) => u16::try_from(*port).is_ok_and(own),
        IntOrString::String(_) => false,
    }
}

/// The value of `WRIT_PROBES` in the sidecar.
#[must_use]
pub fn declared(sidecar: &Container) -> Option<&str> {
    sidecar
        .env
        .iter()
        .flatten()
        .find(|variable| variable.name == names::PROBES)?
        .value
        .as_deref()
}
