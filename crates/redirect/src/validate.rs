//! Proves that the installed rules capture: with real packets where a local process can send them,
//! by reading back where it cannot (a local connection never takes the inbound path).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::apply::{ADDRESSES_V6, kernel_has_ipv6, read, read_back, require_net_admin};
use crate::error::{Family, RedirectError};
use crate::iptables::Backend;
use crate::{Ipv6, Redirect, original_dst, parse_uid_map, rules};

/// How long a probe may take to arrive; over loopback it takes microseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// An arbitrary port of the probes' destination, neither DNS nor one of the sidecar's defaults.
pub(crate) const PROBE_PORT: u16 = 20443;

/// What was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// IPv4.
    pub v4: FamilyProof,
    /// IPv6.
    pub v6: FamilyProof,
}

/// What was proved for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyProof {
    /// TCP and DNS to other hosts and to this pod arrived at the sidecar's ports with the token
    /// and the right original destination, other datagrams were dropped, all rules stand.
    Captured,
    /// As `Captured`, but only towards this pod: there is no route to other hosts.
    CapturedWithoutRoute,
    /// The dropping rules stand, and a datagram was dropped.
    Dropped,
    /// No interface has an address of this family; the rules stand.
    NoAddress,
    /// The kernel does not speak it.
    Absent,
}

/// Proves the rules in the network namespace of the caller, with `token` to tell the probes from
/// anyone else's packets. To run before the sidecar starts, as any other uid than the sidecar's.
///
/// # Errors
/// When a probe went elsewhere, a rule is missing, or the sidecar's ports are taken.
pub fn validate(redirect: &Redirect, token: [u8; 16]) -> Result<Proof, RedirectError> {
    require_net_admin(&read("/proc/self/status")?)?;
    let redirect = mapped(redirect)?;
    let ruleset = rules(&redirect);
    standing(Family::V4, &ruleset.v4)?;
    if kernel_has_ipv6() {
        standing(Family::V6, &ruleset.v6)?;
    }
    observe(&redirect, token)
}

/// As [`validate`], by packets alone: for a process without capabilities, which cannot read rules. It
/// says nothing of the inbound rules, nor of a family without addresses; whoever installed the rules
/// read them all back, see [`crate::announce`].
///
/// # Errors
/// When a probe went elsewhere, or the sidecar's ports are taken.
pub fn observe(redirect: &Redirect, token: [u8; 16]) -> Result<Proof, RedirectError> {
    let uid = nix::unistd::Uid::effective().as_raw();
    if uid == redirect.sidecar_uid() {
        return Err(RedirectError::ValidatorUid(uid));
    }
    let redirect = mapped(redirect)?;
    let v4 = captured(&redirect, Family::V4, token)?;
    let v6 = match (kernel_has_ipv6(), redirect.ipv6()) {
        (false, Ipv6::Off) => FamilyProof::Absent,
        (false, Ipv6::On) => return Err(RedirectError::NoIpv6),
        (true, _) if read(ADDRESSES_V6)?.trim().is_empty() => FamilyProof::NoAddress,
        (true, Ipv6::Off) => {
            dropped(
                Family::V6,
                SocketAddr::new(loopback(Family::V6), PROBE_PORT),
            )?;
            FamilyProof::Dropped
        }
        (true, Ipv6::On) => captured(&redirect, Family::V6, token)?,
    };
    Ok(Proof { v4, v6 })
}

/// `redirect` within the user namespace of the caller.
fn mapped(redirect: &Redirect) -> Result<Redirect, RedirectError> {
    let uids = parse_uid_map(&read("/proc/self/uid_map")?)?;
    redirect.clone().with_uids(uids)
}

/// Some backend holds exactly these rules. If none does, the one that comes closest tells why.
fn standing(family: Family, ruleset: &str) -> Result<(), RedirectError> {
    let mut closest: Option<RedirectError> = None;
    for backend in Backend::candidates(family) {
        let Err(error) = read_back(family, backend, ruleset) else {
            return Ok(());
        };
        if closest
            .as_ref()
            .is_none_or(|known| distance(&error) < distance(known))
        {
            closest = Some(error);
        }
    }
    closest.map_or(Ok(()), Err)
}

/// A program that is missing says less than one that read other rules.
fn distance(error: &RedirectError) -> usize {
    match error {
        RedirectError::Differs { differences, .. } => differences.len(),
        _ => usize::MAX,
    }
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// An address that belongs to nobody (RFC 5737, RFC 3849).
fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn captured(
    redirect: &Redirect,
    family: Family,
    token: [u8; 16],
) -> Result<FamilyProof, RedirectError> {
    let ports = redirect.ports();
    let outbound = TcpProbe::listen(family, ports.outbound)?;
    let dns = TcpProbe::listen(family, ports.dns)?;
    let dns_udp = UdpProbe::listen(family, ports.dns)?;
    let mut reached = FamilyProof::Captured;
    for target in [loopback(family), elsewhere(family)] {
        let to = |port| SocketAddr::new(target, port);
        let probes = [
            outbound.receives(to(PROBE_PORT), token)?,
            dns.receives(to(53), token)?,
            dns_udp.receives(to(53), token)?,
            dropped(family, to(443))?,
        ];
        if probes.contains(&Reached::NoRoute) {
            reached = FamilyProof::CapturedWithoutRoute;
        }
    }
    Ok(reached)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Sidecar,
    NoRoute,
}

/// Without a route the packet never exists, and nothing can leave either.
fn no_route(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL)
    )
}

