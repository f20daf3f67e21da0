//! `writ policy simulate`: recorded decisions under another policy.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::engine::Engine;
use super::local::class_name;
use super::replay::{Outcome, again};
use super::seen::{Seen, Source};
use super::source::{Which, Written};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::output::{Format, emit, one_line};

const EXAMPLES: &str = "Examples:
  writ policy simulate --of buyers -n shop --policy new.yaml    what the edit in new.yaml would change
  writ policy simulate buyers --log /var/lib/writ                a sidecar's record under the cluster's policy
  writ policy simulate --policy new.yaml --seen actions.json --fail-on denial

Actions are read from what the sidecars of an AgentPolicy reported (--of, ConfigMap writ-seen-POLICY), from a
file of the same form (--seen), or from a sidecar's record (--log). The contract's own code decides again.
A record holds no bodies: classes are not lowered below the recorded one, amounts are the recorded ones, and
totals of budgets are those of a record, else none.

Exit code 0, or 1 as --fail-on says; 2 when nothing can be told.
Needs, with --of: get configmaps; with POLICY: get agentpolicies.writ.dev, configmaps and chains.writ.dev.";

/// Most examples of one kind of change.
const EXAMPLES_SHOWN: usize = 5;

/// Decide recorded actions again under another policy: what would change.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// AgentPolicy of the cluster whose agents' actions are decided again. Default: POLICY.
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["seen", "log"])]
    of: Option<String>,
    /// When the exit code is 1.
    #[arg(long, value_enum, default_value = "never")]
    fail_on: FailOn,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Never.
    Never,
    /// Something that was allowed would be denied.
    Denial,
    /// Any decision would change.
    Change,
}

/// What would change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub policy: String,
    pub source: String,
    /// Distinct actions, and how often they were decided.
    pub seen: Count,
    pub now_denied: Group,
    pub now_allowed: Group,
    pub still_denied: Group,
    pub still_allowed: Count,
    pub unknown: Group,
}

/// Distinct actions, and how often they were decided.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    pub actions: u64,
    pub decisions: u64,
}

impl Count {
    fn add(&mut self, seen: &Seen) {
        self.actions += 1;
        self.decisions = self.decisions.saturating_add(seen.count);
    }
}

/// Actions with the same fate.
#[derive(Debug, Default, Serialize)]
pub struct Group {
    #[serde(flatten)]
    pub count: Count,
    /// Some of them, the most frequent first.
    pub examples: Vec<Example>,
}

impl Group {
    fn add(&mut self, seen: &Seen, why: String, rule: Option<String>) {
        self.count.add(seen);
        self.examples.push(Example {
            agent: seen.agent.clone(),
            action: describe(seen),
            capability: seen.capability.clone(),
            why,
            rule,
            count: seen.count,
        });
    }

    fn cut(&mut self) {
        self.examples
            .sort_by(|a, b| (b.count, &a.action).cmp(&(a.count, &b.action)));
        self.examples.truncate(EXAMPLES_SHOWN);
    }
}

/// One action.
#[derive(Debug, Serialize)]
pub struct Example {
    pub agent: String,
    pub action: String,
    pub capability: String,
    pub why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub count: u64,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (written, deployed) = args.which.read(&args.cluster).await?;
    let engine = match &deployed {
        Some(deployed) => Engine::deployed(&written, deployed)?,
        None => Engine::local(&written)?,
    };
    let of = args.of.as_deref().or(args.which.name.as_deref());
    let (source, seen) = args.source.read(of, &args.cluster).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let report = report(
        &written,
        &engine,
        source,
        &seen,
        now.map_or(0, |t| t.as_secs()),
    )?;
    emit(args.output, &report, text)?;
    let denials = report.now_denied.count.actions > 0;
    let changes = denials || report.now_allowed.count.actions > 0;
    let failed = match args.fail_on {
        FailOn::Never => false,
        FailOn::Denial => denials,
        FailOn::Change => changes,
    };
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Decides every action again.
pub fn report(
    written: &Written,
    engine: &Engine,
    source: String,
    seen: &[Seen],
    now: u64,
) -> Result<Report, CliError> {
    let mut report = Report {
        policy: written.title.clone(),
        source,
        seen: Count::default(),
        now_denied: Group::default(),
        now_allowed: Group::default(),
        still_denied: Group::default(),
        still_allowed: Count::default(),
        unknown: Group::default(),
    };
    for seen in seen {
        report.seen.add(seen);
        match again(seen, written, engine, now)? {
            Outcome::Unknown(why) => report.unknown.add(seen, why, None),
            Outcome::Decided {
                decision,
                reason,
                rule,
                ..
            } => match (seen.decision.as_str(), decision) {
                ("allow", "allow") => report.still_allowed.add(seen),
                ("allow", _) => report.now_denied.add(seen, reason, rule),
                (_, "allow") => report.now_allowed.add(seen, reason, rule),
                _ => report.still_denied.add(seen, reason, rule),
            },
        }
    }
    for group in [
        &mut report.now_denied,
        &mut report.now_allowed,
        &mut report.still_denied,
        &mut report.unknown,
    ] {
        group.cut();
    }
    Ok(report)
}

/// One action in a line.
pub fn describe(seen: &Seen) -> String {
    let mut line = match (&seen.tool, &seen.method) {
        (Some(capability), Some(method)) if method == writ_catalog::CUSTOM_ACTION => {
            format!("{method} {capability} at {}", seen.destination)
        }
        (Some(tool), _) => format!("tool {tool} at {}", seen.destination),
        (None, Some(method)) => format!("{method} {}", seen.destination),
        (None, None) => seen.destination.clone(),
    };
    line.push_str(seen.path.as_deref().unwrap_or_default());
    if let Some(amount) = &seen.amount {
        line.push_str(&format!(", {} {}", amount.value, amount.unit));
    }
    if seen.class > 0 {
        line.push_str(&format!(", {}", class_name(seen.class)));
    }
    line
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} against what {} saw: {} actions, decided {} times\n",
        report.policy, report.source, report.seen.actions, report.seen.decisions
    );
    for (title, group) in [
        ("DENIED, was allowed", &report.now_denied),
        ("ALLOWED, was denied", &report.now_allowed),
        ("denied as before", &report.still_denied),
        ("cannot be told", &report.unknown),
    ] {
        if group.count.actions == 0 {
            continue;
        }
        text.push_str(&line(title, group.count));
        for example in &group.examples {
            let rule = example
                .rule
                .as_ref()
                .map_or_else(String::new, |rule| format!(", rule {rule}"));
            let account = example.agent.rsplit('/').next().unwrap_or_default();
            text.push_str(&format!(
                "    {}: {} ({} times): {}{}\n",
                one_line(account),
                one_line(&example.action),
                example.count,
                one_line(&example.why),
                one_line(&rule)
            ));
        }
        let more = group
            .count
            .actions
            .saturating_sub(group.examples.len() as u64);
        if more > 0 {
            text.push_str(&format!("    and {more} more\n"));
        }
    }
    if report.still_allowed.actions > 0 {
        text.push_str(&line("allowed as before", report.still_allowed));
    }
    if report.now_denied.count.actions + report.now_allowed.count.actions == 0 {
        text.push_str("nothing would change\n");
    }
    text
}

fn line(title: &str, count: Count) -> String {
    format!(
        "  {title:<20} {} actions, {} decisions\n",
        count.actions, count.decisions
    )
}
