//! One reader of the chain for a whole cluster, and why nobody has to believe it.
//!
//! ```text
//! endpoints ─▶ witnesses ─ signed heads ─▶ relay ─ heads, proofs, code, notices ─▶ sidecars
//! endpoints ───────────── proofs, code ──▶   ▲                                        │
//!     ▲                                      └── warm sets, acknowledgements ─────────┘
//!     └────────────────────── while there is no relay ────────────────────────────────┘
//! ```
//!
//! A sidecar ([`RelayClient`]) takes a head when enough configured [`Witnesses`] signed it a moment ago; everything else
//! is proved against that head by the state feed of `writ-chain`, as if an endpoint had served it. Revocation notices
//! ([`Holds`]) only ever take rights away, for a bounded time. The protocol is in `proto/`, described in `docs/relay.md`.
#![forbid(unsafe_code)]

mod client;
mod error;
mod holds;
pub mod limits;
mod seen;
mod server;
mod settle;
mod statement;
mod tls;
mod wire;
mod witness;

pub use client::{ClientMetrics, ClientSettings, Enforcement, RelayClient};
pub use error::RelayError;
pub use holds::{Holds, Notice, Taken};
pub use seen::{Report, SeenAction, SeenAmount, Unkept};
pub use server::{ChainSettings, Enforced, RelayMetrics, RelayServer, ServerSettings, WitnessAt};
pub use settle::settle;
pub use statement::{
    BadSignature, Certificates, Signature, Unwitnessed, Witnesses, sign, statement,
};
pub use witness::{Witness, WitnessSettings};

/// Longest excerpt of the other side's own words that is kept.
const MAX_EXCERPT: usize = 160;

/// Printable and short.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_EXCERPT)
        .collect()
}
