//! The suggested AgentPolicy as YAML with comments. No I/O.
//!
//! Texts are quoted unless every YAML reader, of whatever version, takes them for texts.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use writ_catalog::AgentTls;

use super::draft::{Draft, Grain};
use super::{Frame, LeftOut, rest};
use crate::output::is_deceptive;

/// Longest comment line, in characters.
const WIDTH: usize = 110;
/// Most left-out actions that are listed.
const LISTED: usize = 50;

/// Writes it.
pub fn policy(draft: &Draft, frame: &Frame<'_>, left_out: &[LeftOut]) -> String {
    let mut out = Out(String::new());
    head(&mut out, draft, frame, left_out);
    out.line(0, "apiVersion: writ.dev/v1alpha1");
    out.line(0, "kind: AgentPolicy");
    out.line(0, "metadata:");
    out.line(1, &format!("name: {}", scalar(&frame.name)));
    if let Some(namespace) = &frame.namespace {
        out.line(1, &format!("namespace: {}", scalar(namespace)));
    }
    out.line(0, "spec:");
    out.line(
        1,
        "# Observe lets through what is denied: with it, nothing here is protected.",
    );
    out.line(1, "mode: Enforce");
    settings(&mut out, draft, frame);
    catalog(&mut out, draft);
    rules(&mut out, draft);
    out.0
}

fn head(out: &mut Out, draft: &Draft, frame: &Frame<'_>, left_out: &[LeftOut]) {
    out.comment(0, &format!(
        "Suggested by `writ policy suggest` from what {} saw. It allows requests like these, and no others.",
        frame.source
    ));
    out.comment(
        0,
        "Read it before you apply it: agents may have done what they should not.",
    );
    out.comment(
        0,
        "Nobody recorded bodies: any body goes, but for what an entry reads of it (amount, require).",
    );
    if draft.grain == Grain::Destination {
        out.comment(
            0,
            "Too many actions for a rule each: one rule covers all reading, or all writing, of a destination. The \
             catalog still names each path.",
        );
    }
    if left_out.is_empty() {
        return;
    }
    out.line(0, "#");
    out.comment(0, "Left out:");
    for action in left_out.iter().take(LISTED) {
        let account = action.agent.rsplit('/').next().unwrap_or_default();
        out.comment(
            0,
            &format!(
                "- {account}: {} ({} times): {}",
                action.action, action.count, action.why
            ),
        );
    }
    if left_out.len() > LISTED {
        out.comment(0, &format!("- and {} more", left_out.len() - LISTED));
    }
}

fn settings(out: &mut Out, draft: &Draft, frame: &Frame<'_>) {
    let mut spec = rest(frame);
    if draft
        .destinations
        .iter()
        .any(|d| d.value.agent_tls == AgentTls::Intercept)
    {
        spec.tls.intercept = true;
    }
    if let Some(namespace) = &frame.namespace {
        let within = format!("/ns/{namespace}/sa/");
        let accounts: BTreeSet<&str> = draft
            .rules
            .iter()
            .filter_map(|rule| Some(rule.value.agent.split_once(&within)?.1))
            .filter(|account| !account.contains('/'))
            .take(64)
            .collect();
        let all: BTreeSet<String> = accounts
            .into_iter()
            .map(str::to_owned)
            .chain(spec.service_accounts.iter().cloned())
            .collect();
        spec.service_accounts = all.into_iter().take(64).collect();
    }
    let Ok(Value::Object(fields)) = serde_json::to_value(&spec) else {
        return;
    };
    for (name, value) in fields.iter().filter(|(name, _)| *name != "mode") {
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        match (name.as_str(), is_empty) {
            ("selector", true) => {
                out.line(
                    1,
                    "# Every pod of the namespace; matchLabels chooses fewer.",
                );
                out.line(1, "selector: {}");
            }
            (_, true) => {}
            _ => out.field(1, name, value),
        }
    }
}

