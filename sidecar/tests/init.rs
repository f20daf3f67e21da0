//! `writ-sidecar init` and `writ-sidecar validate` as an init container runs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../crates/redirect/tests/support/mod.rs"]
mod support;

use std::process::Command;

use support::{PEER_V4, Pod, SIDECAR, output};
use writ_redirect::Redirect;

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
