//! What is to be captured: validated once, so that the rules need no checks.

use std::collections::BTreeSet;

use crate::RedirectError;

/// Most pod-local ports one pod may declare.
const MAX_LOCAL_PORTS: usize = 64;
/// Most extents of a uid map; each costs two rules.
const MAX_UID_RANGES: usize = 16;
const DNS: u16 = 53;

/// The sidecar's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Captured outbound TCP, loopback only.
    pub outbound: u16,
    /// Captured inbound TCP, all addresses.
    pub inbound: u16,
    /// Health, readiness, metrics and rewritten probes, reachable from outside.
    pub status: u16,
    /// The local API, loopback only.
    pub local_api: u16,
    /// DNS over UDP and TCP, loopback only.
    pub dns: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: 15801,
            inbound: 15806,
            status: 15820,
            local_api: 15821,
            dns: 15853,
        }
    }
}

impl Ports {
    /// Whether one of the sidecar's own listeners has this port. A captured connection to such a
    /// port is refused.
    #[must_use]
    pub fn owns(&self, port: u16) -> bool {
        self.named().iter().any(|(_, own)| *own == port)
    }

    fn named(&self) -> [(&'static str, u16); 5] {
        [
            ("outbound", self.outbound),
            ("inbound", self.inbound),
            ("status", self.status),
            ("local API", self.local_api),
            ("DNS", self.dns),
        ]
    }
}

/// Whether the pod uses IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// Captured like IPv4.
    #[default]
    On,
    /// Every IPv6 packet is dropped, the sidecar's included.
    Off,
}

impl Ipv6 {
    /// `on` or `off`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// User ids `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    /// The lowest uid.
    pub first: u32,
    /// The highest uid.
    pub last: u32,
}

/// What to capture, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    sidecar_uid: u32,
    ports: Ports,
    local_ports: BTreeSet<u16>,
    ipv6: Ipv6,
    uids: Vec<UidRange>,
}

impl Redirect {
    /// Captures everything that does not belong to `sidecar_uid`, with the default ports, no
    /// pod-local ports and IPv6 on.
    ///
    /// # Errors
    /// When the uid is root or no uid at all.
    pub fn new(sidecar_uid: u32) -> Result<Self, RedirectError> {
        if sidecar_uid == 0 || sidecar_uid == u32::MAX {
            return Err(RedirectError::SidecarUid(sidecar_uid));
        }
        Ok(Self {
            sidecar_uid,
            ports: Ports::default(),
            local_ports: BTreeSet::new(),
            ipv6: Ipv6::On,
            uids: vec![UidRange {
                first: 0,
                last: u32::MAX - 1,
            }],
        })
    }

    /// Other ports for the sidecar.
    ///
    /// # Errors
    /// When a port is 0, 53, used twice, or declared as pod-local.
    pub fn with_ports(mut self, ports: Ports) -> Result<Self, RedirectError> {
        let mut seen = BTreeSet::new();
        for (what, port) in ports.named() {
            if port == 0 || port == DNS || !seen.insert(port) || self.local_ports.contains(&port) {
                return Err(RedirectError::Port { port, what });
            }
        }
        self.ports = ports;
        Ok(self)
    }

    /// TCP ports inside the pod that its containers may use among themselves.
    ///
    /// # Errors
    /// When a port is 0, 53 or the sidecar's, or when there are more than 64.
    pub fn with_local_ports(
        mut self,
        local: impl IntoIterator<Item = u16>,
    ) -> Result<Self, RedirectError> {
        let local: BTreeSet<u16> = local.into_iter().collect();
        if local.len() > MAX_LOCAL_PORTS {
            return Err(RedirectError::TooManyLocalPorts(local.len()));
        }
        if let Some(&port) = local
            .iter()
            .find(|&&p| p == 0 || p == DNS || self.ports.owns(p))
        {
            return Err(RedirectError::Port {
                port,
                what: "pod-local",
            });
        }
        self.local_ports = local;
        Ok(self)
    }

    /// Whether IPv6 is captured or dropped.
    #[must_use]
    pub fn with_ipv6(mut self, ipv6: Ipv6) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// The uids that exist in the pod's user namespace; the default is all of them. A rule can
    /// only name a uid that is mapped.
    ///
    /// # Errors
    /// When the sidecar's uid is not among them, or the ranges are empty or too many.
    pub fn with_uids(mut self, uids: Vec<UidRange>) -> Result<Self, RedirectError> {
        if uids.is_empty() || uids.len() > MAX_UID_RANGES || uids.iter().any(|r| r.first > r.last) {
            return Err(RedirectError::UidMap(format!(
                "{} ranges, expected 1 to {MAX_UID_RANGES}",
                uids.len()
            )));
        }
        if !uids
            .iter()
            .any(|r| (r.first..=r.last).contains(&self.sidecar_uid))
        {
            return Err(RedirectError::UidNotMapped(self.sidecar_uid));
        }
        self.uids = uids;
        Ok(self)
    }