fn leak(family: Family, what: String) -> RedirectError {
    RedirectError::NotCaptured { family, what }
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// Stands where the sidecar will listen for TCP.
struct TcpProbe {
    family: Family,
    listener: Socket,
}

impl TcpProbe {
    fn listen(family: Family, port: u16) -> Result<Self, RedirectError> {
        let address = SocketAddr::new(loopback(family), port);
        let open = || {
            let listener = Socket::new(domain(family), Type::STREAM, Some(Protocol::TCP))?;
            listener.set_reuse_address(true)?;
            listener.set_read_timeout(Some(DEADLINE))?;
            listener.bind(&address.into())?;
            listener.listen(16)?;
            Ok(listener)
        };
        let listener = open().map_err(|source| RedirectError::Listen {
            what: format!("TCP {address}"),
            source,
        })?;
        Ok(Self { family, listener })
    }

    /// Connects to `target` and expects to arrive here.
    fn receives(&self, target: SocketAddr, token: [u8; 16]) -> Result<Reached, RedirectError> {
        let failed = |what: &str, error: io::Error| {
            leak(self.family, format!("TCP to {target} {what}: {error}"))
        };
        let mut client = Socket::new(domain(self.family), Type::STREAM, Some(Protocol::TCP))
            .map_err(|e| failed("could not be tried", e))?;
        match client.connect_timeout(&target.into(), DEADLINE) {
            Ok(()) => {}
            Err(error) if no_route(&error) && !target.ip().is_loopback() => {
                return Ok(Reached::NoRoute);
            }
            Err(error) => return Err(failed("did not reach the sidecar's port", error)),
        }
        client.write_all(&token).map_err(|e| failed("broke", e))?;
        let give_up = Instant::now() + DEADLINE;
        while Instant::now() < give_up {
            let (mut accepted, _) = self
                .listener
                .accept()
                .map_err(|e| failed("did not arrive at the sidecar's port", e))?;
            accepted
                .set_read_timeout(Some(DEADLINE))
                .map_err(|e| failed("broke", e))?;
            let mut got = [0; 16];
            // Another process of the pod may be captured meanwhile: not ours, next.
            if accepted.read_exact(&mut got).is_err() || got != token {
                continue;
            }
            return match original_dst(&accepted) {
                Ok(asked) if asked == target => Ok(Reached::Sidecar),
                Ok(asked) => Err(leak(
                    self.family,
                    format!("TCP to {target} arrived as one to {asked}"),
                )),
                Err(error) => Err(leak(
                    self.family,
                    format!("TCP to {target} arrived, but {error}"),
                )),
            };
        }
        Err(leak(
            self.family,
            format!("TCP to {target} arrived without the token"),
        ))
    }
}

/// Stands where the sidecar will listen for DNS over UDP.
struct UdpProbe {
    family: Family,
    socket: UdpSocket,
}

impl UdpProbe {
    fn listen(family: Family, port: u16) -> Result<Self, RedirectError> {
        let address = SocketAddr::new(loopback(family), port);
        let open = || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(DEADLINE))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| RedirectError::Listen {
            what: format!("UDP {address}"),
            source,
        })?;
        Ok(Self { family, socket })
    }

    fn receives(&self, target: SocketAddr, token: [u8; 16]) -> Result<Reached, RedirectError> {
        let failed = |what: &str, error: io::Error| {
            leak(self.family, format!("UDP to {target} {what}: {error}"))
        };
        match send(self.family, target, &token) {
            Ok(()) => {}
            Err(error) if no_route(&error) && !target.ip().is_loopback() => {
                return Ok(Reached::NoRoute);
            }
            Err(error) => return Err(failed("did not reach the sidecar's port", error)),
        }
        let give_up = Instant::now() + DEADLINE;
        while Instant::now() < give_up {
            let mut got = [0; 64];
            let (length, _) = self
                .socket
                .recv_from(&mut got)
                .map_err(|e| failed("did not arrive at the sidecar's port", e))?;
            if got.get(..length) == Some(&token[..]) {
                return Ok(Reached::Sidecar);
            }
        }
        Err(leak(
            self.family,
            format!("UDP to {target} arrived without the token"),
        ))
    }
}

fn send(family: Family, target: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))?
        .send_to(payload, target)
        .map(|_| ())
}

/// A datagram that is not DNS must be dropped, which the kernel tells its sender at once.
fn dropped(family: Family, target: SocketAddr) -> Result<Reached, RedirectError> {
    match send(family, target, b"probe") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Reached::Sidecar),
        Err(error) if no_route(&error) && !target.ip().is_loopback() => Ok(Reached::NoRoute),
        Err(error) => Err(leak(
            family,
            format!("UDP to {target} was not dropped: {error}"),
        )),
        Ok(()) => Err(leak(family, format!("UDP to {target} was sent"))),
    }
}
