//! The policy enforcement point (PEP): no valid envelope, no execution.
//!
//! [`Pep::check`] compares one request with its envelope, its sender, the sender's registration
//! in the PEP's own proved chain state and the sender's catalog, in a fixed order, each check with
//! a reason of its own ([`Refusal::code`]), and uses the envelope up as the last step. What passes
//! is an [`Admitted`]. [`PepLayer`] runs it in front of a `tower` service, answers refusals with
//! RFC 9457 problem details, records before it forwards, and signs receipts.
//!
//! Everything that is not in the request comes through a trait: trust bundles
//! ([`writ_sae::ChainVerifier`]), chain state ([`CallerState`]), catalogs ([`Catalogs`]), the
//! replay store ([`writ_sae::ReplayStore`]), the record ([`Recorder`]), the clock ([`Clock`]).
#![forbid(unsafe_code)]

mod answer;
mod catalogs;
mod check;
mod config;
mod layer;
mod paced;
mod receipt_body;
mod receipts;
mod record;
mod refusal;
mod replay;
mod sender;
mod state;

pub use answer::{Answer, Problem, ProblemJson};
pub use catalogs::{CallerCatalog, Catalogs, Classified};
pub use check::{Admitted, Body, Inbound, Pep};
pub use config::{Binding, ConfigError, PepConfig};
pub use layer::{
    BodyError, BoxError, Clock, Connection, LayerConfig, LetThrough, Mode, PepBody, PepLayer,
    PepService,
};
pub use receipts::{ReceiptBook, ReceiptIdentity, ReceiptSource};
pub use record::{Completed, RecordError, Recorder, Refused};
pub use refusal::{Event, Refusal};
pub use replay::{RedbReplayStore, ReplayLimits, ReplayOpenError};
pub use sender::Peer;
pub use state::{ApprovalUse, ApprovalWindow, CallerState, CallerView, StateError};

/// Target of the `tracing` spans of a request's stages, `verify` and `record`; they are of the most
/// verbose level.
pub const TRACE_TARGET: &str = "writ::trace";

/// A boxed future, as the traits of this crate return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
