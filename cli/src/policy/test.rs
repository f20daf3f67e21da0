//! `writ policy test`: one request against a policy, decided by the contract's own code.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use clap::Args as ClapArgs;
use serde::Serialize;
use writ_api::Mode;
use writ_policy::rules::format_amount;

use super::engine::{Asked, Engine, decision};
use super::local::{class_name, units};
use super::request::{Classified, Described};
use super::source::{Deployed, Which, Written};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::output::{Format, emit, one_line};

const EXAMPLES: &str = "Examples:
  writ policy test buyers -n shop --agent buyer --url http://search.shop/q
  writ policy test buyers -n shop --agent buyer -X POST --url https://api.example/v1/pay --body '{\"amount\":\"12.50\"}'
  writ policy test --policy policy.yaml --agent spiffe://example.org/ns/shop/sa/buyer \\
      --url http://tools.shop/mcp --mcp-tool pay_invoice --mcp-arguments '{\"invoice\":\"7\"}'
  writ policy test --rules rules.yaml --catalog catalog.yaml --request request.yaml --expect deny

The contract decides, in an EVM of this program; nothing is sent to the chain or to the target.
Exit code 0 when the request is allowed, or is as --expect says; else 1; 2 when it cannot be told.

Needs, for a policy of the cluster: get agentpolicies.writ.dev, configmaps and chains.writ.dev.";

/// Ask a policy about one request: allowed or not, by which rule, and why.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Who asks: SPIFFE ID, or service account of the policy. Default: its only agent.
    #[arg(long)]
    agent: Option<String>,
    /// Amount spent in the budget's window before this, as a decimal.
    #[arg(long, default_value = "0")]
    spent: String,
    /// Calls made in the budget's window before this.
    #[arg(long, default_value_t = 0)]
    calls: u64,
    /// When it is asked, RFC 3339. Default: now.
    #[arg(long, value_parser = humantime::parse_rfc3339)]
    at: Option<SystemTime>,
    /// SHA-256 of the model that acts, hex. Default: the policy's.
    #[arg(long)]
    model: Option<B256>,
    /// Age of the chain's state, in seconds.
    #[arg(long, default_value_t = 0)]
    state_age: u32,
    /// What the answer must be.
    #[arg(long, value_enum)]
    expect: Option<Expect>,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    request: Described,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Expect {
    Allow,
    Deny,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// `allow` or `deny`.
    decision: &'static str,
    /// Stable code.
    reason: String,
    /// What it means, or what to change.
    why: String,
    agent: String,
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    /// Entries of the destination, where none matched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<String>,
    policy: String,
    /// keccak256 of the contract that was asked.
    code_hash: B256,
    /// Whether this is what the chain decides now, and what keeps it from that.
    standing: String,
}

