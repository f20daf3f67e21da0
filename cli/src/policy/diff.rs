//! `writ policy diff`: what differs between two policies, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::Value;

use super::engine::{Engine, effect};
use super::source::{Deployed, Written};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::output::{Format, emit, one_line};
use writ_policy::rules::{CompiledRule, conditions};

const EXAMPLES: &str = "Examples:
  writ policy diff old.yaml new.yaml
  writ policy diff buyers new.yaml -n shop        the AgentPolicy of the cluster against a file
  kubectl get agentpolicy buyers -n shop -o yaml | writ policy diff - new.yaml

OLD and NEW are files with an AgentPolicy, `-` for standard input, or names of AgentPolicies of the cluster.
Rules are compared by what they say of each agent and capability, not by how they are written.
Exit code 1 when they differ, 2 when they cannot be compared.";

/// Say in words what differs between two policies; exit 1 when they differ.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The policy as it is.
    old: String,
    /// The policy as it would be.
    new: String,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What differs.
#[derive(Debug, Default, Serialize)]
pub struct Differences {
    /// What agents may do.
    pub rules: Vec<Difference>,
    /// What requests are called and where they may go.
    pub catalog: Vec<Difference>,
    /// The rest of the AgentPolicy.
    pub settings: Vec<Difference>,
}

/// One difference.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    pub what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl Differences {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        !(self.rules.is_empty() && self.catalog.is_empty() && self.settings.is_empty())
    }
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    if args.old == "-" && args.new == "-" {
        return Err(CliError::Argument(
            "standard input can be one of the two".to_owned(),
        ));
    }
    let old = read(&args.old, &args.cluster).await?;
    let new = read(&args.new, &args.cluster).await?;
    let differences = differences(&old, &new)?;
    emit(args.output, &differences, |d| {
        text(d, &old.title, &new.title)
    })?;
    Ok(if differences.any() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn read(which: &str, cluster: &ClusterArgs) -> Result<Written, CliError> {
    let file = Path::new(which);
    let is_file = which == "-"
        || which.contains('/')
        || file
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    if is_file || file.exists() {
        return Written::from_file(file);
    }
    let cluster = cluster.connect().await?;
    let deployed = Deployed::read(&cluster, cluster.namespace(), which).await?;
    Written::of(&deployed.policy)
}

/// Compares two policies.
pub fn differences(old: &Written, new: &Written) -> Result<Differences, CliError> {
    let catalog = |written: &Written| serde_json::to_value(written.catalog.document());
    let json = |e: serde_json::Error| CliError::Output(e.to_string());
    let (a, b) = (catalog(old).map_err(json)?, catalog(new).map_err(json)?);
    let mut differences = Differences {
        rules: rules(&Engine::local(old)?, &Engine::local(new)?),
        ..Differences::default()
    };
    let named = |list: &Value| -> BTreeMap<String, Value> {
        let items = list.as_array().into_iter().flatten();
        items
            .map(|item| {
                let name = item.get("name").and_then(Value::as_str);
                let key = name.map_or_else(|| preset(item), str::to_owned);
                (key, item.clone())
            })
            .collect()
    };
    let empty = Value::Array(Vec::new());
    for (field, kind) in [
        ("destinations", "destination"),
        ("entries", "entry"),
        ("presets", "preset"),
    ] {
        let side = |value: &Value| named(value.get(field).unwrap_or(&empty));
        compare(kind, &side(&a), &side(&b), &mut differences.catalog);
    }
    let others: [&str; 3] = ["destinations", "entries", "presets"];
    compare_fields(
        "catalog",
        &without(&a, &others),
        &without(&b, &others),
        &mut differences.catalog,
    );
    if let (Some(old), Some(new)) = (&old.spec, &new.spec) {
        let rest = |spec| serde_json::to_value(spec).map(|v| without(&v, &["rules", "catalog"]));
        compare_fields(
            "policy",
            &rest(old).map_err(json)?,
            &rest(new).map_err(json)?,
            &mut differences.settings,
        );
    }
    Ok(differences)
}

fn preset(item: &Value) -> String {
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    format!(
        "{} at {}{}",
        text("preset"),
        text("destination"),
        text("path")
    )
}

fn without(value: &Value, fields: &[&str]) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
    value
}

