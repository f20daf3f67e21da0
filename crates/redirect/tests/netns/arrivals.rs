//! What arrives at the pod, and what its listeners learn of it.

use std::net::{SocketAddr, TcpListener, TcpStream};

use writ_redirect::{OriginalDstError, Redirect, original_dst};

use crate::support::wire::Wire;
use crate::support::{PATIENCE, POD_V4, POD_V6, Pod, SIDECAR, become_sidecar, greeting};

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
