//! The chain, seen by Writ: contract bindings, head agreement, proved state, deployment and governance transactions.

#![forbid(unsafe_code)]

pub mod bindings;
pub mod clock;
mod config;
pub mod deploy;
#[cfg(feature = "devnode")]
pub mod devnode;
mod error;
mod feed;
mod head;
mod metrics;
mod prover;
mod reader;
mod relay;
mod roots;
mod rpc;
pub mod tx;
mod warm;

pub use clock::{Clock, SystemClock, TestClock};
pub use config::{ChainConfig, HeadTag, MAX_ENDPOINTS};
pub use error::ChainError;
pub use feed::{Age, ChainEvent, HeadState, StateFeed};
pub use head::HeadRefusal;
pub use metrics::{EndpointMetrics, FeedMetrics};
pub use reader::Reader;
pub use relay::Relay;
pub use rpc::{AccountClaims, EndpointError, EndpointErrorKind};
pub use warm::WarmSet;
