//! From actions to a catalog and rules. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use writ_catalog::Catalog;
use writ_catalog::model::{
    AgentTls, DestinationSpec, DetectorSettings, Document, EntrySpec, Preset, PresetSpec,
};
use writ_policy::abi::Rule;
use writ_policy::rules::{RuleDocument, init_code};

use super::LeftOut;
use super::measured::Measured;
use super::names::{Taken, words};
use super::place;
use super::want::{Want, coarse, entry, level, settle, want};
use crate::error::CliError;
use crate::policy::replay::{self, is_of_the_body, is_of_the_policy};
use crate::policy::seen::Seen;
use crate::policy::source::Written;

/// How finely capabilities are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Each method and path, each tool.
    Action,
    /// Reading and writing, by destination: where one contract has no room for more rules.
    Destination,
}

/// Something, and what to say about it.
#[derive(Debug, Clone)]
pub struct Noted<T> {
    pub value: T,
    pub comments: Vec<String>,
}

/// What is going to be suggested.
#[derive(Debug)]
pub struct Draft {
    pub grain: Grain,
    pub name: String,
    pub detectors: Option<DetectorSettings>,
    pub destinations: Vec<Noted<DestinationSpec>>,
    pub entries: Vec<EntrySpec>,
    pub presets: Vec<PresetSpec>,
    pub scale: u8,
    pub unit: Option<String>,
    pub rules: Vec<Noted<RuleDocument>>,
    pub left_out: Vec<LeftOut>,
}

impl Draft {
    /// Whether one contract holds the rules.
    pub fn fits(&self) -> bool {
        init_code(&vec![Rule::default(); self.rules.len()], Address::ZERO).is_ok()
    }

    /// Drafts a policy that allows what was seen, as far as a policy can.
    pub fn of(seen: &[Seen], base: Option<&Written>, grain: Grain) -> Result<Self, CliError> {
        let mut draft = Self {
            grain,
            name: base.map_or_else(
                || "suggested".to_owned(),
                |b| b.catalog.document().name.clone(),
            ),
            detectors: base.and_then(|b| b.catalog.document().detectors.clone()),
            destinations: Vec::new(),
            entries: Vec::new(),
            presets: Vec::new(),
            scale: base.map_or(2, |b| b.rules.scale),
            unit: base.and_then(|b| b.rules.unit.clone()),
            rules: Vec::new(),
            left_out: Vec::new(),
        };
        let placed = draft.place(seen, base);
        let wants = draft.wants(&placed, base);
        draft.add_entries(&wants, base)?;
        let catalog = draft.catalog()?;
        draft.drop_unused();
        draft.add_rules(seen, &catalog);
        Ok(draft)
    }

    fn leave(&mut self, at: usize, seen: &Seen, why: impl Into<String>) {
        self.left_out.push(LeftOut::of(at, seen, why));
    }

