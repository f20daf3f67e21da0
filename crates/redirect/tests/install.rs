//! Installing, installing again, and proving: in network namespaces, with the real tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;

use support::{Namespace, Pod, SIDECAR};
use writ_redirect::{
    Applied, FamilyProof, FamilyState, Ipv6, Redirect, RedirectError, apply, differences,
    replacing, rules, validate,
};

const TOKEN: [u8; 16] = *b"0123456789abcdef";

fn redirect() -> Redirect {
    Redirect::new(SIDECAR).unwrap()
}

/// The rules of both families without counters and dates.
fn saved(namespace: &Namespace) -> String {
    let all = ["iptables-save", "ip6tables-save"].map(|program| namespace.run(program, ""));
    let lines = all
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| !line.starts_with('#'));
    lines
        .map(|line| format!("{}\n", line.split(" [").next().unwrap()))
        .collect()
}

fn proved(pod: &Pod, redirect: &Redirect) -> Result<writ_redirect::Proof, RedirectError> {
    pod.pod.enter(|| validate(redirect, TOKEN))
}

fn restore(namespace: &Namespace, program: &str, rules: &str) {
    namespace.enter(|| {
        let mut child = Command::new(program)
            .arg("--noflush")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(rules.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "{program} takes the rules");
    });
}

#[test]
fn both_families_are_installed_by_the_backend_that_takes_a_real_rule() {
    let applied = Pod::new().pod.enter(|| apply(&redirect())).unwrap();
    let installed = |program| FamilyState::Installed(program);
    assert_eq!(
        applied,
        Applied {
            v4: installed("iptables-nft-restore"),
            v6: installed("ip6tables-nft-restore")
        }
    );
}

#[test]
fn installing_again_changes_nothing() {
    let pod = Pod::new();
    pod.apply(&redirect());
    let once = saved(&pod.pod);
    pod.apply(&redirect());
    assert_eq!(saved(&pod.pod), once);
}

#[test]
fn installing_other_rules_replaces_the_earlier_ones() {
    let pod = Pod::new();
    pod.apply(
        &Redirect::new(50_000)
            .unwrap()
            .with_local_ports([8080])
            .unwrap(),
    );
    pod.apply(&redirect());
    let fresh = Pod::new();
    fresh.apply(&redirect());
    assert_eq!(saved(&pod.pod), saved(&fresh.pod));
}

#[test]
fn the_probe_leaves_nothing_behind() {
    let pod = Pod::new();
    pod.apply(&redirect());
    assert!(!saved(&pod.pod).contains("PROBE"));
}

#[test]
fn rules_of_other_software_stay_behind_the_own_ones() {
    let pod = Pod::new();
    pod.pod
        .run("iptables", "-t nat -A OUTPUT -d 10.9.9.9/32 -j ACCEPT");
    pod.apply(&redirect());
    pod.apply(&redirect());
    let nat = pod.pod.run("iptables", "-t nat -S OUTPUT");
    assert_eq!(
        nat,
        "-P OUTPUT ACCEPT\n-A OUTPUT -j WRIT_OUTPUT\n-A OUTPUT -d 10.9.9.9/32 -j ACCEPT\n"
    );
}

#[test]
fn every_backend_reads_back_what_was_asked_for() {
    let redirect = redirect().with_local_ports([6379, 9090]).unwrap();
    let ruleset = rules(&redirect);
    let off = rules(&redirect.with_ipv6(Ipv6::Off));
    for (program, rules) in [
        ("iptables-nft", &ruleset.v4),
        ("iptables-legacy", &ruleset.v4),
        ("ip6tables-nft", &ruleset.v6),
        ("ip6tables-legacy", &ruleset.v6),
        ("ip6tables-nft", &off.v6),
        ("ip6tables-legacy", &off.v6),
    ] {
        let namespace = Namespace::new();
        let save = || namespace.run(&format!("{program}-save"), "");
        restore(&namespace, &format!("{program}-restore"), rules);
        assert_eq!(
            differences(rules, &save()),
            Vec::<String>::new(),
            "{program}"
        );
        restore(
            &namespace,
            &format!("{program}-restore"),
            &replacing(rules, &save()),
        );
        assert_eq!(
            differences(rules, &save()),
            Vec::<String>::new(),
            "{program}, again"
        );
    }
}

#[test]
fn installed_rules_are_proved_in_both_families() {
    let pod = Pod::new();
    pod.apply(&redirect());
    let proof = proved(&pod, &redirect()).unwrap();
    assert_eq!(
        (proof.v4, proof.v6),
        (FamilyProof::Captured, FamilyProof::Captured)
    );
}

#[test]
fn a_pod_without_routes_is_proved_towards_itself() {
    let namespace = Namespace::new();
    namespace.run("ip", "link set lo up");
    let proof = namespace.enter(|| {
        apply(&redirect()).unwrap();
        validate(&redirect(), TOKEN).unwrap()
    });
    assert_eq!(
        (proof.v4, proof.v6),
        (
            FamilyProof::CapturedWithoutRoute,
            FamilyProof::CapturedWithoutRoute
        )
    );
}

#[test]
fn ipv6_off_is_proved_by_a_dropped_datagram() {
    let pod = Pod::new();
    let redirect = redirect().with_ipv6(Ipv6::Off);
    pod.apply(&redirect);
    let proof = proved(&pod, &redirect).unwrap();
    assert_eq!(
        (proof.v4, proof.v6),
        (FamilyProof::Captured, FamilyProof::Dropped)
    );
}

#[test]
fn a_pod_without_rules_is_not_proved() {
    let Err(RedirectError::Differs { differences, .. }) = proved(&Pod::new(), &redirect()) else {
        panic!("missing rules are a difference")
    };
    assert!(
        differences.contains(&"nat OUTPUT does not start with a jump to WRIT_OUTPUT".to_owned())
    );
}

