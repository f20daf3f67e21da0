//! Between the containers of one pod.

use writ_redirect::Redirect;

use crate::support::wire::Wire;
use crate::support::{PEER_V4, POD_V4, POD_V6, Pod, SIDECAR};

#[test]
fn another_containers_port_on_loopback_is_captured() {
    let pod = Pod::captured();
    pod.start_other_container(8080);
    let printed = pod.agent("tcp('127.0.0.1', 8080); tcp('::1', 8080); tcp('127.9.9.9', 8080)");
    assert_eq!(
        printed,
        "15801 captured 127.0.0.1:8080\n15801 captured [::1]:8080\n15801 captured 127.9.9.9:8080"
    );
}

#[test]
fn another_containers_port_on_the_pods_own_address_is_captured() {
    let pod = Pod::captured();
    pod.start_other_container(8080);
    let printed = pod.agent(&format!("tcp('{POD_V4}', 8080); tcp('{POD_V6}', 8080)"));
    assert_eq!(
        printed,
        format!("15801 captured {POD_V4}:8080\n15801 captured [{POD_V6}]:8080")
    );
}

#[test]
fn udp_inside_the_pod_is_dropped() {
    let printed = Pod::captured().agent(&format!(
        "udp('127.0.0.1', 9999); udp('::1', 9999); udp('{POD_V4}', 9999)"
    ));
    assert_eq!(printed, "EPERM\nEPERM\nEPERM");
}

#[test]
fn a_declared_pod_local_port_passes_inside_the_pod_only() {
    let redirect = Redirect::new(SIDECAR)
        .unwrap()
        .with_local_ports([8081])
        .unwrap();
    let pod = Pod::with(&redirect);
    pod.start_other_container(8081);
    let wire = Wire::watch(&pod);
    let printed = pod.agent(&format!(
        "tcp('127.0.0.1', 8081); tcp('::1', 8081); tcp('{POD_V4}', 8081); tcp('{PEER_V4}', 8081)"
    ));
    assert_eq!(
        printed,
        format!("other container\nother container\nother container\n15801 captured {PEER_V4}:8081")
    );
    assert_eq!(wire.sent(), Vec::<String>::new());
}

#[test]
fn the_local_api_is_reachable_on_loopback() {
    assert_eq!(
        Pod::captured().agent("tcp('127.0.0.1', 15821)"),
        "15821 own port"
    );
}
