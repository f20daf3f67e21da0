//! What leaves the pod: captured, understood, decided, recorded, signed, sent.

mod authority;
mod connection;
mod http;
mod opaque;

pub use connection::{Live, Outbound};
