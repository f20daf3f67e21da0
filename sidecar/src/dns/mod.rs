//! The sidecar's DNS: names that the catalog can lead to, and no others.
//!
//! All DNS of the pod is redirected here ([`Server`]). A name outside the catalog gets NXDOMAIN
//! with an extended error (RFC 8914), so that search lists go on, no query for it leaves the pod,
//! and a tunnel through query names ends here. The sidecar dials what the same [`Resolver`] found.

mod limits;
mod message;
mod refusals;
mod resolver;
mod server;

pub use limits::{Limits, TokenBucket};
pub use message::{
    Answer, Decision, Families, Kind, Outcome, Question, Reason, Refused, Transport, decide,
};
pub use refusals::{RefusalSink, RefusedQuery};
pub use resolver::{Resolver, Settings, nameservers_from_resolv_conf};
pub use server::{NameSet, Server, Stats};

/// Why DNS cannot be served or a name not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No upstream server is known.
    #[error("no name server is configured: set one, or check the pod's /etc/resolv.conf")]
    NoNameServer,
    /// `/etc/resolv.conf` could not be understood.
    #[error("resolv.conf is unreadable: {0}")]
    ResolvConf(String),
    /// A name that is no DNS name.
    #[error("{0:?} is no DNS name: check the catalog's host")]
    BadName(String),
    /// The name does not exist, or has no usable address.
    #[error(
        "{0} has no address that may be dialled: check the name, and that it does not point to loopback or link-local addresses"
    )]
    NoAddress(String),
    /// No upstream server answered.
    #[error(
        "{name} could not be resolved ({reason}): check that the name servers are reachable from the pod"
    )]
    Upstream {
        /// What was asked for.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// A listener could not be opened.
    #[error(
        "DNS cannot listen on {address} ({source}): check that nothing else in the pod uses the port"
    )]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}
