//! Injection over generated pods: it is stable, complete, and independent of other injectors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use k8s_openapi::api::core::v1::{Container, Pod};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use writ_webhook::settings::{FIRST_UID, INIT_UID, LAST_UID, RedirectBy};
use writ_webhook::{Settings, inject, sidecar_uid, validate};

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,6}"
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        40 => (1..65_536u32).prop_map(|port| json!(port)),
        40 => Just(json!("http")),
        1 => Just(json!("15820")),
        1 => Just(json!(15_820)),
    ]
}

fn handler() -> impl Strategy<Value = Value> {
    prop_oneof![
        20 => (
            port(),
            option::of("/[a-z?=]{0,8}"),
            option::of(prop_oneof![Just("HTTP"), Just("HTTPS")])
        )
            .prop_map(|(port, path, scheme)| json!({"httpGet":
                {"port": port, "path": path, "scheme": scheme,
                 "httpHeaders": [{"name": "Host", "value": "x"}]}})),
        20 => port().prop_map(
            |port| json!({"httpGet": {"port": port, "path": "/probe/a/liveness", "scheme": "HTTP"}})
        ),
        1 => port().prop_map(|port| json!({"httpGet": {"port": port, "host": "elsewhere"}})),
        20 => port().prop_map(|port| json!({"tcpSocket": {"port": port}})),
        20 => (1..65_536u32, option::of("[a-z.]{0,6}"))
            .prop_map(|(port, service)| json!({"grpc": {"port": port, "service": service}})),
        20 => Just(json!({"exec": {"command": ["/ok"]}})),
    ]
}

fn probe() -> impl Strategy<Value = Value> {
    (handler(), option::of(1..60)).prop_map(|(mut probe, timeout)| {
        probe["timeoutSeconds"] = json!(timeout);
        probe
    })
}

fn context() -> impl Strategy<Value = Value> {
    let capability = prop_oneof![
        Just("ALL"),
        Just("NET_RAW"),
        Just("CAP_SETUID"),
        Just("chown"),
        Just("NET_BIND_SERVICE"),
    ];
    (
        option::of(prop_oneof![20 => Just(false), 1 => Just(true)]),
        option::of(vec(capability.clone(), 0..4)),
        option::weighted(0.1, vec(capability, 0..2)),
        option::of(prop_oneof![20 => 0..100_000i64, 1 => Just(i64::from(FIRST_UID))]),
    )
        .prop_map(|(escalation, drop, add, user)| {
            json!({"allowPrivilegeEscalation": escalation, "runAsUser": user,
                "capabilities": {"drop": drop, "add": add}})
        })
}

fn container() -> impl Strategy<Value = Value> {
    (
        name(),
        option::of(context()),
        option::of(probe()),
        option::of(probe()),
        option::of(probe()),
        option::of(handler()),
        option::of(vec(prop_oneof![Just("SSL_CERT_FILE"), Just("OTHER")], 0..2)),
    )
        .prop_map(|(name, context, liveness, readiness, startup, stop, env)| {
            let env = env.map(|names| -> Vec<Value> {
                names
                    .into_iter()
                    .map(|name| json!({"name": name, "value": "/own"}))
                    .collect()
            });
            let stop = stop.filter(|stop| stop.get("grpc").is_none());
            json!({"name": name, "image": "x", "securityContext": context,
                "livenessProbe": liveness, "readinessProbe": readiness, "startupProbe": startup,
                "lifecycle": stop.map(|stop| json!({"preStop": stop})), "env": env,
                "ports": [{"name": "http", "containerPort": 8080}]})
        })
}

/// Pods, most of them acceptable.
fn pod() -> impl Strategy<Value = Pod> {
    let annotation = prop_oneof![
        Just(("writ.dev/log-level".to_owned(), "debug".to_owned())),
        Just(("writ.dev/memory".to_owned(), "1Gi".to_owned())),
        Just(("example.com/x".to_owned(), "y".to_owned())),
        Just(("writ.dev/scrape".to_owned(), "9090/metrics".to_owned())),
        Just(("prometheus.io/scrape".to_owned(), "true".to_owned())),
    ];
    (
        vec(container(), 1..4),
        option::of(vec(container(), 0..3)),
        option::of(vec(annotation, 0..3)),
        option::of(btree_map(name(), name(), 0..2)),
        option::weighted(0.1, any::<bool>()),
        option::of(vec(name(), 0..2)),
    )
        .prop_map(|(containers, inits, annotations, labels, host, volumes)| {
            let annotations = annotations.map(|all| {
                all.into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>()
            });
            let volumes = volumes.map(|names| -> Vec<Value> {
                names
                    .into_iter()
                    .map(|name| json!({"name": name, "emptyDir": {}}))
                    .collect()
            });
            serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": labels, "annotations": annotations},
                "spec": {"containers": containers, "initContainers": inits, "hostNetwork": host,
                    "volumes": volumes}
            }))
            .unwrap()
        })
}

fn uid() -> impl Strategy<Value = u32> {
    FIRST_UID..=LAST_UID
}