    /// The uid that is not captured.
    #[must_use]
    pub fn sidecar_uid(&self) -> u32 {
        self.sidecar_uid
    }

    /// The sidecar's ports.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The declared pod-local TCP ports, ascending.
    pub fn local_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.local_ports.iter().copied()
    }

    /// Whether IPv6 is captured or dropped.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6 {
        self.ipv6
    }

    /// Every mapped uid but the sidecar's, as few ranges as possible.
    #[must_use]
    pub fn other_uids(&self) -> Vec<UidRange> {
        let mut others = Vec::new();
        for range in &self.uids {
            if !(range.first..=range.last).contains(&self.sidecar_uid) {
                others.push(*range);
                continue;
            }
            if range.first < self.sidecar_uid {
                others.push(UidRange {
                    first: range.first,
                    last: self.sidecar_uid - 1,
                });
            }
            if self.sidecar_uid < range.last {
                others.push(UidRange {
                    first: self.sidecar_uid + 1,
                    last: range.last,
                });
            }
        }
        others
    }
}

/// The uids mapped in a user namespace, from the text of `/proc/self/uid_map`
/// (user_namespaces(7): inside, outside, length).
///
/// # Errors
/// When a line is not three numbers, or a range is empty or runs past the last uid.
pub fn parse_uid_map(text: &str) -> Result<Vec<UidRange>, RedirectError> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(parse_extent)
        .collect()
}

fn parse_extent(line: &str) -> Result<UidRange, RedirectError> {
    let bad = || RedirectError::UidMap(line.trim().to_owned());
    let mut fields = line.split_whitespace().map(str::parse::<u32>);
    let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count)), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(bad());
    };
    // 4294967295 is the invalid uid, never a member of a range.
    let last = count
        .checked_sub(1)
        .and_then(|more| first.checked_add(more))
        .ok_or_else(bad)?;
    Ok(UidRange {
        first,
        last: last.min(u32::MAX - 1),
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn root_and_the_invalid_uid_cannot_be_the_sidecar() {
        for uid in [0, u32::MAX] {
            assert!(matches!(Redirect::new(uid), Err(RedirectError::SidecarUid(u)) if u == uid));
        }
    }

    #[test]
    fn a_port_used_twice_is_refused() {
        let ports = Ports {
            inbound: 15801,
            ..Ports::default()
        };
        let refused = Redirect::new(7).unwrap().with_ports(ports);
        assert!(matches!(
            refused,
            Err(RedirectError::Port {
                port: 15801,
                what: "inbound"
            })
        ));
    }

    #[test]
    fn a_pod_local_port_that_would_bypass_dns_or_the_sidecar_is_refused() {
        for port in [0, 53, 15801, 15806, 15820, 15821, 15853] {
            let refused = Redirect::new(7).unwrap().with_local_ports([port]);
            assert!(matches!(refused, Err(RedirectError::Port { port: p, .. }) if p == port));
        }
        let moved = Redirect::new(7).unwrap().with_local_ports([9000]).unwrap();
        assert!(
            moved
                .with_ports(Ports {
                    dns: 9000,
                    ..Ports::default()
                })
                .is_err()
        );
    }

    #[test]
    fn more_than_sixty_four_pod_local_ports_are_refused() {
        let refused = Redirect::new(7).unwrap().with_local_ports(1000..1065);
        assert!(matches!(refused, Err(RedirectError::TooManyLocalPorts(65))));
    }

    #[test]
    fn a_sidecar_uid_outside_the_user_namespace_is_refused() {
        let map = parse_uid_map("         0     100000      65536\n").unwrap();
        let refused = Redirect::new(70_000).unwrap().with_uids(map);
        assert!(matches!(refused, Err(RedirectError::UidNotMapped(70_000))));
    }

    #[test]
    fn the_whole_uid_map_of_a_host_is_read() {
        let map = parse_uid_map("         0          0 4294967295\n").unwrap();
        assert_eq!(
            map,
            [UidRange {
                first: 0,
                last: 4_294_967_294
            }]
        );
    }

    #[test]
    fn a_malformed_uid_map_is_refused() {
        for text in [
            "0 0",
            "0 0 0",
            "a b c",
            "1 1 1 1",
            "4294967295 0 2",
            "-1 0 1",
        ] {
            assert!(parse_uid_map(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_other_uids_are_all_mapped_uids_but_the_sidecars(uid in 1u32..2000, first in 0u32..1000, len in 1u32..1500, probe in 0u32..3000) {
            let mapped = UidRange { first, last: first + len };
            let redirect = Redirect::new(uid).unwrap().with_uids(vec![mapped]);
            prop_assume!(redirect.is_ok());
            let others = redirect.unwrap().other_uids();
            let expected = probe != uid && (mapped.first..=mapped.last).contains(&probe);
            prop_assert_eq!(others.iter().any(|r| (r.first..=r.last).contains(&probe)), expected);
        }

        #[test]
        fn no_uid_map_panics(text in ".{0,200}") {
            let _ = parse_uid_map(&text);
        }
    }
}
