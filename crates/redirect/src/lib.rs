//! Captures all traffic of a pod into its sidecar, and proves that it does.
//!
//! [`rules`] is pure: a [`Redirect`] in, the input of `iptables-restore` for both families out.
//! [`apply`] installs them in the network namespace of the caller, [`validate`] proves that they
//! hold, and [`original_dst`] tells a listener where a captured connection was going. Where the pod
//! itself may not install rules, somebody else of the node does, and [`announce`]s it to a container
//! that [`await_announcement`]s and then [`observe`]s.
//!
//! What the rules promise, for every process of the pod whose uid is not the sidecar's:
//! - a TCP connection ends at the sidecar's outbound listener, whatever its destination, the
//!   pod's own addresses and loopback included, unless its port is a declared pod-local port;
//! - a DNS query (UDP or TCP 53) ends at the sidecar's DNS listener;
//! - any other packet is dropped;
//! - no packet of its sockets leaves the pod by an interface other than loopback, whatever the
//!   connection tracker believes about it.
//!
//! `AF_PACKET` sockets do not pass through iptables at all: what keeps an agent from them is that
//! its container has no `NET_RAW`.
#![forbid(unsafe_code)]

mod apply;
mod config;
mod conntrack;
mod error;
mod handover;
mod iptables;
mod original_dst;
mod readback;
mod rules;
mod validate;
pub mod variables;

pub use apply::{Applied, FamilyState, apply};
pub use config::{Ipv6, Ports, Redirect, UidRange, parse_uid_map};
pub use error::{Family, RedirectError};
pub use handover::{announce, await_announcement};
pub use original_dst::{OriginalDstError, original_dst};
pub use readback::{differences, replacing};
pub use rules::{Ruleset, rules};
pub use validate::{FamilyProof, Proof, observe, validate};