#[test]
fn any_change_to_the_rules_is_found() {
    let ways = [
        ("iptables", "-t nat -F WRIT_OUTPUT"),
        (
            "iptables",
            "-t nat -I OUTPUT 1 -p tcp --dport 443 -j ACCEPT",
        ),
        (
            "iptables",
            "-t nat -I WRIT_PREROUTING 1 -p tcp --dport 22 -j RETURN",
        ),
        ("ip6tables", "-t mangle -D WRIT_OUTPUT -j DROP"),
        ("ip6tables", "-t mangle -D PREROUTING -j WRIT_PREROUTING"),
        ("iptables", "-t mangle -F WRIT_POSTROUTING"),
    ];
    for (program, arguments) in ways {
        let pod = Pod::new();
        pod.apply(&redirect());
        pod.pod.run(program, arguments);
        assert!(
            matches!(
                proved(&pod, &redirect()),
                Err(RedirectError::Differs { .. })
            ),
            "{program} {arguments}"
        );
    }
}

#[test]
fn a_redirection_that_the_tables_do_not_show_is_found_by_the_probe() {
    let pod = Pod::new();
    pod.apply(&redirect());
    // Other software with a table of its own, ahead of ours.
    for command in [
        "add table ip other",
        "add chain ip other output { type nat hook output priority -150 ; }",
        "add rule ip other output tcp dport 20443 redirect to :15999",
    ] {
        pod.pod.run("nft", command);
    }
    let _elsewhere = pod
        .pod
        .enter(|| TcpListener::bind("127.0.0.1:15999").unwrap());
    let Err(RedirectError::NotCaptured { what, .. }) = proved(&pod, &redirect()) else {
        panic!("the probe goes elsewhere")
    };
    assert!(
        what.starts_with("TCP to 127.0.0.1:20443 did not arrive"),
        "{what}"
    );
}

#[test]
fn a_rule_set_for_another_uid_is_not_proved() {
    let pod = Pod::new();
    pod.apply(&Redirect::new(50_000).unwrap());
    assert!(matches!(
        proved(&pod, &redirect()),
        Err(RedirectError::Differs { .. })
    ));
}

#[test]
fn a_port_in_use_is_named() {
    let pod = Pod::new();
    pod.apply(&redirect());
    let _taken = pod
        .pod
        .enter(|| UdpSocket::bind("127.0.0.1:15853").unwrap());
    let Err(RedirectError::Listen { what, .. }) = proved(&pod, &redirect()) else {
        panic!("the port is taken")
    };
    assert_eq!(what, "UDP 127.0.0.1:15853");
}

/// Runs `inside_a_confined_process` of this file in a process that `launcher` confines.
fn confined(launcher: &[&str], namespace: Option<&Namespace>, uid: u32) -> Child {
    let mut command = Command::new(launcher[0]);
    command
        .args(&launcher[1..])
        .arg(std::env::current_exe().unwrap());
    command.args([
        "--ignored",
        "--exact",
        "--nocapture",
        "inside_a_confined_process",
    ]);
    command
        .env("WRIT_TEST_UID", uid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    match namespace {
        Some(namespace) => namespace.enter(|| command.spawn().unwrap()),
        None => command.spawn().unwrap(),
    }
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn inside_a_confined_process() {
    let uid = std::env::var("WRIT_TEST_UID").unwrap().parse().unwrap();
    let redirect = Redirect::new(uid).unwrap();
    let result = apply(&redirect).and_then(|_| validate(&redirect, TOKEN));
    println!(
        "result: {}",
        result.map_or_else(|e| e.to_string(), |proof| format!("{proof:?}"))
    );
}

fn result(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("result: "));
    line.unwrap_or_else(|| panic!("the process says what happened: {text}"))
        .1
        .to_owned()
}

#[test]
fn a_pod_with_its_own_user_namespace_is_captured_if_it_maps_the_sidecars_uid() {
    for (uid, expected) in [
        (
            40_000,
            "Proof { v4: CapturedWithoutRoute, v6: CapturedWithoutRoute }",
        ),
        (70_000, "uid 70000 is not mapped in this user namespace"),
    ] {
        // As with hostUsers: false, where uids end at 65535.
        let script = "read -r go && ip link set lo up && exec \"$0\" \"$@\"";
        let mut child = confined(
            &["unshare", "--user", "--net", "sh", "-c", script],
            None,
            uid,
        );
        let status = format!("/proc/{}/ns/user", child.id());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(&status).unwrap() == own {
            thread::yield_now();
        }
        fs::write(format!("/proc/{}/uid_map", child.id()), "0 0 65536").unwrap();
        fs::write(format!("/proc/{}/gid_map", child.id()), "0 0 65536").unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let result = result(child);
        assert!(result.starts_with(expected), "{result}");
    }
}

#[test]
fn a_container_without_net_admin_is_told_what_it_lacks() {
    let pod = Pod::new();
    let child = confined(
        &[
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
        ],
        Some(&pod.pod),
        40_000,
    );
    let result = result(child);
    assert!(
        result.starts_with("CAP_NET_ADMIN is missing: add NET_ADMIN to securityContext"),
        "{result}"
    );
}

#[test]
fn the_validator_refuses_to_run_as_the_sidecar() {
    let pod = Pod::new();
    let launcher = [
        "setpriv",
        "--reuid=40000",
        "--clear-groups",
        "--inh-caps=+net_admin",
        "--ambient-caps=+net_admin",
    ];
    let result = result(confined(&launcher, Some(&pod.pod), 40_000));
    assert_eq!(
        result,
        "the validator runs as the sidecar's uid 40000, which is not captured: run it as another uid"
    );
}