    /// The destination of each action.
    fn place<'s>(
        &mut self,
        seen: &'s [Seen],
        base: Option<&Written>,
    ) -> Vec<(usize, &'s Seen, String)> {
        type Actions<'s> = Vec<(usize, &'s Seen)>;
        let mut found: BTreeMap<(String, u16), (Noted<DestinationSpec>, Actions<'_>)> =
            BTreeMap::new();
        for (at, action) in seen.iter().enumerate() {
            let place = eligible(action).and_then(|()| place::of(action, base));
            let place = match place {
                Ok(place) => place,
                Err(why) => {
                    self.leave(at, action, why);
                    continue;
                }
            };
            let key = (place.spec.host.clone(), place.spec.port);
            let (there, actions) = found.entry(key).or_insert_with(|| {
                let noted = Noted {
                    value: place.spec.clone(),
                    comments: place.comments.clone(),
                };
                (noted, Vec::new())
            });
            // What is read of one request must be read of all.
            if there.value.agent_tls == AgentTls::Opaque && place.spec.agent_tls != AgentTls::Opaque
            {
                there.value = place.spec;
                there.comments = place.comments;
            }
            actions.push((at, action));
        }
        let mut taken = Taken::default();
        if let Some(base) = base {
            for spec in &base.catalog.document().destinations {
                taken.note(&spec.name);
            }
        }
        let mut placed = Vec::new();
        for (mut noted, actions) in found.into_values() {
            let known =
                base.is_some_and(|b| b.catalog.document().destinations.contains(&noted.value));
            if !known {
                noted.value.name = taken.unique(&noted.value.name, 64);
            }
            let name = noted.value.name.clone();
            placed.extend(
                actions
                    .into_iter()
                    .map(|(at, action)| (at, action, name.clone())),
            );
            self.destinations.push(noted);
        }
        placed.sort_by_key(|(at, ..)| *at);
        placed
    }

    /// What names each action.
    fn wants(
        &mut self,
        placed: &[(usize, &Seen, String)],
        base: Option<&Written>,
    ) -> BTreeMap<usize, (String, Want, u8)> {
        let endpoints: BTreeSet<(&str, &str)> = placed
            .iter()
            .filter(|(_, seen, _)| seen.tool.is_some())
            .filter_map(|(_, seen, name)| Some((name.as_str(), seen.path.as_deref()?)))
            .collect();
        let mut wants = BTreeMap::new();
        for (at, seen, name) in placed {
            let opaque = self
                .destinations
                .iter()
                .any(|d| d.value.name == *name && d.value.agent_tls == AgentTls::Opaque);
            let is_endpoint = seen
                .path
                .as_deref()
                .is_some_and(|path| endpoints.contains(&(name.as_str(), path)));
            match want(seen, opaque, is_endpoint, base) {
                Ok(want) => {
                    wants.insert(*at, (name.clone(), want, seen.class));
                }
                Err(why) => self.leave(*at, seen, why),
            }
        }
        settle(&mut wants, placed);
        wants
    }

    fn add_entries(
        &mut self,
        wants: &BTreeMap<usize, (String, Want, u8)>,
        base: Option<&Written>,
    ) -> Result<(), CliError> {
        let mut classes: BTreeMap<(&String, &Want), u8> = BTreeMap::new();
        for (destination, want, class) in wants.values() {
            let highest = classes.entry((destination, want)).or_default();
            *highest = (*highest).max(*class);
        }
        let document = base.map(|b| b.catalog.document());
        let (mut entries, mut capabilities) = (Taken::default(), Taken::default());
        for entry in document.iter().flat_map(|d| &d.entries) {
            entries.note(&entry.name);
            capabilities.note(&entry.capability);
        }
        for ((destination, want), class) in classes {
            match want {
                Want::Base(name) => {
                    let there = document.iter().flat_map(|d| &d.entries);
                    self.entries
                        .extend(there.filter(|e| e.name == *name).cloned());
                }
                Want::Preset(path) => self.add_preset(destination, path, class, document),
                _ => {
                    let mut entry = entry(destination, want, class);
                    entry.capability = match self.grain {
                        Grain::Action => capabilities.unique(&entry.capability, 100),
                        Grain::Destination => coarse(destination, want),
                    };
                    entry.name = entries.unique(&entry.name, 64);
                    self.entries.push(entry);
                }
            }
        }
        Ok(())
    }

    fn add_preset(&mut self, destination: &str, path: &str, class: u8, base: Option<&Document>) {
        let mut there = base.iter().flat_map(|d| &d.presets);
        let same = |p: &&PresetSpec| p.destination == destination && p.path == path;
        let preset = there.find(same).cloned().unwrap_or_else(|| PresetSpec {
            preset: Preset::McpBase,
            destination: destination.to_owned(),
            path: path.to_owned(),
            class: level(class),
        });
        self.presets.push(preset);
    }

    /// The catalog. Entries that do not go together with the others are taken out.
    fn catalog(&mut self) -> Result<Catalog, CliError> {
        let all = std::mem::take(&mut self.entries);
        self.entries.clone_from(&all);
        if let Ok(catalog) = self.load() {
            return Ok(catalog);
        }
        self.entries.clear();
        // A few at a time would be quicker; it is rare.
        for entry in all {
            self.entries.push(entry);
            if self.load().is_err() {
                self.entries.pop();
            }
        }
        let presets = std::mem::take(&mut self.presets);
        for preset in presets {
            self.presets.push(preset);
            if self.load().is_err() {
                self.presets.pop();
            }
        }
        self.load()
    }

    /// A destination that nothing is allowed at is not named: what was left out leaves no trace.
    fn drop_unused(&mut self) {
        let entries = self.entries.iter().map(|e| e.destination.as_str());
        let presets = self.presets.iter().map(|p| p.destination.as_str());
        let used: BTreeSet<&str> = entries.chain(presets).collect();
        self.destinations
            .retain(|d| used.contains(d.value.name.as_str()));
    }

    fn load(&self) -> Result<Catalog, CliError> {
        let json =
            serde_json::to_vec(&self.document()).map_err(|e| CliError::Output(e.to_string()))?;
        Catalog::from_json(&json)
            .map_err(|e| CliError::Argument(format!("the suggested catalog does not load: {e}")))
    }

    /// The catalog's document.
    pub fn document(&self) -> Document {
        Document {
            version: 1,
            name: self.name.clone(),
            detectors: self.detectors.clone(),
            destinations: self.destinations.iter().map(|d| d.value.clone()).collect(),
            entries: self.entries.clone(),
            presets: self.presets.clone(),
        }
    }

    /// One rule for each agent and capability.
    fn add_rules(&mut self, seen: &[Seen], catalog: &Catalog) {
        let out: BTreeSet<usize> = self.left_out.iter().map(|out| out.at).collect();
        let mut found: BTreeMap<(String, String), Measured> = BTreeMap::new();
        for (at, action) in seen.iter().enumerate().filter(|(at, _)| !out.contains(at)) {
            let named = match replay::name(action, catalog) {
                Ok(named) => named,
                Err(_) => {
                    self.leave(
                        at,
                        action,
                        "its entry would contradict another: add it by hand",
                    );
                    continue;
                }
            };
            let amount = match replay::amount(action, named.amount.as_ref()) {
                Ok(amount) => amount,
                Err(why) => {
                    self.leave(at, action, why);
                    continue;
                }
            };
            let key = (action.agent.clone(), named.capability.clone());
            found.entry(key).or_default().add(action, &named, amount);
        }
        let mut taken = Taken::default();
        for ((agent, capability), measured) in found {
            let account = agent.rsplit('/').next().unwrap_or_default();
            let name = format!("{}-{}", words(account, 60), words(&capability, 100));
            let name = taken.unique(&name, 200);
            self.rules
                .push(measured.rule(name, agent, capability, self.scale));
        }
    }
}

/// Whether a policy can allow an action, and may.
fn eligible(seen: &Seen) -> Result<(), String> {
    let reason = seen.reason.as_deref().unwrap_or_default();
    let agent = seen.agent.strip_prefix("spiffe://").unwrap_or_default();
    if agent.is_empty() || seen.agent.len() > 512 || seen.agent.chars().any(char::is_control) {
        return Err("its agent has no SPIFFE ID".to_owned());
    }
    if seen.decision == "allow" {
        return Ok(());
    }
    match reason {
        "denied-by-rule" => Err("a rule denies it by name, and is not undone here".to_owned()),
        "approval-required" | "approval-invalid" => {
            Err("a person must approve it, and is not passed over here".to_owned())
        }
        _ if is_of_the_body(reason) => Err(format!(
            "it was refused for its content ({reason}), which was not recorded"
        )),
        _ if !is_of_the_policy(reason) => Err(format!(
            "it was refused for {reason}, which no policy changes"
        )),
        _ => Ok(()),
    }
}
