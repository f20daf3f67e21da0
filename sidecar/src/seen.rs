//! The distinct actions that the agent asked for, counted: what its policy is written from.
//!
//! Bounded: an agent that thinks up ever new paths fills the table, and what comes before it was told is
//! only counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// HTTP method, JSON-RPC method of an MCP message, or [`writ_catalog::CUSTOM_ACTION`].
    pub method: Option<String>,
    /// Path without query.
    pub path: Option<String>,
    /// MCP tool, or the capability that a custom action was asked for as.
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

    /// An action that the agent described to the local API, and carries out itself.
    #[must_use]
    pub fn of_custom(destination: &str, capability: &str) -> Self {
        let mut sight = Self::of(destination);
        sight.kind.method = Some(writ_catalog::CUSTOM_ACTION.to_owned());
        sight.kind.tool = Some(cut(capability));
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
    rows: HashMap<Kind, Row>,
    dropped: u64,
}

#[derive(Debug)]
struct Row {
    count: Count,
    /// How much of the count was told.
    told: u64,
}

impl Table {
    /// Makes room: what was told longest ago is forgotten, since whoever was told keeps it.
    fn has_room(&mut self) -> bool {
        if self.rows.len() < MAX_ACTIONS {
            return true;
        }
        let told = self.rows.iter().filter(|(_, r)| r.told == r.count.count);
        let oldest = told.min_by_key(|(_, row)| row.count.last);
        match oldest.map(|(kind, _)| kind.clone()) {
            Some(kind) => self.rows.remove(&kind).is_some(),
            None => false,
        }
    }
}

impl Seen {
    /// Counts one.
    pub fn note(&self, sight: Sight, now: u64) {
        let mut table = self.lock();
        if let Some(row) = table.rows.get_mut(&sight.kind) {
            let count = &mut row.count;
            count.count = count.count.saturating_add(1);
            count.first = count.first.min(now);
            count.last = count.last.max(now);
            let higher = |a: &Amount| count.amount.as_ref().is_none_or(|b| a.value > b.value);
            if sight.amount.as_ref().is_some_and(higher) {
                count.amount = sight.amount;
            }
        } else if table.has_room() {
            let count = Count {
                count: 1,
                first: now,
                last: now,
                amount: sight.amount,
            };
            table.rows.insert(sight.kind, Row { count, told: 0 });
        } else {
            table.dropped = table.dropped.saturating_add(1);
        }
    }

    /// What was not told yet, with what each count grew by: new kinds of actions first, at most `most`. With
    /// [`Due::New`], nothing unless there are new ones.
    pub fn untold(&self, due: Due, most: usize) -> Vec<(Kind, Count)> {
        let table = self.lock();
        let mut rows: Vec<(&Kind, &Row)> = table
            .rows
            .iter()
            .filter(|(_, row)| row.count.count > row.told)
            .collect();
        rows.sort_by_key(|(_, row)| (row.told > 0, row.count.first));
        let new = rows.first().is_some_and(|(_, row)| row.told == 0);
        if due == Due::New && !new {
            return Vec::new();
        }
        let grown = |(kind, row): (&Kind, &Row)| {
            let count = Count {
                count: row.count.count - row.told,
                ..row.count.clone()
            };
            (kind.clone(), count)
        };
        rows.into_iter().take(most).map(grown).collect()
    }

    /// This much was told, and is kept.
    pub fn told(&self, rows: &[(Kind, Count)]) {
        let mut table = self.lock();
        for (kind, count) in rows {
            if let Some(row) = table.rows.get_mut(kind) {
                row.told = row.told.saturating_add(count.count).min(row.count.count);
            }
        }
    }

    /// How many actions found no place.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is due to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// New kinds of actions, and what else there is with them.
    New,
    /// Everything.
    All,
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
        let rows = seen.untold(Due::New, 9);
        assert_eq!((rows.len(), seen.dropped()), (1, 0));
        let count = Count {
            count: 3,
            first: 9,
            last: 11,
            amount: amount(1200),
        };
        assert_eq!(rows[0].1, count);
    }

    #[test]
    fn what_was_told_is_not_told_again_and_nothing_else_is_left_out() {
        let seen = Seen::default();
        let note = |path: &str| seen.note(Sight::of_request("a:80", "GET", path), 1);
        note("/1");
        note("/1");
        let first = seen.untold(Due::New, 9);
        assert_eq!(seen.untold(Due::New, 9), first, "it was not answered");
        note("/1");
        seen.told(&first);
        assert!(seen.untold(Due::New, 9).is_empty(), "only a count grew");
        let grown = seen.untold(Due::All, 9);
        assert_eq!((grown.len(), grown[0].1.count), (1, 1));
        note("/2");
        let both = seen.untold(Due::New, 9);
        let counts: Vec<u64> = both.iter().map(|(_, c)| c.count).collect();
        assert_eq!(counts, [1, 1]);
        assert_eq!(both[0].0.path.as_deref(), Some("/2"), "new ones first");
        assert_eq!(seen.untold(Due::New, 1).len(), 1);
        seen.told(&both);
        assert!(seen.untold(Due::All, 9).is_empty());
    }

    #[test]
    fn made_up_paths_cannot_grow_the_table_and_what_was_told_makes_room() {
        let seen = Seen::default();
        let note = |n: u64| seen.note(Sight::of_request("a:80", "GET", &format!("/{n}")), n);
        (0..2000).for_each(note);
        let rows = seen.untold(Due::All, usize::MAX);
        assert_eq!((rows.len(), seen.dropped()), (MAX_ACTIONS, 2000 - 512));
        let oldest = &rows[..2];
        seen.told(oldest);
        note(3000);
        note(3001);
        note(3002);
        assert_eq!(seen.dropped(), 2000 - 512 + 1);
        let rows = seen.untold(Due::All, usize::MAX);
        assert_eq!(rows.len(), MAX_ACTIONS);
        assert!(rows.iter().all(|(kind, _)| *kind != oldest[0].0));
        assert!(
            rows.iter()
                .any(|(kind, _)| kind.path.as_deref() == Some("/3001"))
        );
    }

    #[test]
    fn texts_are_cut_between_characters_and_lose_control_characters() {
        let long = cut(&"ä".repeat(300));
        assert_eq!((long.len(), long.chars().count()), (256, 128));
        assert_eq!(cut("a\r\nb\0c"), "abc");
    }
}
