//! What agents did under an AgentPolicy, as their sidecars reported it: merged, bounded, and as JSON. No I/O.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use writ_relay::{SeenAction, SeenAmount};

/// Most kinds of actions of one AgentPolicy.
pub const MAX_ACTIONS: usize = 1000;
/// Most bytes of them as JSON, so that a ConfigMap holds them.
pub const MAX_BYTES: usize = 900_000;

/// A kind of action: everything but how often, when, and how much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Kind {
    agent: String,
    capability: String,
    class: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Allow,
    Deny,
}

/// How often, when, and the highest amount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// An exact decimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Amount {
    value: String,
    unit: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    kind: Kind,
    #[serde(flatten)]
    tally: Tally,
}

/// Kinds of actions, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions(BTreeMap<Kind, Tally>);

impl Actions {
    /// Reads what [`Actions::to_json`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let mut actions = Self::default();
        for Entry { kind, tally } in entries {
            actions.add(kind, tally);
        }
        Ok(actions)
    }

    /// What one agent did. Times are no later than `now`.
    #[must_use]
    pub fn of(agent: &str, seen: &[SeenAction], now: Timestamp) -> Self {
        let mut actions = Self::default();
        for seen in seen {
            let time = |seconds: u64| {
                let time = i64::try_from(seconds).ok().map(Timestamp::from_second);
                time.and_then(Result::ok).map_or(now, |time| time.min(now))
            };
            let decision = match seen.denied {
                Some(_) => Decision::Deny,
                None => Decision::Allow,
            };
            let kind = Kind {
                agent: agent.to_owned(),
                capability: seen.capability.clone(),
                class: seen.class,
                resource: seen.resource.clone(),
                destination: seen.destination.clone(),
                method: seen.method.clone(),
                path: seen.path.clone(),
                tool: seen.tool.clone(),
                decision,
                reason: seen.denied.clone(),
                rule: seen.rule.clone(),
            };
            let tally = Tally {
                amount: seen.amount.as_ref().map(amount),
                count: seen.count,
                first: time(seen.first),
                last: time(seen.last),
            };
            actions.add(kind, tally);
        }
        actions
    }

    /// How many kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what came since, and keeps to the bounds.
    pub fn merge(&mut self, other: Self) {
        for (kind, tally) in other.0 {
            self.add(kind, tally);
        }
        self.fit();
    }

    /// As `actions.json` has it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entries: Vec<String> = self.0.iter().map(|(k, t)| json(k, t)).collect();
        format!("[{}]", entries.join(",\n"))
    }

    fn add(&mut self, kind: Kind, tally: Tally) {
        let Some(known) = self.0.get_mut(&kind) else {
            self.0.insert(kind, tally);
            return;
        };
        known.count = known.count.saturating_add(tally.count);
        known.first = known.first.min(tally.first);
        known.last = known.last.max(tally.last);
        let higher = |new: &Amount| {
            let before = known.amount.as_ref();
            before.is_none_or(|old| old.unit != new.unit || higher(&new.value, &old.value))
        };
        if tally.amount.as_ref().is_some_and(higher) {
            known.amount = tally.amount;
        }
    }

    /// Where there is too much, the agent with the most kinds loses the one that it did longest ago: one that thinks up
    /// ever new actions displaces its own.
    fn fit(&mut self) {
        let sizes = |actions: &Self| -> BTreeMap<Kind, usize> {
            let size = |(k, t): (&Kind, &Tally)| (k.clone(), json(k, t).len() + 2);
            actions.0.iter().map(size).collect()
        };
        // Measuring takes time: it is not needed while there is little.
        let small =
            self.len() <= MAX_ACTIONS && self.0.keys().map(at_most).sum::<usize>() <= MAX_BYTES;
        if small {
            return;
        }
        let sizes = sizes(self);
        let mut bytes: usize = sizes.values().sum();
        let mut by_agent: BTreeMap<String, Vec<(Timestamp, Kind)>> = BTreeMap::new();
        for (kind, tally) in &self.0 {
            let of = by_agent.entry(kind.agent.clone()).or_default();
            of.push((tally.last, kind.clone()));
        }
        for of in by_agent.values_mut() {
            // The oldest at the end.
            of.sort_by(|a, b| b.cmp(a));
        }
        while self.len() > MAX_ACTIONS || bytes > MAX_BYTES {
            let most = by_agent.values_mut().max_by_key(|of| of.len());
            let Some((_, oldest)) = most.and_then(Vec::pop) else {
                return;
            };
            bytes = bytes.saturating_sub(sizes.get(&oldest).copied().unwrap_or_default());
            self.0.remove(&oldest);
        }
    }
}

fn json(kind: &Kind, tally: &Tally) -> String {
    let entry = Entry {
        kind: kind.clone(),
        tally: tally.clone(),
    };
    // Texts and numbers: nothing that cannot be written.
    serde_json::to_string(&entry).unwrap_or_default()
}

/// Bytes that an entry has at most: every character may be escaped.
fn at_most(kind: &Kind) -> usize {
    let optional = [
        &kind.resource,
        &kind.method,
        &kind.path,
        &kind.tool,
        &kind.reason,
        &kind.rule,
    ];
    let optional: usize = optional.into_iter().flatten().map(String::len).sum();
    let texts = kind.agent.len() + kind.capability.len() + kind.destination.len() + optional;
    1024 + 6 * texts
}

/// `12.34` for 1234 at scale 2.
fn amount(seen: &SeenAmount) -> Amount {
    let digits = seen.value.to_string();
    let scale = usize::from(seen.scale);
    let padded = format!(
        "{}{digits}",
        "0".repeat((scale + 1).saturating_sub(digits.len()))
    );
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let value = if fraction.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{fraction}")
    };
    Amount {
        value,
        unit: seen.unit.clone(),
    }
}

