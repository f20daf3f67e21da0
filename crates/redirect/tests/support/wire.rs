//! Every frame that leaves the pod.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::libc::ETH_P_ALL;
use socket2::{Domain, Protocol, Socket, Type};

use super::{PATIENCE, PEER_V4, Pod, become_sidecar};

pub const POD_MAC: &str = "02:00:00:00:00:02";
const POD_MAC_BYTES: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Sees the peer's end of the cable from the moment it is made.
pub struct Wire<'a> {
    pod: &'a Pod,
    socket: Socket,
}

impl<'a> Wire<'a> {
    pub fn watch(pod: &'a Pod) -> Self {
        let protocol = Protocol::from(i32::from((ETH_P_ALL as u16).to_be()));
        let socket = pod
            .peer
            .enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { pod, socket }
    }

    /// What the pod has sent so far, but for neighbour discovery (ARP, NDP, MLD). The sidecar
    /// sends a marker; what was sent before it, arrived before it.
    pub fn sent(mut self) -> Vec<String> {
        const MARKER: &[u8] = b"writ-end-of-test";
        self.pod.pod.enter(|| {
            become_sidecar();
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(MARKER, (PEER_V4, 9))
                .unwrap();
        });
        let mut seen = Vec::new();
        let mut frame = [0; 2048];
        loop {
            let length = self
                .socket
                .read(&mut frame)
                .expect("the sidecar's marker arrives");
            let frame = &frame[..length];
            if frame.len() < 34 || frame[6..12] != POD_MAC_BYTES {
                continue;
            }
            if frame.ends_with(MARKER) {
                return seen;
            }
            seen.extend(packet(
                u16::from_be_bytes([frame[12], frame[13]]),
                &frame[14..],
            ));
        }
    }
}

fn packet(ethertype: u16, packet: &[u8]) -> Option<String> {
    match ethertype {
        0x0800 => {
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap());
            Some(format!("IPv4 protocol {} to {to}", packet[9]))
        }
        0x86dd => {
            let to = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap());
            let discovery = packet[6] == 58 && (133..=136).contains(&packet[40]);
            // MLD reports carry a hop-by-hop option.
            let membership = packet[6] == 0 && packet[40] == 58;
            (!discovery && !membership).then(|| format!("IPv6 protocol {} to {to}", packet[6]))
        }
        _ => None,
    }
}
