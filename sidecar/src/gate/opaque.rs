//! A connection that passes unread: decided on its server name, recorded, never stamped.

use std::sync::Arc;

use writ_canonical::BodyBinding;
use writ_catalog::Catalog;
use writ_ledger::OutcomeResult;

use super::claims::{Asked, Stamping};
use super::{Denied, Gate, Granted, Released, Sent};

/// An opaque connection whose allow is durable.
pub struct Tunnel(Released);

impl Gate {
    /// Decides on an opaque connection to `name`.
    ///
    /// # Errors
    /// [`Denied`], recorded.
    pub async fn decide_opaque(
        self: &Arc<Self>,
        catalog: &Catalog,
        name: &str,
        port: u16,
    ) -> Result<(Granted, u16), Denied> {
        let target = format!("tls://{name}:{port}");
        let Some(destination) = catalog.destination(name, port) else {
            let why = "the catalog names no such destination";
            return Err(self.refuse(&target, "unlisted-destination", why, 403).await);
        };
        let intent = match catalog.classify_opaque(destination, name) {
            Ok(intent) => intent,
            Err(refusal) => {
                return Err(self
                    .refuse(&target, refusal.code(), refusal.to_string(), 403)
                    .await);
            }
        };
        let asked = Asked {
            intent,
            target,
            audience: destination.audience.clone(),
            stamping: Stamping::Withhold,
            http: None,
            idempotency: None,
            approval: None,
        };
        let granted = self
            .decide(asked, BodyBinding::Unbound, catalog.hash())
            .await?;
        Ok((granted, destination.upstream.port))
    }
}

impl Granted {
    /// Makes the allow of an opaque connection durable.
    ///
    /// # Errors
    /// [`Denied`] when it cannot be recorded.
    pub async fn open_tunnel(self) -> Result<Tunnel, Denied> {
        self.issue(None).await.map(Tunnel)
    }
}

impl Tunnel {
    /// One that goes on although it was denied.
    pub fn of(released: Released) -> Self {
        Self(released)
    }

    /// Records how the connection ended.
    pub fn closed(self, ended: std::io::Result<()>) {
        let sent = match ended {
            Ok(()) => Sent {
                result: OutcomeResult::Completed,
                status: None,
                response: None,
                receipt: None,
                error: None,
            },
            Err(error) => Sent::failed(OutcomeResult::Failed, &error.to_string()),
        };
        self.0.close(sent, None);
    }
}
