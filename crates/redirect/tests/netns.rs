//! Every way past the sidecar that is known, tried by real programs in real network namespaces.
//! Each attempt works without the rules, which shows that the test would see it, and fails with
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Instant;

use support::agent::{Confinement, PYTHON};
use support::wire::Wire;
use support::{PATIENCE, PEER_V4, PEER_V6, POD_V4, POD_V6, Pod, SIDECAR, become_sidecar, greeting};
use writ_redirect::{Ipv6, OriginalDstError, Redirect, original_dst};

/// A pod without rules, and a captured one.
struct Pods {
    open: Pod,
    captured: Pod,
}

impl Pods {
    fn new() -> Self {
        Self {
            open: Pod::new(),
            captured: Pod::captured(),
        }
    }

    /// Runs `script` in the pod without rules, where it must reach the wire, and in the captured
    /// one, where nothing may. Returns what it printed in the latter.
    fn only_without_rules(&self, confinement: Confinement, script: &str) -> String {
        let wire = Wire::watch(&self.open);
        let _ = self.open.agent_as(confinement, PYTHON, script);
        assert_ne!(
            wire.sent(),
            Vec::<String>::new(),
            "without rules this leaves the pod: {script}"
        );

        let wire = Wire::watch(&self.captured);
        let printed = self.captured.agent_as(confinement, PYTHON, script);
        assert_eq!(wire.sent(), Vec::<String>::new(), "{script}");
        printed
    }
}

/// One attempt in pods of its own.
fn only_without_rules(confinement: Confinement, script: &str) -> String {
    Pods::new().only_without_rules(confinement, script)
}

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

#[test]
fn a_peers_udp_packet_neither_arrives_nor_opens_a_way_out() {
    for (own, peer) in [(POD_V4, PEER_V4), (POD_V6, PEER_V6)] {
        let own_address = own.parse().unwrap();
        let heard = [Pod::new(), Pod::captured()].map(|pod| {
            // Says that it listens, waits for the word, then answers to where the peer sent from.
            let mut agent = pod.start_agent(&format!(
                "s = socket.socket(family('{own}'), socket.SOCK_DGRAM); s.bind(('{own}', 7000))\n\
                 print('ready', flush=True); sys.stdin.readline()\n\
                 attempt(lambda: s.recv(100, socket.MSG_DONTWAIT).decode())\n\
                 attempt(lambda: s.sendto(b'secret', ('{peer}', 7001)))"
            ));
            let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "ready");
            pod.peer.enter(|| {
                let socket = UdpSocket::bind(SocketAddr::new(peer.parse().unwrap(), 7001)).unwrap();
                socket
                    .send_to(b"come out", SocketAddr::new(own_address, 7000))
                    .unwrap();
                // A round trip on the same cable: the datagram has arrived or never will.
                let _ = TcpStream::connect_timeout(&SocketAddr::new(own_address, 15820), PATIENCE);
            });
            agent.stdin.take().unwrap().write_all(b"go\n").unwrap();
            let heard: Vec<String> = lines.map(Result::unwrap).collect();
            agent.wait().unwrap();
            heard
        });
        assert_eq!(heard, [["come out", "6"], ["EAGAIN", "EPERM"]]);
    }
}

