//! What can go wrong, each with the setting that mends it.

use std::fmt;
use std::io;

/// An address family; each has its own rules and its own tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, `iptables`.
    V4,
    /// IPv6, `ip6tables`.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why the redirection could not be configured, installed or proved.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The sidecar's uid cannot tell it from the agent.
    #[error(
        "uid {0} cannot be the sidecar's: choose one from 1 to 4294967294 that no other container uses"
    )]
    SidecarUid(u32),
    /// Two listeners share a port, or a port is 0.
    #[error("port {port} cannot be the {what} port: ports must be distinct, not 0 and not 53")]
    Port {
        /// The port that was refused.
        port: u16,
        /// The listener or list that asked for it.
        what: &'static str,
    },
    /// More pod-local ports than the rules should carry.
    #[error(
        "{0} pod-local ports are declared, at most 64 are possible: let the programs share ports, or go through the catalog"
    )]
    TooManyLocalPorts(usize),
    /// The uid map of the namespace could not be understood.
    #[error("the uid map of this user namespace is unreadable ({0}): check that /proc is mounted")]
    UidMap(String),
    /// Owner matching needs the uid mapped.
    #[error(
        "uid {0} is not mapped in this user namespace, so no rule can name it: draw the sidecar's uid from /proc/self/uid_map"
    )]
    UidNotMapped(u32),
    /// The capability for changing the rules is missing.
    #[error(
        "CAP_NET_ADMIN is missing: add NET_ADMIN to securityContext.capabilities of the redirect init container, and of no other"
    )]
    NotNetAdmin,
    /// No iptables program was found.
    #[error(
        "no iptables program for {family} was found (tried {tried}): use an init image that contains iptables 1.8 or newer"
    )]
    NoProgram {
        /// The family whose tools are missing.
        family: Family,
        /// The names that were tried.
        tried: String,
    },
    /// Neither nft nor legacy accepts a real rule.
    #[error("no iptables backend for {family} accepts the rules; {hint}. Tried: {tried}")]
    NoBackend {
        /// The family that cannot be captured.
        family: Family,
        /// What to change.
        hint: &'static str,
        /// Each backend with its own message.
        tried: String,
    },
    /// `iptables-restore` refused the rules.
    #[error("{program} refused the {family} rules; {hint}: {message}")]
    Restore {
        /// The program that refused.
        program: &'static str,
        /// The family of the rules.
        family: Family,
        /// What to change.
        hint: &'static str,
        /// The program's own words.
        message: String,
    },
    /// The kernel has no IPv6 although it was asked for.
    #[error("this kernel has no IPv6: set IPv6 to off, or boot the node without ipv6.disable=1")]
    NoIpv6,
    /// Entries of the connection tracker could not be removed.
    #[error(
        "the connection tracker could not be flushed ({0}), so flows older than the rules would escape them: load nf_conntrack_netlink on the node"
    )]
    Conntrack(io::Error),
    /// The validator runs as the sidecar.
    #[error(
        "the validator runs as the sidecar's uid {0}, which is not captured: run it as another uid"
    )]
    ValidatorUid(u32),
    /// A port of the sidecar is taken while it should be free.
    #[error(
        "{what} cannot be listened on ({source}): validate before the sidecar starts, in a pod where nothing else uses the port"
    )]
    Listen {
        /// Address and port.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A probe went where the rules should not have let it.
    #[error(
        "{family} traffic is not captured: {what}. Apply the rules again and look for other software that changes iptables in this pod"
    )]
    NotCaptured {
        /// The family that leaks.
        family: Family,
        /// What was tried and what happened.
        what: String,
    },
    /// Nobody said that the rules are installed.
    #[error(
        "nobody installed the redirection within {waited:?}{told}: check that a writ-node pod runs on this node, and look at this pod's events for why it refused"
    )]
    NotAnnounced {
        /// How long this process waited.
        waited: std::time::Duration,
        /// What was said instead, if anything.
        told: String,
    },
    /// No container of the pod waits for the rules.
    #[error("the pod's init container does not wait for the redirection: {0}")]
    NobodyWaits(io::Error),
    /// The rules read back differ from those expected.
    #[error("the {family} rules differ from those expected: {}. Apply the rules again and look for other software that changes iptables in this pod", .differences.join("; "))]
    Differs {
        /// The family that differs.
        family: Family,
        /// One sentence each.
        differences: Vec<String>,
    },
    /// A program or file could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}