#[derive(Debug, Serialize)]
struct Rule {
    name: String,
    says: String,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (written, deployed) = args.which.read(&args.cluster).await?;
    let engine = match &deployed {
        Some(deployed) => Engine::deployed(&written, deployed)?,
        None => Engine::local(&written)?,
    };
    let agent = agent(args.agent.as_deref(), &written, deployed.as_ref())?;
    let request = args.request.clone().read()?;
    let mut answer = Answer {
        decision: "deny",
        reason: String::new(),
        why: String::new(),
        request: request.title(),
        destination: None,
        entry: None,
        capability: None,
        class: None,
        findings: Vec::new(),
        amount: None,
        resource: None,
        rule: None,
        others: Vec::new(),
        policy: written.title.clone(),
        code_hash: engine.code_hash(),
        standing: match &deployed {
            Some(deployed) => standing(&written, deployed, &engine),
            None => "from a file".to_owned(),
        },
        agent,
    };
    match request.classify(&written.catalog)? {
        Classified::Refused {
            code,
            why,
            capability,
            entry,
            others,
        } => {
            answer.reason = code;
            answer.why = why;
            answer.capability = capability;
            answer.entry = entry;
            answer.others = others;
        }
        named => ask(&args, &written, &engine, named, &mut answer)?,
    }
    refused_by_registry(deployed.as_ref(), &mut answer);
    emit(args.output, &answer, text)?;
    let good = match args.expect {
        Some(Expect::Allow) | None => answer.decision == "allow",
        Some(Expect::Deny) => answer.decision == "deny",
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ask(
    args: &Args,
    written: &Written,
    engine: &Engine,
    named: Classified,
    answer: &mut Answer,
) -> Result<(), CliError> {
    let Classified::Named {
        destination,
        intent,
        target,
    } = named
    else {
        return Ok(());
    };
    let scale = written.rules.scale;
    let spent = units(&args.spent, scale).ok_or_else(|| {
        CliError::Argument(format!(
            "--spent {}: write a decimal with at most {scale} places",
            args.spent
        ))
    })?;
    let time = args.at.unwrap_or_else(SystemTime::now);
    let time = time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let amount = intent.amount.as_ref();
    let asked = Asked {
        capability: intent.capability.clone(),
        class: intent.class,
        risk: intent.risk,
        amount: amount.map_or_else(Default::default, |amount| amount.value),
        resource: intent.resource.clone(),
        target,
        window: intent.window,
        spent,
        calls: args.calls,
        binding: if intent.kind == writ_catalog::Kind::Opaque {
            2
        } else {
            0
        },
        params: intent.params_digest,
        approval: B256::ZERO,
        state_age: args.state_age,
        time,
        model: args.model.unwrap_or(written.model),
    };
    let ruling = engine.decide(&answer.agent, &asked)?;
    let entries = written.catalog.document().entries.iter();
    let entry = entries.into_iter().find(|e| e.name == intent.entry);
    let amount_scale = entry
        .and_then(|e| e.amount.as_ref())
        .map_or(scale, |a| a.scale);
    answer.decision = decision(ruling.effect);
    answer.why = meaning(&ruling.reason).to_owned();
    answer.destination = Some(format!(
        "{} ({}:{})",
        destination.name, destination.host, destination.port
    ));
    answer.entry = Some(intent.entry.clone());
    answer.capability = Some(intent.capability.clone());
    answer.class = Some(class_name(intent.class));
    answer.findings = intent
        .findings
        .iter()
        .map(|f| format!("{} at {}", f.rule, f.location))
        .collect();
    answer.amount = amount.map(|a| format!("{} {}", format_amount(a.value, amount_scale), a.unit));
    answer.resource = intent.resource.clone();
    answer.rule = engine.rule(&ruling).map(|rule| Rule {
        name: rule.name.clone(),
        says: engine.words(rule),
    });
    answer.reason = ruling.reason;
    Ok(())
}

/// Who asks.
fn agent(
    named: Option<&str>,
    written: &Written,
    deployed: Option<&Deployed>,
) -> Result<String, CliError> {
    let in_rules = written.rules.rules.iter().map(|rule| rule.agent.clone());
    let mut known: Vec<String> = match deployed.and_then(|d| d.policy.status.as_ref()) {
        Some(status) => status.agents.iter().map(|a| a.spiffe_id.clone()).collect(),
        None => in_rules.filter(|agent| agent != "any").collect(),
    };
    known.sort_unstable();
    known.dedup();
    match named {
        Some(id) if id.starts_with("spiffe://") => Ok(id.to_owned()),
        Some(account) => {
            let end = format!("/sa/{account}");
            known
                .iter()
                .find(|id| id.ends_with(&end))
                .cloned()
                .ok_or_else(|| {
                    CliError::Argument(format!(
                        "--agent {account}: the policy knows no such service account; it knows {}",
                        list(&known)
                    ))
                })
        }
        None => match known.as_slice() {
            [only] => Ok(only.clone()),
            // Whatever is only said of any agent is said of this one.
            [] => Ok("spiffe://example.org/ns/any/sa/any".to_owned()),
            _ => Err(CliError::Argument(format!(
                "the policy is for several agents: choose with --agent, {}",
                list(&known)
            ))),
        },
    }
}

fn list(known: &[String]) -> String {
    if known.is_empty() {
        return "none yet".to_owned();
    }
    let some: Vec<&str> = known.iter().take(5).map(String::as_str).collect();
    some.join(", ")
}

/// Whether the contract that was asked is the one that stands on chain, and whether it is in use.
fn standing(written: &Written, deployed: &Deployed, engine: &Engine) -> String {
    let status = deployed.policy.status.clone().unwrap_or_default();
    let observe = if deployed.policy.spec.mode == Mode::Observe {
        "; mode OBSERVE: what is denied happens all the same"
    } else {
        ""
    };
    let Some(force) = status.in_force else {
        return format!("NOT IN FORCE: nothing is, so everything is denied{observe}");
    };
    let version = force.version;
    if force.paused {
        return format!(
            "PAUSED: version {version} denies everything until the owners end the pause"
        );
    }
    let asked = engine.code_hash();
    if force.code_hash.parse::<B256>() == Ok(asked) {
        return format!("in force: version {version}, the same code hash{observe}");
    }
    let named = written.rules.rules.iter().map(|rule| rule.agent.as_str());
    let mut strangers = named.filter(|a| *a != "any" && !deployed.agents.contains_key(*a));
    let nobody = deployed.salt.is_none().then_some("its agents");
    if let Some(stranger) = strangers.next().or(nobody) {
        return format!(
            "version {version} is in force; whether it says the same cannot be told: no sidecar of {stranger} is \
             configured, whose salt is part of the contract{observe}"
        );
    }
    let until = status.queued.and_then(|q| q.ready_at);
    let until = until.map_or_else(String::new, |at| format!(" (queued until {at})"));
    format!(
        "NOT IN FORCE{until}: this is what is written; version {version} decides otherwise, perhaps{observe}"
    )
}

/// The registry stands before the contract.
fn refused_by_registry(deployed: Option<&Deployed>, answer: &mut Answer) {
    let Some(deployed) = deployed else { return };
    let status = deployed.policy.status.as_ref();
    let paused = status
        .and_then(|s| s.in_force.as_ref())
        .is_some_and(|f| f.paused);
    let (reason, why) = match deployed.registered(&answer.agent) {
        Some("revoked") => (
            "agent-revoked",
            "the agent is revoked: only the owners can reinstate it",
        ),
        Some("paused") => ("agent-paused", "the guardian paused the agent"),
        Some("active") if paused => ("policy-paused", "the guardian paused the policy"),
        Some("active") => return,
        _ => (
            "agent-unknown",
            "the registry does not know the agent: it has no pod yet, or its registration is on its way; --policy FILE \
             asks the rules alone",
        ),
    };
    answer.decision = "deny";
    answer.reason = reason.to_owned();
    answer.why = why.to_owned();
    answer.rule = None;
}

/// A reason of `RulePolicy` in a sentence.
pub fn meaning(reason: &str) -> &'static str {
    match reason {
        "allowed" => "every condition of the rule holds",
        "no-rule" => "no rule names this agent and capability, and what no rule allows is denied",
        "denied-by-rule" => "the rule denies it, whatever else is said",
        "class-over-ceiling" => "the data class is above the rule's max_class",
        "risk-over-ceiling" => "the risk is above the rule's max_risk",
        "binding-not-allowed" => {
            "the rule does not take bodies that are bound in this way (bindings)"
        }
        "state-too-old" => "the chain's state is older than the rule's max_state_age",
        "outside-time-window" => "it is before the rule's not_before or after its not_after",
        "model-not-allowed" => "the rule names another model",
        "amount-over-limit" => "the amount is above the rule's max_amount",
        "window-mismatch" => "the rule's budget and the catalog entry name different windows",
        "budget-spent" => "the window's budget does not cover the amount",
        "budget-calls" => "the window's calls are used up",
        "approval-required" => "a person must approve it",
        _ => "see docs/rules.md",
    }
}

fn text(answer: &Answer) -> String {
    let mut text = format!("{}  {}\n", answer.decision.to_uppercase(), answer.reason);
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<12} {}\n", one_line(&value)));
        }
    };
    row("why", Some(answer.why.clone()));
    row("agent", Some(answer.agent.clone()));
    row("request", Some(answer.request.clone()));
    row("destination", answer.destination.clone());
    row("entry", answer.entry.clone());
    row("capability", answer.capability.clone());
    row("class", answer.class.map(str::to_owned));
    row(
        "found",
        (!answer.findings.is_empty()).then(|| answer.findings.join(", ")),
    );
    row("amount", answer.amount.clone());
    row("resource", answer.resource.clone());
    row(
        "rule",
        answer
            .rule
            .as_ref()
            .map(|rule| format!("{}: {}", rule.name, rule.says)),
    );
    row(
        "entries here",
        (!answer.others.is_empty()).then(|| answer.others.join(", ")),
    );
    row(
        "policy",
        Some(format!("{}, {}", answer.policy, answer.standing)),
    );
    text
}
