//! Ways out of the pod by protocol, address and kind of socket.

use std::net::UdpSocket;

use writ_redirect::{Ipv6, Redirect};

use crate::support::agent::{Confinement, PYTHON};
use crate::support::wire::Wire;
use crate::support::{PEER_V4, PEER_V6, POD_V6, Pod, SIDECAR, become_sidecar};
use crate::{Pods, only_without_rules};

#[test]
fn tcp_to_an_address_is_captured() {
    let printed = only_without_rules(Confinement::Admitted, &format!("tcp('{PEER_V4}', 443)"));
    assert_eq!(printed, format!("15801 captured {PEER_V4}:443"));
}

#[test]
fn tcp_over_ipv6_is_captured() {
    let printed = only_without_rules(Confinement::Admitted, &format!("tcp('{PEER_V6}', 443)"));
    assert_eq!(printed, format!("15801 captured [{PEER_V6}]:443"));
}

#[test]
fn tcp_from_an_ipv6_socket_to_a_mapped_ipv4_address_is_captured() {
    let printed = only_without_rules(
        Confinement::Admitted,
        &format!("tcp('::ffff:{PEER_V4}', 443)"),
    );
    assert_eq!(printed, format!("15801 captured {PEER_V4}:443"));
}

#[test]
fn tcp_to_any_other_port_is_captured() {
    let script = format!("for port in [1, 22, 25, 4443, 65535]: tcp('{PEER_V4}', port)");
    let printed = only_without_rules(Confinement::Admitted, &script);
    assert_eq!(
        printed,
        [1, 22, 25, 4443, 65535]
            .map(|port| format!("15801 captured {PEER_V4}:{port}"))
            .join("\n")
    );
}

#[test]
fn a_socket_bound_to_the_interface_does_not_leave_by_it() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6] {
        let script = format!(
            "def go(kind, port):\n\
             \x20   with socket.socket(family('{target}'), kind) as s:\n\
             \x20       s.settimeout(1)\n\
             \x20       s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')\n\
             \x20       s.connect(('{target}', port))\n\
             \x20       s.send(b'secret')\n\
             for kind, port in [(socket.SOCK_STREAM, 443), (socket.SOCK_DGRAM, 53), (socket.SOCK_DGRAM, 443)]:\n\
             \x20   attempt(lambda: go(kind, port))"
        );
        pods.only_without_rules(Confinement::Admitted, &script);
    }
}

#[test]
fn link_local_multicast_and_broadcast_addresses_are_no_way_out() {
    let script = "\
def go(kind, host, port):
    address = socket.getaddrinfo(host, port, type=kind)[0]
    with socket.socket(address[0], kind) as s:
        s.settimeout(1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.connect(address[4])
        s.send(b'secret')
for kind, host, port in [
    (socket.SOCK_STREAM, 'fe80::1%eth0', 443), (socket.SOCK_DGRAM, 'fe80::1%eth0', 53),
    (socket.SOCK_DGRAM, 'ff02::1%eth0', 53), (socket.SOCK_DGRAM, 'ff02::fb%eth0', 5353),
    (socket.SOCK_DGRAM, '224.0.0.251', 5353), (socket.SOCK_DGRAM, '255.255.255.255', 53),
    (socket.SOCK_DGRAM, '10.77.0.255', 67), (socket.SOCK_STREAM, '169.254.169.254', 80)]:
    attempt(lambda: go(kind, host, port))";
    only_without_rules(Confinement::Admitted, script);
}

#[test]
fn udp_and_quic_are_dropped() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6] {
        let script = format!("udp('{target}', 443); udp('{target}', 9999); udp('{target}', 853)");
        assert_eq!(
            pods.only_without_rules(Confinement::Admitted, &script),
            "EPERM\nEPERM\nEPERM"
        );
    }
}

#[test]
fn ping_is_dropped() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6] {
        // The kernel does not tell an ICMPv6 socket that its packet was dropped; the wire does.
        let printed = pods.only_without_rules(Confinement::Admitted, &format!("ping('{target}')"));
        assert_eq!(printed, if target == PEER_V4 { "EPERM" } else { "sent" });
    }
}

