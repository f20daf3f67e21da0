//! Users: the sidecar's own, and those that would be it.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::support::agent::{Confinement, PYTHON};
use crate::support::wire::Wire;
use crate::support::{PEER_V4, PEER_V6, Pod, SIDECAR, become_sidecar, greeting};

#[test]
fn the_sidecars_uid_cannot_be_taken() {
    let script = format!(
        "attempt(lambda: os.setuid({SIDECAR})); attempt(lambda: os.setresuid({SIDECAR}, -1, -1))"
    );
    let pod = Pod::captured();
    assert_eq!(pod.agent(&script), "EPERM\nEPERM");
    assert_eq!(
        pod.agent_as(Confinement::Root, PYTHON, &script),
        "EPERM\nEPERM"
    );
}

#[test]
fn root_in_another_container_is_captured() {
    let pod = Pod::captured();
    let wire = Wire::watch(&pod);
    let script = format!("tcp('{PEER_V4}', 443); udp('{PEER_V4}', 443)");
    let printed = pod.agent_as(Confinement::Root, PYTHON, &script);
    assert_eq!(printed, format!("15801 captured {PEER_V4}:443\nEPERM"));
    assert_eq!(wire.sent(), Vec::<String>::new());
}

#[test]
fn a_setuid_file_of_the_sidecars_uid_is_no_way_out_without_new_privileges() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("python");
    std::fs::copy(PYTHON, &file).unwrap();
    chown(&file, Some(SIDECAR), None).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let file = file.to_str().unwrap();
    let script = format!("print(os.geteuid()); udp('{PEER_V4}', 443); tcp('{PEER_V4}', 443)");

    let pod = Pod::captured();
    let wire = Wire::watch(&pod);
    let bypassed = pod.agent_as(Confinement::NewPrivileges, file, &script);
    assert_eq!(
        bypassed,
        format!("{SIDECAR}\nsent\nECONNREFUSED"),
        "the file is a way out where it takes effect"
    );
    assert_ne!(wire.sent(), Vec::<String>::new());

    let wire = Wire::watch(&pod);
    let captured = pod.agent_as(Confinement::Admitted, file, &script);
    assert_eq!(
        captured,
        format!("1000\nEPERM\n15801 captured {PEER_V4}:443")
    );
    assert_eq!(wire.sent(), Vec::<String>::new());
}

#[test]
fn the_sidecar_itself_goes_where_it_likes() {
    let pod = Pod::captured();
    for address in [PEER_V4, PEER_V6] {
        let target = SocketAddr::new(address.parse().unwrap(), 8443);
        let listener = pod.peer.enter(|| TcpListener::bind(target).unwrap());
        pod.peer.spawn(move || {
            listener
                .accept()
                .unwrap()
                .0
                .write_all(b"the world")
                .unwrap()
        });
        let heard = pod.pod.enter(|| {
            become_sidecar();
            greeting(target)
        });
        assert_eq!(heard, "the world");
    }
    pod.start_other_container(8080);
    let heard = pod.pod.enter(|| {
        become_sidecar();
        greeting(SocketAddr::from(([127, 0, 0, 1], 8080)))
    });
    assert_eq!(
        heard, "other container",
        "the sidecar reaches the pod's programs"
    );
}
