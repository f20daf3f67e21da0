//! Rotation: keeps the authorities, publishes them, and serves with the one whose turn it is.

use std::future::Future;

use rustls::sign::CertifiedKey;

use super::{Authorities, CertError, Lifetimes, certified};

/// Whether another replica was faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is stored.
    Ours,
    /// Another replica stored something since it was loaded; nothing was written.
    Theirs,
}

/// Where the replicas keep their authorities together.
pub trait Store: Send {
    /// What is stored, and its version.
    fn load(&self) -> impl Future<Output = Result<(Authorities, String), CertError>> + Send;

    /// Stores `authorities` unless the stored version is another than `version`.
    fn save(
        &self,
        authorities: &Authorities,
        version: &str,
    ) -> impl Future<Output = Result<Saved, CertError>> + Send;
}

/// Where the API server looks for the authorities that it may trust.
pub trait Publisher: Send {
    /// Makes the API server trust exactly those of `bundle` (PEM).
    fn publish(&self, bundle: &str) -> impl Future<Output = Result<(), CertError>> + Send;
}

/// One replica's part in the rotation.
#[derive(Debug)]
pub struct Rotation<S, P> {
    store: S,
    publisher: P,
    names: Vec<String>,
    lifetimes: Lifetimes,
    served: Option<Served>,
}

#[derive(Debug)]
struct Served {
    authority: String,
    renew_at: u64,
    expires: u64,
}

impl<S: Store, P: Publisher> Rotation<S, P> {
    /// A rotation of certificates for `names`, the Service's DNS names.
    pub fn new(store: S, publisher: P, names: Vec<String>, lifetimes: Lifetimes) -> Self {
        Self {
            store,
            publisher,
            names,
            lifetimes,
            served: None,
        }
    }

    /// When the certificate that is served ends, Unix seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.served.as_ref().map(|served| served.expires)
    }

    /// Does what is due at `now` (Unix seconds); a certificate when another is to be served.
    ///
    /// # Errors
    /// When the store or the API server fails; the certificate that is served goes on.
    pub async fn tick(&mut self, now: u64) -> Result<Option<CertifiedKey>, CertError> {
        let authorities = self.advance(now).await?;
        let published = self.publisher.publish(&authorities.bundle()).await;
        let Some(authority) = authorities.serving(now) else {
            return published.map(|()| None);
        };
        let served = self.served.as_ref();
        let same = served.is_some_and(|served| served.authority == authority.certificate);
        // With an authority that is not published nobody would trust us. At the start there is
        // nothing better to serve with.
        if let (Err(error), Some(_), false) = (&published, served, same) {
            tracing::error!(%error, "the next authority is not published; it does not serve yet");
            return published.map(|()| None);
        }
        if same && served.is_some_and(|served| now < served.renew_at) {
            return published.map(|()| None);
        }
        let serving = authority.serve(&self.names, now, &self.lifetimes)?;
        let key = serving.key.serialize_pem();
        let certified = certified(serving.certificate.as_bytes(), key.as_bytes())?;
        self.served = Some(Served {
            authority: authority.certificate.clone(),
            renew_at: serving.renew_at,
            expires: serving.expires,
        });
        if let Err(error) = published {
            tracing::error!(%error, "the API server does not trust this webhook yet");
        }
        Ok(Some(certified))
    }

    async fn advance(&self, now: u64) -> Result<Authorities, CertError> {
        let (stored, version) = self.store.load().await?;
        let advanced = stored.advanced(now, &self.lifetimes)?;
        if advanced == stored {
            return Ok(stored);
        }
        match self.store.save(&advanced, &version).await? {
            Saved::Ours => Ok(advanced),
            Saved::Theirs => Ok(self.store.load().await?.0),
        }
    }
}
