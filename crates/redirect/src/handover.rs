//! The word of whoever installs the rules from outside the pod, to the container that waits for it.
//!
//! The rules cannot be read without capabilities, and packets do not show all of them. So the one who
//! installed them and read them back says so, by a connection that the rules themselves carry to where
//! the waiting container listens. It need not be authenticated: until that container ends, nothing else
//! runs in the pod's network namespace, and its listener is on loopback.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::RedirectError;
use crate::validate::PROBE_PORT;
use crate::{Ipv6, Redirect, original_dst};

/// How long one connection may take, and how long the listener looks before it looks at the clock.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest word: 64 local ports need less than half.
const MAX_WORD: u64 = 1024;
const HEARD: &[u8] = b"heard\n";

/// Where the word goes to. Only with the rules in place it arrives at the sidecar's port.
fn destination() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PROBE_PORT).into()
}

/// What was installed, on one line.
fn word(redirect: &Redirect) -> String {
    let ports = redirect.ports();
    let local: Vec<String> = redirect
        .local_ports()
        .map(|port| port.to_string())
        .collect();
    format!(
        "writ-redirect/1 uid={} outbound={} inbound={} status={} api={} dns={} local={} ipv6={}\n",
        redirect.sidecar_uid(),
        ports.outbound,
        ports.inbound,
        ports.status,
        ports.local_api,
        ports.dns,
        local.join(","),
        match redirect.ipv6() {
            Ipv6::On => "on",
            Ipv6::Off => "off",
        }
    )
}

/// Tells the container that waits in the network namespace of the caller that the rules of `redirect`
/// are installed there, and returns when it has heard. Only to be called after [`crate::apply`].
///
/// # Errors
/// When nobody waits, or for other rules.
pub fn announce(redirect: &Redirect) -> Result<(), RedirectError> {
    let tell = || {
        let mut stream = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        stream.connect_timeout(&SockAddr::from(destination()), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(word(redirect).as_bytes())?;
        let mut heard = [0; HEARD.len()];
        stream.read_exact(&mut heard)?;
        if heard == HEARD {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "another program answers on the sidecar's port",
            ))
        }
    };
    tell().map_err(RedirectError::NobodyWaits)
}

/// Waits until the rules of `redirect` are [`announce`]d in the network namespace of the caller.
///
/// # Errors
/// When that does not come within `patience`, or the sidecar's port is taken.
pub fn await_announcement(redirect: &Redirect, patience: Duration) -> Result<(), RedirectError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, redirect.ports().outbound));
    let open = || {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(16)?;
        Ok(listener)
    };
    let failed = |source| RedirectError::Listen {
        what: format!("TCP {address}"),
        source,
    };
    let listener = open().map_err(failed)?;
    let (started, expected) = (Instant::now(), word(redirect));
    let mut told = String::new();
    loop {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(RedirectError::NotAnnounced {
                waited: patience,
                told,
            });
        }
        listener
            .set_read_timeout(Some(left.min(PATIENCE)))
            .map_err(failed)?;
        match listener.accept() {
            Ok((stream, _)) => match hear(stream, &expected) {
                Ok(()) => return Ok(()),
                Err(error) => told = format!(" (a connection came: {error})"),
            },
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Nothing came, or it went again.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        WouldBlock | TimedOut | Interrupted | ConnectionAborted
    )
}

fn hear(mut stream: Socket, expected: &str) -> io::Result<()> {
    let unexpected = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = original_dst(&stream).map_err(|error| unexpected(error.to_string()))?;
    if asked != destination() {
        return Err(unexpected(format!("it was to {asked}")));
    }
    let given_up = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"\n") && (said.len() as u64) < MAX_WORD && Instant::now() < given_up {
        if stream.read(&mut byte)? == 0 {
            break;
        }
        said.extend(byte);
    }
    if said != expected.as_bytes() {
        let said = String::from_utf8_lossy(&said);
        return Err(unexpected(format!("it said {:?}", said.trim_end())));
    }
    stream.write_all(HEARD)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Ports;

    #[test]
    fn every_parameter_of_the_rules_is_in_the_word() {
        let base = Redirect::new(40_000).unwrap();
        let ports = |dns| Ports {
            dns,
            ..Ports::default()
        };
        let others = [
            Redirect::new(40_001).unwrap(),
            base.clone().with_ports(ports(15999)).unwrap(),
            base.clone().with_local_ports([6379]).unwrap(),
            base.clone().with_local_ports([6379, 9090]).unwrap(),
            base.clone().with_ipv6(Ipv6::Off),
        ];
        let words: std::collections::BTreeSet<String> =
            others.iter().chain([&base]).map(word).collect();
        assert_eq!(words.len(), others.len() + 1);
        let most = base.with_local_ports(50_000..50_064).unwrap();
        assert!((word(&most).len() as u64) < MAX_WORD);
    }

    #[test]
    fn a_connection_that_the_rules_did_not_carry_is_no_announcement() {
        // Not redirected, so it has no original destination of its own.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outbound = free.local_addr().unwrap().port();
        drop(free);
        let ports = Ports {
            outbound,
            ..Ports::default()
        };
        let redirect = Redirect::new(40_000).unwrap().with_ports(ports).unwrap();
        let text = word(&redirect);
        let liar = std::thread::spawn(move || {
            let give_up = Instant::now() + Duration::from_secs(3);
            loop {
                match std::net::TcpStream::connect(("127.0.0.1", outbound)) {
                    Ok(mut stream) => {
                        let _ = stream.write_all(text.as_bytes());
                        let mut answer = String::new();
                        let _ = stream.read_to_string(&mut answer);
                        return answer;
                    }
                    // It does not listen yet.
                    Err(_) if Instant::now() < give_up => std::thread::yield_now(),
                    Err(error) => return error.to_string(),
                }
            }
        });
        let refused = await_announcement(&redirect, Duration::from_secs(3)).unwrap_err();
        assert!(matches!(refused, RedirectError::NotAnnounced { .. }));
        assert!(
            refused.to_string().contains("a connection came"),
            "{refused}"
        );
        assert_eq!(liar.join().unwrap(), "");
    }
}
