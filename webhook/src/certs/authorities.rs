//! The webhook's own certificate authorities: when one is made, serves, and goes. No I/O.
//!
//! A new authority is made when a third of the old one's life is left, and published beside it at
//! once; it serves only after the overlap, when every API server has seen it, and the old one goes
//! after another overlap, when every replica serves with the new one.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::CertError;

/// Certificates start this much in the past, for clocks that are behind.
const BACKDATE: u64 = 300;
/// Most authorities that are ever side by side.
const MOST: usize = 4;

/// How long things live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A certificate authority.
    pub authority: Duration,
    /// A serving certificate; it is made anew after half of it.
    pub serving: Duration,
    /// How long an authority is published before it serves, and after another took over.
    pub overlap: Duration,
}

impl Lifetimes {
    /// Checks that there is time for a rotation.
    ///
    /// # Errors
    /// Which one to change.
    pub fn new(
        authority: Duration,
        serving: Duration,
        overlap: Duration,
    ) -> Result<Self, CertError> {
        let lifetimes = Self {
            authority,
            serving,
            overlap,
        };
        if overlap.is_zero() || serving.as_secs() < 2 || authority < overlap * 9 {
            return Err(CertError::Lifetimes(lifetimes));
        }
        Ok(lifetimes)
    }
}

/// One authority. `Debug` prints no key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// PEM.
    pub certificate: String,
    /// PKCS #8, PEM.
    key: String,
    /// When it was made, Unix seconds.
    made: u64,
    /// When it ends, Unix seconds.
    expires: u64,
    /// From when it may serve, Unix seconds.
    active_from: u64,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            made,
            expires,
            active_from,
            ..
        } = self;
        write!(f, "Authority({made}..{expires}, from {active_from})")
    }
}

/// A serving certificate with its key, and when to make the next.
#[derive(Debug)]
pub struct Serving {
    /// PEM, the certificate alone.
    pub certificate: String,
    /// The key.
    pub key: KeyPair,
    /// When to make another, Unix seconds.
    pub renew_at: u64,
    /// When it ends, Unix seconds.
    pub expires: u64,
}

impl Authority {
    /// Makes an authority with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn make(now: u64, active_from: u64, lifetimes: &Lifetimes) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("writ-webhook {now}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let expires = now.saturating_add(lifetimes.authority.as_secs());
        params.not_before = at(now.saturating_sub(BACKDATE))?;
        params.not_after = at(expires)?;
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
            made: now,
            expires,
            active_from,
        })
    }

    /// Makes a serving certificate for `names`.
    ///
    /// # Errors
    /// When the stored key cannot be used, or a name is none.
    pub fn serve(
        &self,
        names: &[String],
        now: u64,
        lifetimes: &Lifetimes,
    ) -> Result<Serving, CertError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let life = lifetimes.serving.as_secs();
        let expires = now.saturating_add(life).min(self.expires);
        params.not_before = at(now
            .saturating_sub(BACKDATE)
            .max(self.made.saturating_sub(BACKDATE)))?;
        params.not_after = at(expires)?;
        Ok(Serving {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key,
            renew_at: now.saturating_add(life / 2).min(expires),
            expires,
        })
    }
}

fn at(seconds: u64) -> Result<OffsetDateTime, CertError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(CertError::Clock(seconds))
}

/// Every authority that is in use, or soon will be, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Authorities(Vec<Authority>);