/// Either way of redirection.
fn settings() -> impl Strategy<Value = Settings> {
    prop_oneof![Just(RedirectBy::Init), Just(RedirectBy::Node)].prop_map(|redirect| Settings {
        redirect,
        ..Settings::default()
    })
}

/// What an app's container needs for the redirection to hold.
fn assert_confined(container: &Container) {
    let context = container.security_context.as_ref().unwrap();
    assert_eq!(context.allow_privilege_escalation, Some(false));
    let drop = context
        .capabilities
        .as_ref()
        .unwrap()
        .drop
        .as_ref()
        .unwrap();
    for name in ["SETUID", "SETGID", "NET_ADMIN", "NET_RAW", "SYS_PTRACE"] {
        let dropped = drop.iter().any(|dropped| {
            let dropped = dropped.to_uppercase();
            dropped == "ALL" || dropped.trim_start_matches("CAP_") == name
        });
        assert!(dropped, "{name} stays in {}", container.name);
    }
    let mounts = container.volume_mounts.iter().flatten();
    let ours: Vec<&str> = mounts
        .filter(|mount| mount.name.starts_with("writ-"))
        .map(|mount| mount.name.as_str())
        .collect();
    assert_eq!(ours, ["writ-trust"]);
}

proptest! {
    #[test]
    fn injecting_twice_is_injecting_once(
        pod in pod(), settings in settings(), first in uid(), second in uid(),
    ) {
        let injected = inject(pod, &settings.with_uid(first));
        // Where too many pods are refused, nothing is shown.
        prop_assume!(injected.is_ok());
        let injected = injected.unwrap();
        let same = inject(injected.clone(), &settings.with_uid(first));
        prop_assert_eq!(same.as_ref(), Ok(&injected));
        // The uid is drawn anew each time, and nothing of the first one is left.
        let again = inject(injected.clone(), &settings.with_uid(second)).unwrap();
        prop_assert_eq!(sidecar_uid(&again), Some(second));
        prop_assert_eq!(inject(again, &settings.with_uid(first)).unwrap(), injected);
    }

    #[test]
    fn an_injected_pod_is_valid_and_every_container_of_it_confined(
        pod in pod(), settings in settings(), uid in uid(),
    ) {
        let injected = inject(pod, &settings.with_uid(uid));
        prop_assume!(injected.is_ok());
        let injected = injected.unwrap();
        prop_assert_eq!(validate(&injected, &settings).to_string(), "");
        let spec = injected.spec.unwrap();
        let inits = spec.init_containers.unwrap();
        prop_assert_eq!(&inits[0].name, "writ-init");
        prop_assert_eq!(&inits[1].name, "writ-sidecar");
        let user = |container: &Container| container.security_context.as_ref().unwrap().run_as_user;
        prop_assert_eq!(user(&inits[1]), Some(i64::from(uid)));
        prop_assert_eq!(user(&inits[0]), Some(match settings.redirect {
            RedirectBy::Init => 0,
            RedirectBy::Node => i64::from(INIT_UID),
        }));
        for container in spec.containers.iter().chain(&inits[2..]) {
            assert_confined(container);
        }
    }

    #[test]
    fn a_container_that_another_webhook_adds_is_refused_until_it_is_covered_too(
        pod in pod(), added in container(), front in any::<bool>(), init in any::<bool>(), uid in uid(),
        settings in settings(),
    ) {
        let injected = inject(pod, &settings);
        prop_assume!(injected.is_ok());
        let mut pod = injected.unwrap();
        let added: Container = serde_json::from_value(added).unwrap();
        let spec = pod.spec.as_mut().unwrap();
        let list = if init { spec.init_containers.as_mut().unwrap() } else { &mut spec.containers };
        list.insert(if front { 0 } else { list.len() }, added);
        prop_assert!(!validate(&pod, &settings).is_empty());
        let covered = inject(pod, &settings.with_uid(uid));
        prop_assume!(covered.is_ok());
        let covered = covered.unwrap();
        prop_assert_eq!(validate(&covered, &settings).to_string(), "");
        prop_assert_eq!(&covered.spec.unwrap().init_containers.unwrap()[0].name, "writ-init");
    }

    #[test]
    fn any_change_to_the_sidecar_is_found(
        pod in pod(), settings in settings(), which in 0usize..2, change in 0usize..7,
    ) {
        let injected = inject(pod, &settings);
        prop_assume!(injected.is_ok());
        let whole = injected.unwrap();
        let mut pod = whole.clone();
        let ours = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[which];
        match change {
            0 => ours.image = Some("evil".to_owned()),
            1 => ours.command = Some(vec!["sh".to_owned()]),
            2 => ours.args = None,
            3 => ours.security_context.as_mut().unwrap().run_as_user = Some(1),
            4 => ours.env.as_mut().unwrap().push(Default::default()),
            5 => ours.volume_mounts = None,
            _ => ours.lifecycle = Some(Default::default()),
        }
        prop_assert!(!validate(&pod, &settings).is_empty());
        // A program that is not ours is refused; what was put around ours is taken out.
        match change {
            0..=2 => prop_assert!(inject(pod, &settings).is_err()),
            _ => prop_assert_eq!(inject(pod, &settings), Ok(whole)),
        }
    }
}