fn catalog(out: &mut Out, draft: &Draft) {
    out.line(
        1,
        "# What requests are called, and where they may go: docs/catalog.md.",
    );
    out.line(1, "catalog:");
    out.line(2, "version: 1");
    out.line(2, &format!("name: {}", scalar(&draft.name)));
    if let Some(detectors) = &draft.detectors {
        out.field(2, "detectors", &json(detectors));
    }
    out.list(
        2,
        "destinations",
        draft
            .destinations
            .iter()
            .map(|d| (&d.value, d.comments.as_slice())),
    );
    // Both are said where they are empty, too: `kubectl apply` leaves in place what is not said.
    if draft.entries.is_empty() {
        out.line(2, "entries: []");
    } else {
        let entries = draft.entries.iter().map(|e| (e, [].as_slice()));
        out.list(2, "entries", entries);
    }
    if draft.presets.is_empty() {
        out.line(2, "presets: []");
    } else {
        let presets = draft.presets.iter().map(|p| (p, [].as_slice()));
        out.list(2, "presets", presets);
    }
}

fn rules(out: &mut Out, draft: &Draft) {
    out.line(
        1,
        "# What agents may do; what no rule allows is denied: docs/rules.md.",
    );
    out.line(1, "rules:");
    out.line(2, "version: 1");
    out.line(2, &format!("scale: {}", draft.scale));
    if let Some(unit) = &draft.unit {
        out.line(2, &format!("unit: {}", scalar(unit)));
    }
    out.list(
        2,
        "rules",
        draft
            .rules
            .iter()
            .map(|r| (&r.value, r.comments.as_slice())),
    );
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

struct Out(String);

impl Out {
    fn line(&mut self, depth: usize, text: &str) {
        self.0.push_str(&"  ".repeat(depth));
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A comment. Control characters of what was seen do not end it.
    fn comment(&mut self, depth: usize, text: &str) {
        let clean: String = text
            .chars()
            .map(|c| if is_deceptive(c) { ' ' } else { c })
            .collect();
        let mut line = String::new();
        for word in clean.split(' ') {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
                self.line(depth, &format!("# {line}"));
                line = "  ".to_owned();
            }
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(depth, format!("# {line}").trim_end());
    }

    fn field(&mut self, depth: usize, name: &str, value: &Value) {
        self.line(depth, &format!("{name}: {}", flow(value)));
    }

    fn list<'i, T: Serialize + 'i>(
        &mut self,
        depth: usize,
        name: &str,
        items: impl Iterator<Item = (&'i T, &'i [String])>,
    ) {
        let items: Vec<_> = items.collect();
        if items.is_empty() {
            self.line(depth, &format!("{name}: []"));
            return;
        }
        self.line(depth, &format!("{name}:"));
        for (item, comments) in items {
            for comment in comments {
                self.comment(depth, comment);
            }
            let Value::Object(fields) = json(item) else {
                continue;
            };
            let mut first = true;
            for (name, value) in ordered(&fields) {
                let start = if first { "- " } else { "  " };
                first = false;
                self.line(depth, &format!("{start}{name}: {}", flow(value)));
            }
        }
    }
}

/// The name first, then as they stand.
fn ordered(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let zero =
        |name: &str, value: &Value| matches!(name, "window" | "risk") && value.as_u64() == Some(0);
    let kept = fields
        .iter()
        .filter(|(name, value)| !zero(name, value) && !value.is_null());
    let (mut first, rest): (Vec<_>, Vec<_>) = kept.partition(|(name, _)| *name == "name");
    first.extend(rest);
    first
}

/// A value in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", scalar(name), flow(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text: plain where no reader takes it for something else, else in double quotes.
fn scalar(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let starts = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
    );
    if starts && !word && text.bytes().all(plain) {
        return text.to_owned();
    }
    quoted(text)
}

/// JSON's quotes are YAML's, but for characters that YAML takes for line breaks or not at all.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (' '..='~').contains(&c) => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
