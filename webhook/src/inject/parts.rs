//! Our containers and volumes, in the form in which the API server keeps them: every field that it
//! would fill in stands here already, so that comparing is enough to know them again.

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Capabilities, ConfigMapVolumeSource, Container, ContainerPort,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, HostPathVolumeSource,
    ObjectFieldSelector, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use writ_api::INIT_BY_NODE;
use writ_redirect::{Ports, variables};

use crate::names;
use crate::overrides::Overrides;
use crate::settings::{INIT_UID, RedirectBy, Settings, SpireSocket};

/// How long the sidecar may take to become ready before it is started anew, in seconds. The chain
/// or SPIRE may come later than the pod.
const STARTUP_SECONDS: i32 = 300;

/// The init container that redirects the pod's traffic, or has the node agent do it, and proves it.
#[must_use]
pub fn init(settings: &Settings) -> Container {
    let mut env = vec![
        variable(variables::SIDECAR_UID, settings.uid.to_string()),
        variable(variables::IPV6, settings.ipv6.as_str()),
    ];
    if !settings.local_ports.is_empty() {
        let ports: Vec<String> = settings.local_ports.iter().map(u16::to_string).collect();
        env.push(variable(variables::LOCAL_PORTS, ports.join(",")));
    }
    env.extend(ports(&settings.ports));
    env.push(variable(variables::NAMES, names::NAMES_PATH));
    let names = mount(names::NAMES_VOLUME, names::NAMES_PATH);
    let (arguments, security_context, mounts) = match settings.redirect {
        RedirectBy::Init => (
            &["init"][..],
            SecurityContext {
                run_as_user: Some(0),
                run_as_group: Some(0),
                run_as_non_root: Some(false),
                capabilities: Some(Capabilities {
                    add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
                    drop: Some(vec!["ALL".to_owned()]),
                }),
                ..locked_down()
            },
            vec![mount(names::RUN_VOLUME, "/run"), names],
        ),
        RedirectBy::Node => (&INIT_BY_NODE[..], unprivileged(INIT_UID), vec![names]),
    };
    Container {
        name: names::INIT.to_owned(),
        image: Some(settings.init_image.clone()),
        args: Some(arguments.iter().copied().map(str::to_owned).collect()),
        env: Some(env),
        // Requests count by the largest init container, so these cost the pod nothing.
        resources: Some(resources("10m", "64Mi")),
        security_context: Some(security_context),
        volume_mounts: Some(mounts),
        ..container(settings)
    }
}

/// The ports, for `writ-sidecar init`. All of them: the kubelet makes variables of the namespace's
/// Services too, and of one named `writ-dns` it would make `WRIT_DNS_PORT`.
fn ports(ports: &Ports) -> [EnvVar; 5] {
    [
        (variables::OUTBOUND_PORT, ports.outbound),
        (variables::INBOUND_PORT, ports.inbound),
        (variables::ADMIN_PORT, ports.status),
        (variables::API_PORT, ports.local_api),
        (variables::DNS_PORT, ports.dns),
    ]
    .map(|(name, port)| variable(name, port.to_string()))
}

/// What the application declares, as the sidecar reads it.
#[derive(Debug, Default)]
pub struct Declared {
    /// Probes that it answers.
    pub probes: Option<String>,
    /// Metrics that a scraper may ask for.
    pub scrapes: Option<String>,
}

