//! The distinct actions that the agent asked for, counted: what its policy is written from.
//!
//! Bounded: an agent that thinks up ever new paths fills the table, and what comes after is only
//! counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use writ_canonical::mcp::Message;
use writ_catalog::{Amount, Intent};

use crate::gate::Denied;

/// Most distinct actions kept.
const MAX_ACTIONS: usize = 512;
/// Longest text of a member, in bytes; what is longer is cut.
const MAX_TEXT: usize = 256;

/// One kind of action, told apart by everything but time and amount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Capability, `unlisted` where the catalog has none.
    pub capability: String,
    /// Data class, 0 to 3.
    pub class: u8,
    /// What was acted on.
    pub resource: Option<String>,
    /// `host:port`, as the agent named or dialled it.
    pub destination: String,
    /// HTTP method, or JSON-RPC method of an MCP message.
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// MCP tool.
    pub tool: Option<String>,
    /// Why it was denied; `None` for what the policy allows.
    pub denied: Option<String>,
    /// The rule that decided, lower-case hex.
    pub rule: Option<String>,
}

/// How often, when, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// How often it was asked for.
    pub count: u64,
    /// First time, unix seconds.
    pub first: u64,
    /// Last time, unix seconds.
    pub last: u64,
    /// The highest amount.
    pub amount: Option<Amount>,
}

/// One request or connection, as it comes to be known.
#[derive(Debug)]
pub struct Sight {
    kind: Kind,
    amount: Option<Amount>,
}

impl Sight {
    /// Something of which only the destination is known.
    #[must_use]
    pub fn of(destination: &str) -> Self {
        Self {
            kind: Kind {
                capability: writ_catalog::UNLISTED.to_owned(),
                class: 0,
                resource: None,
                destination: cut(destination),
                method: None,
                path: None,
                tool: None,
                denied: None,
                rule: None,
            },
            amount: None,
        }
    }

    /// An HTTP request.
    #[must_use]
    pub fn of_request(destination: &str, method: &str, path: &str) -> Self {
        let mut sight = Self::of(destination);
        sight.kind.method = Some(cut(method));
        sight.kind.path = Some(cut(path));
        sight
    }

    /// It is this MCP message.
    pub fn message(&mut self, message: &Message) {
        match message {
            Message::Request { method, tool, .. } => {
                self.kind.method = Some(cut(method));
                self.kind.tool = tool.as_ref().map(|tool| cut(&tool.name));
            }
            Message::Notification { method, .. } => self.kind.method = Some(cut(method)),
            Message::Response { .. } => self.kind.method = None,
        }
    }

    /// The catalog names it so.
    pub fn named(&mut self, intent: &Intent) {
        self.kind.capability = cut(&intent.capability);
        self.kind.class = intent.class;
        self.kind.resource = intent.resource.as_deref().map(cut);
        self.amount.clone_from(&intent.amount);
    }

    /// It was denied, whether or not that was enforced.
    pub fn denied(&mut self, denied: &Denied) {
        self.kind.denied = Some(cut(&denied.code));
        self.kind.rule.clone_from(&denied.problem.rule);
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Seen {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Kind, Count>,
    more: u64,
    changed: bool,
}

impl Seen {
    /// Counts one.
    pub fn note(&self, sight: Sight, now: u64) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.changed = true;
        let full = table.rows.len() >= MAX_ACTIONS;
        match table.rows.entry(sight.kind) {
            Entry::Occupied(mut row) => {
                let row = row.get_mut();
                row.count = row.count.saturating_add(1);
                row.last = row.last.max(now);
                let higher = |a: &Amount| row.amount.as_ref().is_none_or(|b| a.value > b.value);
                if sight.amount.as_ref().is_some_and(higher) {
                    row.amount = sight.amount;
                }
            }
            Entry::Vacant(_) if full => table.more = table.more.saturating_add(1),
            Entry::Vacant(row) => {
                row.insert(Count {
                    count: 1,
                    first: now,
                    last: now,
                    amount: sight.amount,
                });
            }
        }
    }

    /// All rows, and how many actions found no place, if anything changed since the last time.
    pub fn changed(&self) -> Option<(Vec<(Kind, Count)>, u64)> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut table.changed) {
            return None;
        }
        let rows = table.rows.iter().map(|(k, c)| (k.clone(), c.clone()));
        Some((rows.collect(), table.more))
    }

    /// What was taken could not be told: it counts as changed again.
    pub fn untold(&self) {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .changed = true;
    }
}

/// At most [`MAX_TEXT`] bytes, without control characters.
fn cut(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = short.floor_char_boundary(MAX_TEXT);
    short.truncate(end);
    short
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use alloy_primitives::U256;

    fn amount(value: u64) -> Option<Amount> {
        Some(Amount {
            value: U256::from(value),
            scale: 2,
            unit: "EUR".to_owned(),
        })
    }

    #[test]
    fn the_same_action_is_counted_with_its_times_and_its_highest_amount() {
        let seen = Seen::default();
        for (value, now) in [(500, 10), (1200, 11), (700, 9)] {
            let mut sight = Sight::of_request("bank.example:80", "POST", "/v1/transfers");
            sight.amount = amount(value);
            seen.note(sight, now);
        }
        let (rows, more) = seen.changed().unwrap();
        assert_eq!((rows.len(), more), (1, 0));
        let count = Count {
            count: 3,
            first: 10,
            last: 11,
            amount: amount(1200),
        };
        assert_eq!(rows[0].1, count);
        assert!(seen.changed().is_none());
        seen.untold();
        assert!(seen.changed().is_some());
    }

    #[test]
    fn made_up_paths_cannot_grow_the_table() {
        let seen = Seen::default();
        for n in 0..2000 {
            seen.note(Sight::of_request("a:80", "GET", &format!("/{n}")), 1);
        }
        seen.note(Sight::of_request("a:80", "GET", "/1"), 2);
        let (rows, more) = seen.changed().unwrap();
        assert_eq!((rows.len(), more), (MAX_ACTIONS, 2000 - 512));
        let again = rows.iter().find(|(k, _)| k.path.as_deref() == Some("/1"));
        assert_eq!(again.unwrap().1.count, 2);
    }

    #[test]
    fn texts_are_cut_between_characters_and_lose_control_characters() {
        let long = cut(&"ä".repeat(300));
        assert_eq!((long.len(), long.chars().count()), (256, 128));
        assert_eq!(cut("a\r\nb\0c"), "abc");
    }
}
