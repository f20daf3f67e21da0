//! The rules, as the input of `iptables-restore --noflush`.
//!
//! Each rule stands in the form in which `iptables-save` prints it, so that reading back is a
//! comparison of lines. The own chains come first in every built-in chain.

use std::fmt::Write;

use crate::error::Family;
use crate::{Ipv6, Redirect};

/// What every own chain's name starts with.
pub(crate) const PREFIX: &str = "WRIT_";

/// The input of `iptables-restore --noflush` (`v4`) and of `ip6tables-restore --noflush` (`v6`).
///
/// `--noflush` keeps other software's rules; a chain that is named in the input is emptied in the
/// same transaction that fills it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// For `iptables-restore`.
    pub v4: String,
    /// For `ip6tables-restore`.
    pub v6: String,
}

/// The rules that capture the pod's traffic as `redirect` says.
#[must_use]
pub fn rules(redirect: &Redirect) -> Ruleset {
    Ruleset {
        v4: captured(redirect, Family::V4),
        v6: match redirect.ipv6() {
            Ipv6::On => captured(redirect, Family::V6),
            Ipv6::Off => DROP_ALL.to_owned(),
        },
    }
}

/// No nat table: it may be the one that the kernel lacks.
const DROP_ALL: &str = "\
*mangle
:WRIT_PREROUTING - [0:0]
:WRIT_OUTPUT - [0:0]
-I PREROUTING 1 -j WRIT_PREROUTING
-I OUTPUT 1 -j WRIT_OUTPUT
-A WRIT_PREROUTING -j DROP
-A WRIT_OUTPUT -j DROP
COMMIT
";

fn captured(redirect: &Redirect, family: Family) -> String {
    let mut out = String::with_capacity(2048);
    // Drops stand before redirection does, so that there is no moment with only the latter.
    table(
        &mut out,
        "mangle",
        &["PREROUTING", "OUTPUT", "POSTROUTING"],
        &mangle(redirect, family),
    );
    table(&mut out, "nat", &["PREROUTING", "OUTPUT"], &nat(redirect));
    out
}

fn table(out: &mut String, name: &str, hooks: &[&str], lines: &[String]) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "*{name}");
    for hook in hooks {
        let _ = writeln!(out, ":{PREFIX}{hook} - [0:0]");
    }
    for hook in hooks {
        let _ = writeln!(out, "-I {hook} 1 -j {PREFIX}{hook}");
    }
    for line in lines {
        let _ = writeln!(out, "-A {PREFIX}{line}");
    }
    out.push_str("COMMIT\n");
}

fn mangle(redirect: &Redirect, family: Family) -> Vec<String> {
    let uid = redirect.sidecar_uid();
    let mut lines = vec![
        "PREROUTING -i lo -j RETURN".to_owned(),
        "PREROUTING -p tcp -j RETURN".to_owned(),
        "PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned(),
    ];
    // Neighbour discovery (RFC 4861): advertisement of a router, solicitation, advertisement.
    neighbour_discovery(&mut lines, family, "PREROUTING", &[134, 135, 136]);
    lines.push("PREROUTING -j DROP".to_owned());

    lines.push(format!("OUTPUT -m owner --uid-owner {uid} -j RETURN"));
    // The tracker has no entry for these, so nat would not see them.
    lines.push("OUTPUT -m conntrack --ctstate INVALID -j DROP".to_owned());
    lines.push("OUTPUT -p tcp -j RETURN".to_owned());
    // Redirected DNS; still with its first destination here, nat comes later.
    lines.push("OUTPUT -p udp -m udp --dport 53 -j RETURN".to_owned());
    neighbour_discovery(&mut lines, family, "OUTPUT", &[133, 135, 136]);
    lines.push("OUTPUT -j DROP".to_owned());

    // What is redirected leaves by lo. Anything else of a foreign socket would be a packet that
    // nat did not see: an old flow, or a tuple that the sidecar used a moment ago. Ranges instead
    // of `! --uid-owner`, since that also matches packets which the kernel sends for the sidecar
    // after it has closed its socket.
    lines.push("POSTROUTING -o lo -j RETURN".to_owned());
    for others in redirect.other_uids() {
        let range = if others.first == others.last {
            others.first.to_string()
        } else {
            format!("{}-{}", others.first, others.last)
        };
        lines.push(format!("POSTROUTING -m owner --uid-owner {range} -j DROP"));
    }
    lines
}

fn neighbour_discovery(lines: &mut Vec<String>, family: Family, hook: &str, types: &[u8]) {
    if family == Family::V6 {
        lines.extend(
            types
                .iter()
                .map(|t| format!("{hook} -p ipv6-icmp -m icmp6 --icmpv6-type {t} -j RETURN")),
        );
    }
}

fn nat(redirect: &Redirect) -> Vec<String> {
    let ports = redirect.ports();
    let mut lines = vec![
        "PREROUTING -i lo -j RETURN".to_owned(),
        format!(
            "PREROUTING -p tcp -m tcp --dport {} -j RETURN",
            ports.status
        ),
        format!("PREROUTING -p tcp -j REDIRECT --to-ports {}", ports.inbound),
        format!(
            "OUTPUT -m owner --uid-owner {} -j RETURN",
            redirect.sidecar_uid()
        ),
        format!(
            "OUTPUT -o lo -p tcp -m tcp --dport {} -j RETURN",
            ports.local_api
        ),
        format!(
            "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports {}",
            ports.dns
        ),
        format!(
            "OUTPUT -p tcp -m tcp --dport 53 -j REDIRECT --to-ports {}",
            ports.dns
        ),
    ];
    lines.extend(
        redirect
            .local_ports()
            .map(|port| format!("OUTPUT -o lo -p tcp -m tcp --dport {port} -j RETURN")),
    );
    lines.push(format!(
        "OUTPUT -p tcp -j REDIRECT --to-ports {}",
        ports.outbound
    ));
    lines
}