/// The sidecar: a native one, so that it starts before the application and ends after it.
#[must_use]
pub fn sidecar(settings: &Settings, overrides: &Overrides, declared: Declared) -> Container {
    let or = |own: &Option<String>, usual: &String| own.as_ref().unwrap_or(usual).clone();
    let mut env = vec![
        variable("WRIT_LOG", or(&overrides.log_level, &settings.log_level)),
        EnvVar {
            name: "WRIT_POD_IP".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "status.podIP".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
    ];
    for (name, value) in [
        (names::PROBES, declared.probes),
        (names::SCRAPES, declared.scrapes),
    ] {
        env.extend(value.map(|value| variable(name, value)));
    }
    if let Some(traces) = &settings.traces {
        env.push(variable("WRIT_OTLP_ENDPOINT", traces.endpoint.clone()));
        env.push(variable("WRIT_TRACE_RATIO", traces.ratio.clone()));
    }
    let admin = settings.ports.status;
    Container {
        name: names::SIDECAR.to_owned(),
        image: Some(settings.sidecar_image.clone()),
        args: Some(
            ["run", "--config", "/etc/writ/sidecar.yaml"]
                .map(str::to_owned)
                .to_vec(),
        ),
        restart_policy: Some("Always".to_owned()),
        env: Some(env),
        ports: Some(vec![ContainerPort {
            name: Some("writ-admin".to_owned()),
            container_port: admin.into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(
            &or(&overrides.cpu, &settings.cpu),
            &or(&overrides.memory, &settings.memory),
        )),
        security_context: Some(unprivileged(settings.uid)),
        startup_probe: Some(Probe {
            failure_threshold: Some(STARTUP_SECONDS),
            ..probe("/readyz", admin, 1)
        }),
        readiness_probe: Some(probe("/readyz", admin, 5)),
        liveness_probe: Some(Probe {
            failure_threshold: Some(6),
            ..probe("/healthz", admin, 10)
        }),
        volume_mounts: Some(vec![
            read_only(names::CONFIG_VOLUME, names::CONFIG_PATH),
            mount(names::RECORD_VOLUME, names::RECORD_PATH),
            mount(names::KEYS_VOLUME, names::KEYS_PATH),
            mount(names::TRUST_VOLUME, names::TRUST_PATH),
            read_only(names::SPIRE_VOLUME, names::SPIRE_PATH),
            // The runtime's own are one file for the whole pod, and root in any container writes it.
            name_file("resolv.conf"),
            name_file("hosts"),
        ]),
        ..container(settings)
    }
}

/// Our volumes.
#[must_use]
pub fn volumes(settings: &Settings) -> Vec<Volume> {
    let spire = match &settings.spire {
        SpireSocket::Csi(driver) => Volume {
            csi: Some(CSIVolumeSource {
                driver: driver.clone(),
                read_only: Some(true),
                ..CSIVolumeSource::default()
            }),
            ..named(names::SPIRE_VOLUME)
        },
        SpireSocket::HostPath(path) => Volume {
            host_path: Some(HostPathVolumeSource {
                path: path.clone(),
                type_: Some("Directory".to_owned()),
            }),
            ..named(names::SPIRE_VOLUME)
        },
    };
    let mut volumes = vec![
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: settings.config.clone(),
                default_mode: Some(0o644),
                ..ConfigMapVolumeSource::default()
            }),
            ..named(names::CONFIG_VOLUME)
        },
        empty(names::RECORD_VOLUME, None, Some(&settings.record_size)),
        empty(names::KEYS_VOLUME, Some("Memory"), Some("1Mi")),
        empty(names::TRUST_VOLUME, Some("Memory"), Some("4Mi")),
        spire,
    ];
    if settings.redirect == RedirectBy::Init {
        volumes.push(empty(names::RUN_VOLUME, Some("Memory"), Some("1Mi")));
    }
    volumes.push(empty(names::NAMES_VOLUME, Some("Memory"), Some("1Mi")));
    volumes
}

/// The mount by which an application's container reads the trust bundle.
#[must_use]
pub fn trust_mount() -> VolumeMount {
    read_only(names::TRUST_VOLUME, names::TRUST_PATH)
}

fn container(settings: &Settings) -> Container {
    Container {
        image_pull_policy: Some(settings.pull_policy.as_str().to_owned()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn locked_down() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

/// As the Pod Security Standard `restricted` has it.
fn unprivileged(id: u32) -> SecurityContext {
    let id = i64::from(id);
    SecurityContext {
        run_as_user: Some(id),
        run_as_group: Some(id),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..locked_down()
    }
}

/// The seccomp profile that the container's runtime comes with.
#[must_use]
pub fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        ..SeccompProfile::default()
    }
}

/// Memory is limited, CPU is not: throttling would be felt in every action.
fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", cpu), quantity("memory", memory)].into()),
        limits: Some([quantity("memory", memory)].into()),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, port: u16, period: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port.into()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        period_seconds: Some(period),
        success_threshold: Some(1),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// An environment variable with a value of its own.
pub fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        ..EnvVar::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        read_only: Some(true),
        ..mount(name, path)
    }
}

/// A file that the init container made, in the place of the one that the pod's containers share.
fn name_file(name: &str) -> VolumeMount {
    VolumeMount {
        sub_path: Some(name.to_owned()),
        ..read_only(names::NAMES_VOLUME, &format!("/etc/{name}"))
    }
}

fn named(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        ..Volume::default()
    }
}

fn empty(name: &str, medium: Option<&str>, size: Option<&str>) -> Volume {
    Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: size.map(|size| Quantity(size.to_owned())),
        }),
        ..named(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Traces;

    fn told(traces: Option<Traces>) -> Vec<(String, Option<String>)> {
        let settings = Settings {
            traces,
            ..Settings::default()
        };
        let sidecar = sidecar(&settings, &Overrides::default(), Declared::default());
        let told = sidecar.env.into_iter().flatten();
        told.filter(|variable| variable.name.contains("OTLP") || variable.name.contains("TRACE"))
            .map(|variable| (variable.name, variable.value))
            .collect()
    }

    #[test]
    fn sidecars_are_told_where_traces_go_where_there_is_a_place() {
        assert_eq!(told(None), []);
        let traces = Traces {
            endpoint: "http://collector:4317".to_owned(),
            ratio: "0.5".to_owned(),
        };
        let expected = [
            ("WRIT_OTLP_ENDPOINT", "http://collector:4317"),
            ("WRIT_TRACE_RATIO", "0.5"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        assert_eq!(told(Some(traces)), expected);
    }
}
