#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::{RefusedQuery, Settings};
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A name server on loopback: `silent.*` gets no answer, `loop.*` an address of this machine,
/// every other name 192.0.2.7. It tells which names it was asked for.
async fn upstream() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (asked, names) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let name = query.queries[0].name.clone();
            let plain = name.to_lowercase().to_ascii();
            let _ = asked.send(format!("{plain} {}", query.queries[0].query_type));
            let address = match plain.split('.').next().unwrap() {
                "silent" => continue,
                "loop" => Ipv4Addr::LOCALHOST,
                _ => Ipv4Addr::new(192, 0, 2, 7),
            };
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_query(query.queries[0].clone());
            if query.queries[0].query_type == RecordType::A {
                answer.add_answer(Record::from_rdata(name, 60, RData::A(address.into())));
            }
            socket
                .send_to(&answer.to_vec().unwrap(), client)
                .await
                .unwrap();
        }
    });
    (address, names)
}

struct Sink(mpsc::UnboundedSender<RefusedQuery>);

impl RefusalSink for Sink {
    fn refused(&self, query: RefusedQuery) {
        let _ = self.0.send(query);
    }
}

/// A running server that allows `*.example`, or nothing while `closed`.
struct Running {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<String>,
    refused: mpsc::UnboundedReceiver<RefusedQuery>,
    closed: Arc<AtomicBool>,
    stats: Box<dyn Fn() -> Stats>,
}

