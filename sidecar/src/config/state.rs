//! Where proved chain state comes from besides the chain's endpoints.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{one, seconds};

/// Most head witnesses.
const MAX_WITNESSES: usize = 16;

/// Where proved chain state comes from besides the chain's endpoints.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct State {
    /// A relay that reads the endpoints for many sidecars. While it is away they are read from here.
    pub relay: Option<Relay>,
    /// How long an agent is refused because a relay says that it was revoked, before the chain must have said so.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub revocation_hold: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self {
            relay: None,
            revocation_hold: seconds::<120>(),
        }
    }
}

impl State {
    /// Refuses what parses but cannot be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(relay) = &self.relay {
            relay.check()?;
        }
        if self.revocation_hold < seconds::<10>() || self.revocation_hold > seconds::<600>() {
            return Err("state.revocationHold must be between 10 s and 10 min".into());
        }
        Ok(())
    }
}

/// A relay. Nothing that it says is believed: state is proved against heads that witnesses signed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Relay {
    /// `host:port`.
    pub address: String,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// SPIFFE IDs of the head witnesses.
    pub witnesses: Vec<String>,
    /// How many of them must have signed a head: more than half.
    #[serde(default = "one")]
    pub needed: usize,
    /// How far a witness's time of signing may be from now, at most 60 s.
    #[serde(default = "seconds::<10>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub skew: Duration,
}

impl Relay {
    fn check(&self) -> Result<(), String> {
        let witnesses = self.witnesses.len();
        let distinct = BTreeSet::from_iter(&self.witnesses).len();
        if distinct != witnesses || witnesses == 0 || witnesses > MAX_WITNESSES {
            return Err(format!(
                "state.relay.witnesses: name 1 to {MAX_WITNESSES} witnesses, each once"
            ));
        }
        if self.needed > witnesses || self.needed * 2 <= witnesses {
            return Err(format!(
                "state.relay.needed is {} of {witnesses}; it must be more than half of them, else two groups could \
                 each vouch for another chain",
                self.needed
            ));
        }
        if self.skew.as_secs() == 0 || self.skew > seconds::<60>() {
            return Err("state.relay.skew must be between 1 s and 60 s".into());
        }
        let port = self.address.rsplit_once(':').map(|(_, port)| port.parse());
        if !matches!(port, Some(Ok(1_u16..))) {
            return Err("state.relay.address must be host:port".into());
        }
        for id in self.witnesses.iter().chain([&self.spiffe_id]) {
            writ_identity::check_spiffe_id(id).map_err(|e| format!("state.relay: {e}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Relay {
        let id = |name: &str| format!("spiffe://example.org/ns/writ-system/sa/{name}");
        Relay {
            address: "writ-relay.writ-system.svc:15900".to_owned(),
            spiffe_id: id("writ-relay"),
            witnesses: vec![id("w0"), id("w1"), id("w2")],
            needed: 2,
            skew: seconds::<10>(),
        }
    }

    #[test]
    fn a_relay_that_could_be_misled_by_half_of_its_witnesses_is_refused() {
        assert_eq!(relay().check(), Ok(()));
        type Spoil = fn(&mut Relay);
        let spoilt: [(&str, Spoil); 8] = [
            ("needed", |r| r.needed = 1),
            ("needed", |r| r.needed = 4),
            ("witnesses", |r| r.witnesses[1] = r.witnesses[0].clone()),
            ("witnesses", |r| r.witnesses.clear()),
            ("address", |r| r.address = "writ-relay".to_owned()),
            ("address", |r| r.address = "writ-relay:0".to_owned()),
            ("skew", |r| r.skew = seconds::<61>()),
            ("SPIFFE", |r| r.spiffe_id = "writ-relay".to_owned()),
        ];
        for (names, spoil) in spoilt {
            let mut relay = relay();
            spoil(&mut relay);
            let error = relay.check().unwrap_err();
            assert!(error.contains(names), "{names}: {error}");
        }
    }

    #[test]
    fn a_hold_that_never_ends_is_refused() {
        let state = State {
            revocation_hold: seconds::<3600>(),
            ..State::default()
        };
        assert!(state.check().unwrap_err().contains("revocationHold"));
        assert_eq!(State::default().check(), Ok(()));
    }
}
