//! What the connection tracker believes, and what was open before.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use writ_redirect::Redirect;

use crate::support::wire::Wire;
use crate::support::{PATIENCE, PEER_V4, PEER_V6, POD_V4, POD_V6, Pod, SIDECAR, become_sidecar};

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