/// Segments that TCP has sent again in the pod, from `/proc/net/snmp`.
fn retransmissions(pod: &Pod) -> u64 {
    let snmp = pod.pod.run("cat", "/proc/thread-self/net/snmp");
    let tcp: Vec<&str> = snmp
        .lines()
        .filter(|line| line.starts_with("Tcp:"))
        .collect();
    let column = tcp[0]
        .split_whitespace()
        .position(|name| name == "RetransSegs")
        .unwrap();
    tcp[1]
        .split_whitespace()
        .nth(column)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn what_a_closed_socket_left_in_its_buffer_does_not_leak_when_the_tracker_forgets_the_flow() {
    let pod = Pod::captured();
    // Then a segment of a forgotten flow is invalid, which nat does not see.
    pod.pod
        .enter(|| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0").unwrap());
    let mut agent = pod.start_agent(&format!(
        "s = socket.create_connection(('{PEER_V4}', 443)); s.recv(100); print('ready', flush=True)\n\
         sys.stdin.readline()\n\
         attempt(lambda: s.send(b'secret'))\n\
         s.close()"
    ));
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    pod.pod.run("conntrack", "-F");
    let wire = Wire::watch(&pod);
    let before = retransmissions(&pod);
    agent.stdin.take().unwrap().write_all(b"go\n").unwrap();
    agent.wait().unwrap();
    // A segment that reached the peer would be reset, and not be sent again.
    let give_up = Instant::now() + PATIENCE;
    while retransmissions(&pod) < before + 2 && Instant::now() < give_up {
        std::thread::yield_now();
    }
    assert_eq!(wire.sent(), Vec::<String>::new());
    assert!(retransmissions(&pod) >= before + 2);
}

#[test]
fn a_connection_from_before_the_rules_is_cut_off() {
    for address in [PEER_V4, PEER_V6] {
        let pod = Pod::new();
        let listener = pod
            .peer
            .enter(|| TcpListener::bind(SocketAddr::new(address.parse().unwrap(), 443)).unwrap());
        let mut agent = pod.start_agent(&format!(
            "s = socket.socket(family('{address}')); s.connect(('{address}', 443)); s.send(b'before'); print('ready', flush=True)\n\
             sys.stdin.readline()\n\
             attempt(lambda: s.send(b'after'))\n\
             s.close()"
        ));
        let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let (_accepted, _) = listener.accept().unwrap();
        // The tracker must know the flow for the test to mean something.
        pod.pod
            .run("iptables", "-t mangle -A INPUT -m conntrack --ctstate NEW");

        let redirect = Redirect::new(SIDECAR).unwrap();
        pod.apply(&redirect);
        pod.start_sidecar(&redirect);
        let wire = Wire::watch(&pod);
        agent.stdin.take().unwrap().write_all(b"go\n").unwrap();
        agent.wait().unwrap();
        assert_eq!(wire.sent(), Vec::<String>::new());
    }
}

#[test]
fn a_tracked_connection_from_before_the_rules_is_cut_off() {
    let pod = Pod::new();
    // A rule that needs the tracker, as another init container may leave it.
    pod.pod.run(
        "iptables",
        "-t nat -A OUTPUT -p tcp --dport 1 -j REDIRECT --to-ports 2",
    );
    let listener = pod
        .peer
        .enter(|| TcpListener::bind((PEER_V4, 443)).unwrap());
    let mut agent = pod.start_agent(&format!(
        "s = socket.socket(); s.connect(('{PEER_V4}', 443)); s.send(b'before'); print('ready', flush=True)\n\
         sys.stdin.readline()\n\
         attempt(lambda: s.send(b'after'))"
    ));
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let (_accepted, _) = listener.accept().unwrap();
    let redirect = Redirect::new(SIDECAR).unwrap();
    pod.apply(&redirect);
    pod.start_sidecar(&redirect);
    let wire = Wire::watch(&pod);
    agent.stdin.take().unwrap().write_all(b"go\n").unwrap();
    agent.wait().unwrap();
    assert_eq!(wire.sent(), Vec::<String>::new());
}

#[test]
fn a_port_that_the_sidecar_used_a_moment_ago_opens_no_way_out() {
    for (peer, port) in [(PEER_V4, 53), (PEER_V4, 443), (PEER_V6, 53), (PEER_V6, 443)] {
        let pod = Pod::captured();
        let target = SocketAddr::new(peer.parse().unwrap(), port);
        let answering = pod.peer.enter(|| UdpSocket::bind(target).unwrap());
        let source = pod.pod.enter(|| {
            become_sidecar();
            let any = if target.is_ipv6() {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"query", target).unwrap();
            let mut buffer = [0; 16];
            let (_, from) = answering.recv_from(&mut buffer).unwrap();
            answering.send_to(b"answer", from).unwrap();
            socket
                .recv_from(&mut buffer)
                .expect("the sidecar gets its answer");
            socket.local_addr().unwrap().port()
        });
        let wire = Wire::watch(&pod);
        let printed = pod.agent(&format!("udp('{peer}', {port}, source={source})"));
        assert_eq!(printed, "EPERM", "{target}");
        assert_eq!(wire.sent(), Vec::<String>::new(), "{target}");
    }
}

#[test]
fn connections_to_the_sidecars_own_listeners_are_recognised() {
    let pod = Pod::captured();
    let printed = pod.agent(&format!(
        "for host in ['127.0.0.1', '::1', '{POD_V4}']:\n    for port in [15801, 15806, 15853]: tcp(host, port)"
    ));
    let own = |address: &str| {
        format!(
            "15801 refused: the connection was made to the sidecar's own listener {address}, not redirected there"
        )
    };
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        [
            own("127.0.0.1:15801").as_str(),
            "15801 refused 127.0.0.1:15806",
            "15801 refused 127.0.0.1:15853",
            own("[::1]:15801").as_str(),
            "15801 refused [::1]:15806",
            "15801 refused [::1]:15853",
            &format!("15801 refused {POD_V4}:15801"),
            &format!("15801 refused {POD_V4}:15806"),
            &format!("15801 refused {POD_V4}:15853"),
        ]
    );
}

#[test]
fn inbound_connections_arrive_at_the_inbound_listener() {
    let pod = Pod::captured();
    pod.start_other_container(8080);
    let seen = |address: &str, port| {
        pod.peer
            .enter(|| greeting(SocketAddr::new(address.parse().unwrap(), port)))
    };
    assert_eq!(seen(POD_V4, 8080), format!("15806 captured {POD_V4}:8080"));
    assert_eq!(
        seen(POD_V6, 8080),
        format!("15806 captured [{POD_V6}]:8080")
    );
    assert_eq!(seen(POD_V4, 15820), "15820 own port");
    let own = format!(
        "the connection was made to the sidecar's own listener {POD_V4}:15806, not redirected there"
    );
    assert_eq!(seen(POD_V4, 15806), format!("15806 refused: {own}"));
    for port in [15801, 15821, 15853] {
        assert_eq!(seen(POD_V4, port), format!("15806 refused {POD_V4}:{port}"));
    }
}

#[test]
fn a_dual_stack_listener_learns_the_ipv4_destination() {
    let pod = Pod::new();
    pod.apply(&Redirect::new(SIDECAR).unwrap());
    let listener = pod.pod.enter(|| {
        become_sidecar();
        TcpListener::bind("[::]:15806").unwrap()
    });
    for address in [POD_V4, POD_V6] {
        let target = SocketAddr::new(address.parse().unwrap(), 8080);
        let _client = pod
            .peer
            .enter(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap());
        let (accepted, client) = listener.accept().unwrap();
        assert!(client.is_ipv6(), "an IPv4 client comes as a mapped address");
        assert_eq!(original_dst(&accepted).unwrap(), target);
    }
}

#[test]
fn a_connection_outside_any_redirection_has_no_original_destination() {
    let pod = Pod::new();
    let listener = pod
        .pod
        .enter(|| TcpListener::bind((POD_V4, 15806)).unwrap());
    let target = listener.local_addr().unwrap();
    let _client = pod
        .peer
        .enter(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    assert!(matches!(
        original_dst(&accepted),
        Err(OriginalDstError::NotRedirected)
    ));
}

#[test]
fn an_inbound_ping_gets_no_answer() {
    let ping = |pod: &Pod| {
        let wire = Wire::watch(pod);
        pod.peer.enter(|| {
            use socket2::{Domain, Protocol, Socket, Type};
            for (domain, protocol, kind, to) in [
                (Domain::IPV4, Protocol::ICMPV4, 8, POD_V4),
                (Domain::IPV6, Protocol::ICMPV6, 128, POD_V6),
            ] {
                let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
                let to = SocketAddr::new(to.parse().unwrap(), 0);
                // Type, code, checksum of nothing else, identifier 0, sequence 0.
                let message = [kind, 0, 0xff - kind, 0xff, 0, 0, 0, 0];
                socket.send_to(&message, &to.into()).unwrap();
            }
        });
        wire.sent()
    };
    assert_eq!(
        ping(&Pod::new()).len(),
        2,
        "without rules the kernel answers"
    );
    assert_eq!(ping(&Pod::captured()), Vec::<String>::new());
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