#[test]
fn raw_sockets_that_a_container_should_not_have_are_dropped_too() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6] {
        for (protocol, payload) in [
            (
                "socket.IPPROTO_UDP",
                "struct.pack('!HHHH', 7, 443, 14, 0) + b'secret'",
            ),
            ("socket.IPPROTO_ICMP", "bytes([8, 0, 0, 0, 0, 1, 0, 1])"),
            ("132", "b'sctp'"),
            ("47", "b'gre'"),
            ("253", "b'experiment'"),
        ] {
            let script = format!("raw('{target}', {protocol}, {payload})");
            assert_eq!(
                pods.only_without_rules(Confinement::WithNetRaw, &script),
                "EPERM",
                "{script}"
            );
        }
    }
}

#[test]
fn a_neighbour_solicitation_from_a_raw_socket_is_dropped() {
    let script = format!("raw('{PEER_V6}', 58, bytes([128, 0, 0, 0]) + b'secret')");
    assert_eq!(
        only_without_rules(Confinement::WithNetRaw, &script),
        "EPERM"
    );
    // As neighbour discovery it passes the rule for the kernel's own, but not as an agent's.
    let pod = Pod::captured();
    let script = format!("raw('{PEER_V6}', 58, bytes([135, 0, 0, 0, 0, 0, 0, 0]) + bytes(16))");
    assert_eq!(
        pod.agent_as(Confinement::WithNetRaw, PYTHON, &script),
        "EPERM"
    );
}

#[test]
fn raw_tcp_segments_do_not_leave_the_pod() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6] {
        // SYN; ACK of no connection; RST with a payload; no flag at all; SYN and FIN.
        for flags in [0x02, 0x10, 0x04, 0x00, 0x03] {
            let script =
                format!("raw('{target}', socket.IPPROTO_TCP, segment(5555, 443, {flags}))");
            pods.only_without_rules(Confinement::WithNetRaw, &script);
        }
    }
}

#[test]
fn packet_sockets_and_raw_sockets_cannot_be_opened_by_an_admitted_agent() {
    let script = r"
for kind in [(socket.AF_PACKET, socket.SOCK_RAW, 0x300), (socket.AF_INET, socket.SOCK_RAW, 255), (socket.AF_INET6, socket.SOCK_RAW, 58)]:
    attempt(lambda: socket.socket(*kind))";
    assert_eq!(Pod::captured().agent(script), "EPERM\nEPERM\nEPERM");
    assert_eq!(
        Pod::captured().agent_as(Confinement::Root, PYTHON, script),
        "EPERM\nEPERM\nEPERM"
    );
}

#[test]
fn dns_to_any_resolver_is_answered_by_the_sidecar() {
    let pods = Pods::new();
    for target in [PEER_V4, PEER_V6, "8.8.8.8", "2001:4860:4860::8888"] {
        let script = format!("udp('{target}', 53, want_reply=True); tcp('{target}', 53)");
        let printed = pods.only_without_rules(Confinement::Admitted, &script);
        let shown = if target.contains(':') {
            format!("[{target}]")
        } else {
            target.to_owned()
        };
        assert_eq!(
            printed,
            format!("answered secret\n15853 captured {shown}:53")
        );
    }
}

#[test]
fn with_ipv6_off_no_ipv6_passes_in_any_direction() {
    let redirect = Redirect::new(SIDECAR).unwrap().with_ipv6(Ipv6::Off);
    let pod = Pod::with(&redirect);
    let wire = Wire::watch(&pod);
    let script = format!(
        "udp('{PEER_V6}', 53); udp('{PEER_V6}', 443); udp('::1', 443); tcp('{PEER_V4}', 443)"
    );
    assert_eq!(
        pod.agent(&script),
        format!("EPERM\nEPERM\nEPERM\n15801 captured {PEER_V4}:443")
    );
    let sidecar = pod.pod.enter(|| {
        become_sidecar();
        UdpSocket::bind("[::]:0")
            .unwrap()
            .send_to(b"x", (PEER_V6, 443))
            .unwrap_err()
            .kind()
    });
    assert_eq!(sidecar, std::io::ErrorKind::PermissionDenied);
    let _ = pod.agent(&format!("ping('{PEER_V6}')"));
    pod.peer.enter(|| {
        UdpSocket::bind("[::]:0")
            .unwrap()
            .send_to(b"x", (POD_V6, 443))
            .unwrap()
    });
    assert_eq!(wire.sent(), Vec::<String>::new());
}