impl Authorities {
    /// What they should be at `now`; the same when nothing is due.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn advanced(&self, now: u64, lifetimes: &Lifetimes) -> Result<Self, CertError> {
        let overlap = lifetimes.overlap.as_secs();
        let taken_over = self
            .0
            .iter()
            .rposition(|a| a.active_from.saturating_add(overlap) <= now)
            .unwrap_or(0);
        let mut kept: Vec<Authority> = self
            .0
            .iter()
            .skip(taken_over)
            .filter(|authority| now < authority.expires)
            .cloned()
            .collect();
        let due = |newest: &Authority| {
            let life = newest.expires.saturating_sub(newest.made);
            now >= newest.made.saturating_add(life / 3 * 2)
        };
        match kept.last() {
            None => kept.push(Authority::make(now, now, lifetimes)?),
            Some(newest) if due(newest) && kept.len() < MOST => {
                kept.push(Authority::make(
                    now,
                    now.saturating_add(overlap),
                    lifetimes,
                )?);
            }
            Some(_) => {}
        }
        Ok(Self(kept))
    }

    /// The one that serves at `now`: the newest whose time has come.
    #[must_use]
    pub fn serving(&self, now: u64) -> Option<&Authority> {
        let come = |authority: &&Authority| authority.active_from <= now;
        self.0.iter().rev().find(come).or(self.0.first())
    }

    /// All certificates, PEM, for the webhook configurations' `caBundle`.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.0.iter().map(|a| a.certificate.as_str()).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn lifetimes() -> Lifetimes {
        let days = |days| Duration::from_secs(days * DAY);
        Lifetimes::new(days(90), days(1), Duration::from_secs(3600)).unwrap()
    }

    #[test]
    fn nothing_changes_while_nothing_is_due() {
        let first = Authorities::default()
            .advanced(1_000, &lifetimes())
            .unwrap();
        assert_eq!(first.len(), 1);
        let later = first.advanced(1_000 + 59 * DAY, &lifetimes()).unwrap();
        assert_eq!(later, first);
    }

    #[test]
    fn the_next_authority_is_published_before_it_serves_and_the_old_one_stays_an_overlap_longer() {
        let start = 1_000;
        let old = Authorities::default()
            .advanced(start, &lifetimes())
            .unwrap();
        let due = start + 60 * DAY;
        let both = old.advanced(due, &lifetimes()).unwrap();
        assert_eq!(both.len(), 2);
        assert!(both.bundle().starts_with(&old.bundle()));
        // Published, but not serving yet.
        assert_eq!(both.serving(due), old.serving(due));
        assert_eq!(both.serving(due + 3599), old.serving(due));
        // Serving, with the old one still published.
        let turn = due + 3600;
        assert_eq!(both.advanced(turn, &lifetimes()).unwrap(), both);
        assert_ne!(both.serving(turn), old.serving(turn));
        // Then the old one goes.
        let end = turn + 3600;
        assert_eq!(both.advanced(end - 1, &lifetimes()).unwrap(), both);
        let new = both.advanced(end, &lifetimes()).unwrap();
        assert_eq!(new.len(), 1);
        assert_eq!(new.serving(end), both.serving(end));
    }

    #[test]
    fn after_a_long_sleep_an_expired_authority_is_replaced_at_once() {
        let old = Authorities::default()
            .advanced(1_000, &lifetimes())
            .unwrap();
        let now = 1_000 + 400 * DAY;
        let new = old.advanced(now, &lifetimes()).unwrap();
        assert_eq!(new.len(), 1);
        assert_ne!(new, old);
        assert!(new.serving(now).is_some_and(|a| a.expires > now));
    }

    #[test]
    fn a_serving_certificate_never_outlives_its_authority() {
        let now = 1_000 + 89 * DAY + DAY / 2;
        let authority = Authority::make(1_000, 1_000, &lifetimes()).unwrap();
        let names = ["writ-webhook.writ-system.svc".to_owned()];
        let serving = authority.serve(&names, now, &lifetimes()).unwrap();
        assert_eq!(serving.expires, 1_000 + 90 * DAY);
    }

    #[test]
    fn lifetimes_without_room_for_a_rotation_are_refused() {
        let seconds = Duration::from_secs;
        assert!(Lifetimes::new(seconds(80), seconds(10), seconds(10)).is_err());
        assert!(Lifetimes::new(seconds(90), seconds(1), seconds(10)).is_err());
        assert!(Lifetimes::new(seconds(90), seconds(10), seconds(0)).is_err());
        assert!(Lifetimes::new(seconds(90), seconds(10), seconds(10)).is_ok());
    }

    #[test]
    fn no_key_is_printed() {
        let authority = Authority::make(1_000, 1_000, &lifetimes()).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