/// Whether one decimal is more than another.
fn higher(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = whole.trim_start_matches('0').to_owned();
        (
            whole.len(),
            whole,
            fraction.trim_end_matches('0').to_owned(),
        )
    };
    parts(a).cmp(&parts(b)) == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::U256;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        Timestamp::from_second(1_767_225_600).unwrap()
    }

    fn seen(path: &str, last: u64) -> SeenAction {
        SeenAction {
            capability: "payments.transfer".to_owned(),
            class: 2,
            resource: None,
            destination: "bank.example:80".to_owned(),
            method: Some("POST".to_owned()),
            path: Some(path.to_owned()),
            tool: None,
            denied: None,
            rule: None,
            count: 1,
            first: last,
            last,
            amount: None,
        }
    }

    fn of(agent: &str, seen: &[SeenAction]) -> Actions {
        Actions::of(agent, seen, now())
    }

    fn costing(value: u64, scale: u8) -> SeenAction {
        SeenAction {
            amount: Some(SeenAmount {
                value: U256::from(value),
                scale,
                unit: "EUR".to_owned(),
            }),
            ..seen("/pay", 100)
        }
    }

    #[test]
    fn the_form_is_the_one_that_policies_are_suggested_from() {
        let mut denied = costing(1234, 2);
        denied.denied = Some("amount-over-limit".to_owned());
        denied.rule = Some("77".to_owned());
        let actions = of("spiffe://a/ns/shop/sa/buyer", &[denied]);
        let value: Value = serde_json::from_str(&actions.to_json()).unwrap();
        assert_eq!(
            value,
            json!([{
                "agent": "spiffe://a/ns/shop/sa/buyer", "capability": "payments.transfer", "class": 2,
                "destination": "bank.example:80", "method": "POST", "path": "/pay",
                "decision": "deny", "reason": "amount-over-limit", "rule": "77",
                "amount": {"value": "12.34", "unit": "EUR"},
                "count": 1, "first": "1970-01-01T00:01:40Z", "last": "1970-01-01T00:01:40Z",
            }])
        );
        assert_eq!(Actions::parse(&actions.to_json()), Ok(actions));
        assert!(Actions::parse("{}").is_err());
    }

    #[test]
    fn the_same_action_adds_up_with_its_times_and_its_highest_amount() {
        let mut actions = of("a", &[costing(999, 2)]);
        let mut later = costing(1000, 2);
        (later.first, later.last, later.count) = (50, 200, 5);
        actions.merge(of("a", &[later]));
        actions.merge(of("a", &[costing(7, 0)]));
        assert_eq!(actions.len(), 1);
        let tally = actions.0.values().next().unwrap();
        assert_eq!(tally.count, 7);
        assert_eq!((tally.first.as_second(), tally.last.as_second()), (50, 200));
        assert_eq!(tally.amount.as_ref().unwrap().value, "10.00");
    }

    #[test]
    fn decimals_are_written_and_compared_exactly() {
        for (value, scale, text) in [(0, 0, "0"), (5, 2, "0.05"), (120, 1, "12.0"), (7, 0, "7")] {
            let seen = costing(value, scale).amount.unwrap();
            assert_eq!(amount(&seen).value, text);
        }
        for (a, b) in [
            ("10", "9.99"),
            ("0.5", "0.45"),
            ("1.01", "1"),
            ("100", "99"),
        ] {
            assert!(higher(a, b) && !higher(b, a), "{a} {b}");
        }
        assert!(!higher("1.0", "1") && !higher("1", "1.000"));
    }

    #[test]
    fn what_is_said_to_come_from_the_future_came_now() {
        let actions = of("a", &[seen("/", u64::MAX)]);
        assert_eq!(actions.0.values().next().unwrap().last, now());
    }

    #[test]
    fn one_that_thinks_up_ever_new_actions_displaces_its_own() {
        let mut actions = of("quiet", &[seen("/1", 1), seen("/2", 1)]);
        for n in 0..30 {
            let many: Vec<SeenAction> = (0..100)
                .map(|m| seen(&format!("/{n}/{m}"), 10 + n))
                .collect();
            actions.merge(of("loud", &many));
            assert!(actions.len() <= MAX_ACTIONS);
        }
        let of_quiet = actions.0.keys().filter(|k| k.agent == "quiet").count();
        assert_eq!((actions.len(), of_quiet), (MAX_ACTIONS, 2));
        let oldest = actions
            .0
            .iter()
            .filter(|(k, _)| k.agent == "loud")
            .map(|(_, t)| t.last);
        assert_eq!(oldest.min().unwrap().as_second(), 30 - 10 + 10);
    }

    #[test]
    fn however_long_the_texts_a_config_map_holds_them() {
        let long = "\"".repeat(256);
        let action = |n: usize| SeenAction {
            capability: format!("{n}{}", "x".repeat(250)),
            resource: Some(long.clone()),
            path: Some(long.clone()),
            tool: Some(long.clone()),
            method: Some(long.clone()),
            denied: Some(long.clone()),
            rule: Some(long.clone()),
            ..seen("/", 1)
        };
        let mut actions = Actions::default();
        for part in 0..4 {
            let many: Vec<SeenAction> = (0..250).map(|n| action(part * 250 + n)).collect();
            actions.merge(of("a", &many));
        }
        let size = actions.to_json().len();
        assert!(size <= MAX_BYTES && size > MAX_BYTES / 2, "{size}");
    }
}