/// What each agent may do with each capability, before and after.
fn rules(old: &Engine, new: &Engine) -> Vec<Difference> {
    let says = |engine: &Engine| -> BTreeMap<(String, String), (String, Vec<String>)> {
        let all = engine.compiled.rules.iter();
        all.map(|rule| {
            let mut words = vec![effect(rule).to_owned()];
            words.extend(conditions(rule, &engine.compiled));
            (key(rule), (rule.name.clone(), words))
        })
        .collect()
    };
    let (before, after) = (says(old), says(new));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut all = Vec::new();
    for key in keys {
        let (agent, capability) = key;
        let what = format!("{agent}: {capability}");
        match (before.get(key), after.get(key)) {
            (Some((_, old)), Some((_, new))) if old != new => {
                let gone = old
                    .iter()
                    .filter(|w| !new.contains(w))
                    .map(|w| format!("- {w}"));
                let come = new
                    .iter()
                    .filter(|w| !old.contains(w))
                    .map(|w| format!("+ {w}"));
                all.push(Difference {
                    change: "changed",
                    what,
                    details: gone.chain(come).collect(),
                });
            }
            (None, Some((name, new))) => all.push(Difference {
                change: "added",
                what,
                details: vec![format!("{} (rule {name})", new.join(", "))],
            }),
            (Some((name, old)), None) => all.push(Difference {
                change: "removed",
                what,
                details: vec![
                    format!("{} (rule {name})", old.join(", ")),
                    "what no rule allows is denied".to_owned(),
                ],
            }),
            _ => {}
        }
    }
    all
}

fn key(rule: &CompiledRule) -> (String, String) {
    let agent = if rule.agent == "any" {
        "any agent"
    } else {
        rule.agent.as_str()
    };
    (agent.to_owned(), rule.capability.clone())
}

fn compare(
    kind: &str,
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
    into: &mut Vec<Difference>,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let what = format!("{kind} {name}");
        match (old.get(name), new.get(name)) {
            (None, Some(item)) => into.push(whole("added", what, item)),
            (Some(item), None) => into.push(whole("removed", what, item)),
            (Some(a), Some(b)) => compare_fields(&what, a, b, into),
            (None, None) => {}
        }
    }
}

fn whole(change: &'static str, what: String, item: &Value) -> Difference {
    let fields = item.as_object().into_iter().flatten();
    let words: Vec<String> = fields
        .filter(|(name, value)| *name != "name" && !is_empty(value))
        .map(|(name, value)| format!("{name} {}", short(value)))
        .collect();
    Difference {
        change,
        what,
        details: vec![words.join(", ")],
    }
}

/// Members that differ, an object's by their own names.
fn compare_fields(what: &str, old: &Value, new: &Value, into: &mut Vec<Difference>) {
    let mut details = Vec::new();
    fields("", old, new, &mut details);
    if !details.is_empty() {
        into.push(Difference {
            change: "changed",
            what: what.to_owned(),
            details,
        });
    }
}

fn fields(path: &str, old: &Value, new: &Value, details: &mut Vec<String>) {
    if old == new {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (old, new) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let side = |object: &serde_json::Map<String, Value>| {
                object.get(name).cloned().unwrap_or(Value::Null)
            };
            fields(&path, &side(a), &side(b), details);
        }
        return;
    }
    details.push(format!("{path}: {} -> {}", short(old), short(new)));
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    }
}

/// A value in a line. Certificates and the like are cut.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= 120 {
        return text;
    }
    let cut: String = text.chars().take(117).collect();
    format!("{cut}...")
}

fn text(differences: &Differences, old: &str, new: &str) -> String {
    if !differences.any() {
        return format!("{old} and {new} say the same\n");
    }
    let mut text = format!("{old} -> {new}\n");
    for (title, all) in [
        ("rules", &differences.rules),
        ("catalog", &differences.catalog),
        ("settings", &differences.settings),
    ] {
        if all.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title}\n"));
        for difference in all {
            text.push_str(&format!(
                "  {:<8} {}\n",
                difference.change,
                one_line(&difference.what)
            ));
            for detail in &difference.details {
                text.push_str(&format!("             {}\n", one_line(detail)));
            }
        }
    }
    text
}
