//! `writ-sidecar init` and `writ-sidecar validate` as an init container runs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../crates/redirect/tests/support/mod.rs"]
mod support;

use std::process::{Child, Command, Stdio};

use support::{PEER_V4, Pod, SIDECAR, output};
use writ_redirect::{Redirect, RedirectError, announce, apply};

/// Runs the program behind `launcher` in the pod: whether it succeeded, and all it said.
fn sidecar(pod: &Pod, launcher: &[&str], subcommand: &str) -> (bool, String) {
    let (program, arguments) = launcher.split_first().unwrap();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(env!("CARGO_BIN_EXE_writ-sidecar"));
    command.args([subcommand, "--sidecar-uid", &SIDECAR.to_string()]);
    let output = pod.pod.enter(|| output(&mut command));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn init_captures_the_pod_and_may_be_repeated() {
    let pod = Pod::new();
    for _ in 0..2 {
        let (success, said) = sidecar(&pod, &["env"], "init");
        assert!(success, "{said}");
    }
    pod.start_sidecar(&Redirect::new(SIDECAR).unwrap());
    assert_eq!(
        pod.agent(&format!("tcp('{PEER_V4}', 443)")),
        format!("15801 captured {PEER_V4}:443")
    );
}

#[test]
fn validate_fails_where_nothing_is_captured() {
    let pod = Pod::new();
    let (success, said) = sidecar(&pod, &["env"], "validate");
    assert!(!success);
    assert!(said.contains("Apply the rules again"), "{said}");
}

#[test]
fn init_without_net_admin_names_the_missing_capability() {
    let launcher = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    let (success, said) = sidecar(&Pod::new(), &launcher, "init");
    assert!(!success);
    assert!(
        said.contains("add NET_ADMIN to securityContext.capabilities"),
        "{said}"
    );
}

#[test]
fn init_in_an_image_without_iptables_says_so() {
    let script = "mount -t tmpfs none /usr/sbin && exec \"$0\" \"$@\"";
    let launcher = ["unshare", "--mount", "sh", "-c", script];
    let (success, said) = sidecar(&Pod::new(), &launcher, "init");
    assert!(!success);
    assert!(
        said.contains("use an init image that contains iptables"),
        "{said}"
    );
}

/// As admission makes it where the node agent installs the rules: no capability, a uid of its own.
const UNPRIVILEGED: [&str; 7] = [
    "setpriv",
    "--reuid=2147483647",
    "--regid=2147483647",
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
];

fn waiting(pod: &Pod, seconds: &str) -> Child {
    let (program, arguments) = UNPRIVILEGED.split_first().unwrap();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(env!("CARGO_BIN_EXE_writ-sidecar"))
        .args(["init", "--by", "node", "--wait", seconds])
        .args(["--sidecar-uid", &SIDECAR.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    pod.pod.enter(|| command.spawn().unwrap())
}

/// Whether it succeeded, and all it said.
fn ended(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Until the program listens.
fn announced(pod: &Pod, redirect: &Redirect) -> Result<(), RedirectError> {
    let give_up = std::time::Instant::now() + support::PATIENCE;
    loop {
        match pod.pod.enter(|| announce(redirect)) {
            Err(RedirectError::NobodyWaits(error))
                if error.kind() == std::io::ErrorKind::ConnectionRefused
                    && std::time::Instant::now() < give_up => {}
            told => return told,
        }
    }
}

#[test]
fn init_without_capabilities_ends_when_the_rules_are_installed_from_outside() {
    let (pod, redirect) = (Pod::new(), Redirect::new(SIDECAR).unwrap());
    let mut child = waiting(&pod, "60");
    pod.pod.enter(|| apply(&redirect)).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it waits to be told");
    announced(&pod, &redirect).unwrap();
    let (success, said) = ended(child);
    assert!(success, "{said}");
    assert!(said.contains("redirection proved"), "{said}");
}

#[test]
fn init_by_the_node_fails_where_nobody_installs_the_rules() {
    let (success, said) = ended(waiting(&Pod::new(), "1"));
    assert!(!success);
    assert!(said.contains("check that a writ-node pod runs"), "{said}");
}

#[test]
fn init_by_the_node_fails_where_other_rules_are_installed() {
    let pod = Pod::new();
    let other = Redirect::new(SIDECAR).unwrap().with_local_ports([6379]);
    let other = other.unwrap();
    let child = waiting(&pod, "4");
    pod.pod.enter(|| apply(&other)).unwrap();
    announced(&pod, &other).unwrap_err();
    let (success, said) = ended(child);
    assert!(!success);
    assert!(said.contains("local=6379"), "{said}");
}

#[test]
fn rules_that_are_announced_but_are_not_there_fail_init() {
    let (pod, redirect) = (Pod::new(), Redirect::new(SIDECAR).unwrap());
    let child = waiting(&pod, "60");
    pod.pod.enter(|| apply(&redirect)).unwrap();
    // What arrives by the rules for TCP says nothing of the others.
    for table in ["iptables", "ip6tables"] {
        pod.pod.run(table, "-t mangle -F OUTPUT");
    }
    announced(&pod, &redirect).unwrap();
    let (success, said) = ended(child);
    assert!(!success);
    assert!(
        said.contains("was not dropped") || said.contains("was sent"),
        "{said}"
    );
}
