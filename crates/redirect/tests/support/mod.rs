//! A pod of network namespaces: the pod itself, a peer at the other end of its cable, a witness of
//! every frame on it, a stand-in for the sidecar, and unprivileged programs as agents.
//!
//! The namespaces have no name: they go when the test's process does, however it ends.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod agent;
pub mod wire;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, setfsuid};
use writ_redirect::{Redirect, original_dst};

pub const SIDECAR: u32 = 40_000;
pub const POD_V4: &str = "10.77.0.2";
pub const PEER_V4: &str = "10.77.0.1";
pub const POD_V6: &str = "fd77::2";
pub const PEER_V6: &str = "fd77::1";
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace of its own.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("these tests make network namespaces: run them as root");
            Self(File::open("/proc/thread-self/ns/net").unwrap())
        })
        .join()
        .unwrap()
    }

    /// Runs `work` on a thread inside. Programs that it starts are inside as well.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work` inside on a thread that lives as long as it likes.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        let inside = self.0.try_clone().unwrap();
        thread::spawn(move || {
            setns(&inside, CloneFlags::CLONE_NEWNET).unwrap();
            work();
        });
    }

    /// Runs a program inside and expects success.
    pub fn run(&self, program: &str, arguments: &str) -> String {
        let output =
            self.enter(|| output(Command::new(program).args(arguments.split_whitespace())));
        assert!(
            output.status.success(),
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} cannot be run, install it: {e}"))
}

/// From here on sockets of this thread are the sidecar's: the owner match reads the file system
/// uid of whoever opened a socket.
pub fn become_sidecar() {
    setfsuid(Uid::from_raw(SIDECAR));
    assert_eq!(
        setfsuid(Uid::from_raw(SIDECAR)).as_raw(),
        SIDECAR,
        "these tests change uids: run them as root"
    );
}

/// A pod and its peer, connected.
pub struct Pod {
    pub pod: Namespace,
    pub peer: Namespace,
}

impl Pod {
    pub fn new() -> Self {
        let (pod, peer) = (Namespace::new(), Namespace::new());
        pod.run(
            "ip",
            &format!(
                "link add eth0 address {} type veth peer name peer0",
                wire::POD_MAC
            ),
        );
        pod.run("ip", &format!("link set peer0 netns {}", peer.path()));
        for (namespace, device, own4, own6, other4, other6) in [
            (&pod, "eth0", POD_V4, POD_V6, PEER_V4, PEER_V6),
            (&peer, "peer0", PEER_V4, PEER_V6, POD_V4, POD_V6),
        ] {
            namespace.run("ip", "link set lo up");
            namespace.run("ip", &format!("address add {own4}/24 dev {device}"));
            namespace.run("ip", &format!("address add {own6}/64 dev {device} nodad"));
            namespace.run("ip", &format!("link set {device} up"));
            let link_local = if device == "eth0" {
                "fe80::2"
            } else {
                "fe80::1"
            };
            namespace.run(
                "ip",
                &format!("address add {link_local}/64 dev {device} nodad"),
            );
            namespace.run("ip", &format!("route add default via {other4}"));
            namespace.run("ip", &format!("-6 route add default via {other6}"));
        }
        // The peer is the rest of the world, and says at once that nothing listens there.
        for address in [
            "8.8.8.8/32",
            "169.254.169.254/32",
            "2001:4860:4860::8888/128",
        ] {
            peer.run("ip", &format!("address add {address} dev lo"));
        }
        // Ping sockets for everyone, so that ICMP needs no capability.
        pod.enter(|| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap());
        Self { pod, peer }
    }

    /// A pod whose traffic is captured by the default rules, with the sidecar's stand-in running.
    pub fn captured() -> Self {
        Self::with(&Redirect::new(SIDECAR).unwrap())
    }

    pub fn with(redirect: &Redirect) -> Self {
        let pod = Self::new();
        pod.apply(redirect);
        pod.start_sidecar(redirect);
        pod
    }

    pub fn apply(&self, redirect: &Redirect) {
        self.pod.enter(|| writ_redirect::apply(redirect)).unwrap();
    }

    /// Listens on the sidecar's ports, and tells each client what it sees of it.
    pub fn start_sidecar(&self, redirect: &Redirect) {
        let ports = *redirect.ports();
        let mut tcp = vec![
            SocketAddr::from(([127, 0, 0, 1], ports.outbound)),
            SocketAddr::from(([127, 0, 0, 1], ports.dns)),
            SocketAddr::from(([127, 0, 0, 1], ports.local_api)),
            SocketAddr::from(([0, 0, 0, 0], ports.inbound)),
            SocketAddr::from(([0, 0, 0, 0], ports.status)),
        ];
        let mut udp = vec![SocketAddr::from(([127, 0, 0, 1], ports.dns))];
        if redirect.ipv6() == writ_redirect::Ipv6::On {
            let loopback = IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1]);
            tcp.push((loopback, ports.outbound).into());
            tcp.push((loopback, ports.dns).into());
            udp.push((loopback, ports.dns).into());
            let any = IpAddr::from([0u16; 8]);
            tcp.push((any, ports.inbound).into());
        }
        for address in tcp {
            // Bound before this returns, so that no client comes too early.
            let listener = self.pod.enter(|| {
                become_sidecar();
                listen(address)
            });
            self.pod.spawn(move || {
                become_sidecar();
                let direct = [ports.status, ports.local_api].contains(&address.port());
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let answer = if direct {
                        "own port".to_owned()
                    } else {
                        describe(&stream, ports)
                    };
                    let _ = stream.write_all(format!("{} {answer}", address.port()).as_bytes());
                }
            });
        }
        for address in udp {
            let socket = self.pod.enter(|| {
                become_sidecar();
                UdpSocket::bind(address).unwrap()
            });
            self.pod.spawn(move || {
                become_sidecar();
                let mut buffer = [0; 512];
                while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    let answer = [b"answered ", &buffer[..length]].concat();
                    socket.send_to(&answer, client).unwrap();
                }
            });
        }
    }

    /// A program of the pod's uid 2000 that serves one TCP port on all addresses.
    pub fn start_other_container(&self, port: u16) {
        let listener = self.pod.enter(|| {
            setfsuid(Uid::from_raw(2000));
            listen(SocketAddr::from(([0u16; 8], port)))
        });
        self.pod.spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"other container");
            }
        });
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    // The inbound wildcard of the sidecar stands beside its IPv4 twin; the others' is dual.
    if address.is_ipv6() && address.port() == 15806 {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

fn describe(stream: &TcpStream, ports: writ_redirect::Ports) -> String {
    match original_dst(stream) {
        Ok(asked) if ports.owns(asked.port()) => format!("refused {asked}"),
        Ok(asked) => format!("captured {asked}"),
        Err(error) => format!("refused: {error}"),
    }
}

/// What the server at `target` says to a client of the calling thread.
pub fn greeting(target: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
