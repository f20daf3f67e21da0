//! What leaves the pod: captured, understood, decided, recorded, signed, sent.

mod authority;
mod connection;
mod http;
mod message;
pub(crate) mod opaque;
mod understand;

pub use connection::{Live, Outbound};
