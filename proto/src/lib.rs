//! Protocols between Writ's own parts, generated from the files in `proto/`. What they mean and
//! what is checked is said in `docs/relay.md`.
#![forbid(unsafe_code)]

/// The relay of chain state, and head witnesses.
pub mod relay {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("writ.relay.v1");
    }
}