async fn running(limits: Limits) -> Running {
    let (nameserver, asked) = upstream().await;
    let resolver = Arc::new(Resolver::new(Settings::new(vec![nameserver])).unwrap());
    let (sink, refused) = mpsc::unbounded_channel();
    let closed = Arc::new(AtomicBool::new(false));
    let names = {
        let closed = Arc::clone(&closed);
        move |name: &str| !closed.load(Ordering::Relaxed) && name.ends_with(".example")
    };
    let loopback = [SocketAddr::from(([127, 0, 0, 1], 0))];
    let server = Server::bind(
        &loopback,
        Arc::new(names),
        resolver,
        Arc::new(Sink(sink)),
        limits,
    )
    .await
    .unwrap();
    let address = server.local_addrs()[0];
    let stats = Box::new(server.stats());
    tokio::spawn(server.run());
    Running {
        address,
        asked,
        refused,
        closed,
        stats,
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn udp(server: SocketAddr, message: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut buffer = [0; 1500];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(from, server);
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn tcp(stream: &mut TcpStream, message: &[u8]) -> Message {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn address(message: &Message) -> Option<IpAddr> {
    message
        .answers
        .first()
        .and_then(|record| record.data.ip_addr())
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

const EXPECTED: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));

#[tokio::test]
async fn a_permitted_name_is_resolved_over_udp_and_tcp() {
    let server = running(Limits::default()).await;
    assert_eq!(
        address(&udp(server.address, &query("api.example.", RecordType::A)).await),
        EXPECTED
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            address(&tcp(&mut stream, &query("api.example.", RecordType::A)).await),
            EXPECTED
        );
    }
}

#[tokio::test]
async fn an_answer_is_remembered() {
    let mut server = running(Limits::default()).await;
    for _ in 0..5 {
        udp(server.address, &query("api.example.", RecordType::A)).await;
    }
    assert_eq!(server.asked.recv().await.unwrap(), "api.example. A");
    assert!(server.asked.try_recv().is_err(), "asked for once");
}

#[tokio::test]
async fn a_refused_name_is_recorded_and_never_leaves_the_pod() {
    let mut server = running(Limits::default()).await;
    let answer = udp(
        server.address,
        &query("c2VjcmV0.tunnel.test.", RecordType::A),
    )
    .await;
    assert_eq!(code(&answer), ResponseCode::NXDomain);
    let answer = udp(server.address, &query("api.example.", RecordType::TXT)).await;
    assert_eq!(code(&answer), ResponseCode::Refused);
    let reports = [
        server.refused.recv().await.unwrap(),
        server.refused.recv().await.unwrap(),
    ];
    assert_eq!(
        reports.map(|r| r.query.name),
        ["c2vjcmv0.tunnel.test", "api.example"]
    );
    assert_eq!((server.stats)().refused, 2);
    // Whatever comes next is the first that the name server hears.
    udp(server.address, &query("api.example.", RecordType::A)).await;
    assert_eq!(server.asked.recv().await.unwrap(), "api.example. A");
}

#[tokio::test]
async fn a_reload_takes_effect_at_the_next_query_even_for_a_remembered_answer() {
    let server = running(Limits::default()).await;
    let message = query("api.example.", RecordType::A);
    assert_eq!(address(&udp(server.address, &message).await), EXPECTED);
    server.closed.store(true, Ordering::Relaxed);
    assert_eq!(
        code(&udp(server.address, &message).await),
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn a_permitted_name_cannot_point_into_the_pod() {
    let server = running(Limits::default()).await;
    let answer = udp(server.address, &query("loop.example.", RecordType::A)).await;
    assert_eq!(
        (code(&answer), address(&answer)),
        (ResponseCode::NoError, None)
    );
}

#[tokio::test]
async fn queries_beyond_the_rate_are_refused_without_being_resolved() {
    let limits = Limits {
        queries_per_second: 0,
        query_burst: 1,
        ..Limits::default()
    };
    let mut server = running(limits).await;
    assert_eq!(
        address(&udp(server.address, &query("one.example.", RecordType::A)).await),
        EXPECTED
    );
    assert_eq!(
        code(&udp(server.address, &query("two.example.", RecordType::A)).await),
        ResponseCode::Refused
    );
    assert_eq!(server.asked.recv().await.unwrap(), "one.example. A");
    assert!(server.asked.try_recv().is_err());
    assert_eq!((server.stats)().limited, 1);
}

#[tokio::test]
async fn queries_beyond_those_in_flight_are_refused() {
    let mut server = running(Limits {
        in_flight: 1,
        ..Limits::default()
    })
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(&query("silent.example.", RecordType::A), server.address)
        .await
        .unwrap();
    assert_eq!(server.asked.recv().await.unwrap(), "silent.example. A");
    assert_eq!(
        code(&udp(server.address, &query("api.example.", RecordType::A)).await),
        ResponseCode::Refused
    );
}

#[tokio::test]
async fn a_dead_name_server_is_a_server_failure() {
    // Nothing listens there: bound, then closed again.
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut settings = Settings::new(vec![closed]);
    settings.timeout = Duration::from_millis(50);
    let resolver = Arc::new(Resolver::new(settings).unwrap());
    assert!(matches!(
        resolver.resolve("api.example").await,
        Err(DnsError::Upstream { .. })
    ));
    let (sink, _refused) = mpsc::unbounded_channel();
    let loopback = [SocketAddr::from(([127, 0, 0, 1], 0))];
    let names = Arc::new(|_: &str| true);
    let server = Server::bind(
        &loopback,
        names,
        resolver,
        Arc::new(Sink(sink)),
        Limits::default(),
    )
    .await
    .unwrap();
    let address = server.local_addrs()[0];
    tokio::spawn(server.run());
    assert_eq!(
        code(&udp(address, &query("api.example.", RecordType::A)).await),
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn malformed_messages_do_not_stop_the_server() {
    let server = running(Limits::default()).await;
    let mut broken = query("api.example.", RecordType::A);
    broken.truncate(20);
    assert_eq!(
        code(&udp(server.address, &broken).await),
        ResponseCode::FormErr
    );
    let too_long = [query("api.example.", RecordType::A), vec![0; 2000]].concat();
    assert_eq!(
        code(&udp(server.address, &too_long).await),
        ResponseCode::FormErr
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(
        code(&tcp(&mut stream, &too_long).await),
        ResponseCode::FormErr
    );
    assert_eq!(
        address(&tcp(&mut stream, &query("api.example.", RecordType::A)).await),
        EXPECTED
    );
}

#[tokio::test]
async fn tcp_connections_beyond_the_limit_are_closed() {
    let server = running(Limits {
        tcp_connections: 1,
        ..Limits::default()
    })
    .await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(
        address(&tcp(&mut first, &query("api.example.", RecordType::A)).await),
        EXPECTED
    );
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let read = timeout(PATIENCE, second.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed without an answer");
    assert_eq!(
        address(&tcp(&mut first, &query("api.example.", RecordType::A)).await),
        EXPECTED
    );
}

#[tokio::test]
async fn a_silent_tcp_client_is_disconnected() {
    let server = running(Limits {
        tcp_idle: Duration::from_millis(20),
        ..Limits::default()
    })
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Half a message keeps the connection open no longer than none.
    stream.write_all(&[0, 40, 1]).await.unwrap();
    let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let server = running(Limits::default()).await;
    let resolver = Arc::new(Resolver::new(Settings::new(vec![server.address])).unwrap());
    let (sink, _refused) = mpsc::unbounded_channel();
    let names = Arc::new(|_: &str| true);
    let taken = Server::bind(
        &[server.address],
        names,
        resolver,
        Arc::new(Sink(sink)),
        Limits::default(),
    )
    .await;
    assert!(matches!(taken, Err(DnsError::Listen { address, .. }) if address == server.address));
}

/// With 500 ports taken for TCP one of 200 choices that look only at UDP would hit one of them but
/// for 3 in 100 runs.
#[tokio::test]
async fn a_port_left_to_the_system_is_one_that_is_free_for_both() {
    let mut taken = Vec::new();
    for _ in 0..500 {
        taken.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    for _ in 0..200 {
        let (udp, tcp) = bind_both(([127, 0, 0, 1], 0).into()).await.unwrap();
        assert_eq!(udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    }
}

#[tokio::test]
async fn the_sidecar_dials_the_addresses_that_it_resolved() {
    let (nameserver, _asked) = upstream().await;
    let resolver = Resolver::new(Settings::new(vec![nameserver])).unwrap();
    assert_eq!(
        resolver.resolve("api.example").await.unwrap(),
        ["192.0.2.7".parse::<IpAddr>().unwrap()]
    );
    assert!(matches!(
        resolver.resolve("loop.example").await,
        Err(DnsError::NoAddress(_))
    ));
}
