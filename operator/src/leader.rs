//! One operator acts at a time: the holder of a Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ObjectMeta, PostParams};

use crate::OperatorError;

/// How long a lease holds without renewal.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A lease that was not renewed for this long is free.
    pub lease: Duration,
    /// How often it is renewed, and how often others look.
    pub renew: Duration,
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this: the lease is ours, or free.
    Write(Box<LeaseSpec>),
    /// Somebody else holds it.
    Wait,
}

/// What `me` does about the lease at `now`. `seen` is when its present form was first seen here:
/// another machine's clock is not trusted to say when it ends.
#[must_use]
pub fn step(
    lease: Option<&LeaseSpec>,
    me: &str,
    seen: Timestamp,
    now: Timestamp,
    timing: Timing,
) -> Step {
    let holder = lease
        .and_then(|l| l.holder_identity.as_deref())
        .filter(|h| !h.is_empty());
    let mine = holder == Some(me);
    let free = holder.is_none() || {
        let life = lease
            .and_then(|l| l.lease_duration_seconds)
            .map_or(timing.lease, |s| {
                Duration::from_secs(u64::try_from(s).unwrap_or(0))
            });
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
        now.duration_since(seen) > life
    };
    if !mine && !free {
        return Step::Wait;
    }
    let transitions = lease.and_then(|l| l.lease_transitions).unwrap_or(0);
    Step::Write(Box::new(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(timing.lease.as_secs()).unwrap_or(i32::MAX)),
        renew_time: Some(MicroTime(now)),
        acquire_time: if mine {
            lease.and_then(|l| l.acquire_time.clone())
        } else {
            Some(MicroTime(now))
        },
        lease_transitions: Some(if mine {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }))
}

/// A candidate for the lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    me: String,
    timing: Timing,
    seen: Option<(Option<String>, Timestamp)>,
}

impl Candidate {
    /// A candidate named `me`, which no other process is.
    #[must_use]
    pub fn new(api: Api<Lease>, name: &str, me: &str, timing: Timing) -> Self {
        Self {
            api,
            name: name.to_owned(),
            me: me.to_owned(),
            timing,
            seen: None,
        }
    }

    /// Looks at the lease, and takes or renews it where it may. Says whether it is held now.
    ///
    /// # Errors
    /// The API server fails. Whether the lease is held is then as unknown as before.
    pub async fn tick(&mut self, now: Timestamp) -> Result<bool, OperatorError> {
        let there = self.api.get_opt(&self.name).await?;
        let version = there
            .as_ref()
            .and_then(|l| l.metadata.resource_version.clone());
        let seen = match &self.seen {
            Some((known, since)) if *known == version => *since,
            _ => now,
        };
        self.seen = Some((version, seen));
        let spec = there.as_ref().and_then(|l| l.spec.as_ref());
        let Step::Write(spec) = step(spec, &self.me, seen, now, self.timing) else {
            return Ok(false);
        };
        let is_new = there.is_none();
        let mut lease = there.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        });
        lease.spec = Some(*spec);
        let written = if is_new {
            self.api.create(&PostParams::default(), &lease).await
        } else {
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the lease back, so that the next one need not wait for its end.
    ///
    /// # Errors
    /// The API server fails.
    pub async fn release(&self) -> Result<(), OperatorError> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = None;
        self.api
            .replace(&self.name, &PostParams::default(), &lease)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        lease: Duration::from_secs(15),
        renew: Duration::from_secs(3),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn held_by(who: &str) -> LeaseSpec {
        match step(None, who, at(0), at(0), TIMING) {
            Step::Write(spec) => *spec,
            Step::Wait => panic!("a lease that nobody holds is free"),
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_the_change_of_hands_counted() {
        let spec = held_by("a");
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!(
            (spec.lease_transitions, spec.lease_duration_seconds),
            (Some(1), Some(15))
        );
    }

    #[test]
    fn somebody_elses_lease_is_waited_for_until_it_ends() {
        let spec = held_by("a");
        assert_eq!(step(Some(&spec), "b", at(100), at(115), TIMING), Step::Wait);
        let Step::Write(taken) = step(Some(&spec), "b", at(100), at(116), TIMING) else {
            panic!("an ended lease is free");
        };
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(2));
    }

    #[test]
    fn the_end_is_counted_from_when_it_was_seen_not_from_the_holders_clock() {
        let mut spec = held_by("a");
        spec.renew_time = Some(MicroTime(at(-1_000_000)));
        assert_eq!(step(Some(&spec), "b", at(100), at(101), TIMING), Step::Wait);
    }

    #[test]
    fn renewal_keeps_the_time_of_acquisition() {
        let spec = held_by("a");
        let Step::Write(renewed) = step(Some(&spec), "a", at(50), at(50), TIMING) else {
            panic!("one's own lease is renewed");
        };
        assert_eq!(renewed.acquire_time, spec.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(50))));
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let mut spec = held_by("a");
        spec.holder_identity = None;
        assert!(matches!(
            step(Some(&spec), "b", at(0), at(0), TIMING),
            Step::Write(_)
        ));
    }
}
