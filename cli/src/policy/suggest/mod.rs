//! `writ policy suggest`: a first policy from what Observe saw.

mod draft;
mod measured;
mod names;
mod paths;
mod place;
mod want;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde::Serialize;
use writ_api::AgentPolicySpec;

use super::engine::Engine;
use super::replay::{Outcome, again};
use super::seen::{Seen, Source};
use super::simulate::describe;
use super::source::{Deployed, Written};
use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::output::{Format, emit};
use crate::progress::note;
use draft::{Draft, Grain};

const EXAMPLES: &str = "Examples:
  writ policy suggest buyers -n shop > suggested.yaml     from what the agents of shop/buyers did so far
  writ policy suggest --seen actions.json --namespace shop --name buyers
  writ policy suggest --log /var/lib/writ --base policy.yaml

What is suggested allows requests like those seen and no others: these agents, hosts, methods, paths, tools
and data classes, and amounts up to the largest seen, rounded up, where an entry reads them. What cannot or
should not be allowed by a policy stays out, and is listed in the comments. Read it before you apply it: agents
may have done what they should not. It is then compared with new actions by
`writ policy simulate --policy suggested.yaml --of buyers -n shop`.

Needs, for a policy of the cluster: get agentpolicies.writ.dev, configmaps and chains.writ.dev.";

/// Most distinct actions that a policy is made of; the operator keeps 1,000.
const MOST: usize = 10_000;

/// Write a first policy from what Observe saw.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// AgentPolicy of the cluster whose agents were observed.
    #[arg(value_name = "POLICY", conflicts_with = "base")]
    policy: Option<String>,
    /// AgentPolicy whose catalog already names some of it, YAML file. Default: POLICY.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Name of the suggested AgentPolicy. Default: POLICY, else `suggested`.
    #[arg(long)]
    name: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is suggested.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// The AgentPolicy, with comments.
    pub yaml: String,
    /// Distinct actions that it allows.
    pub allowed: usize,
    pub left_out: Vec<LeftOut>,
}

/// An action that is not allowed by what is suggested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub agent: String,
    pub action: String,
    pub why: String,
    pub count: u64,
    #[serde(skip)]
    pub at: usize,
}

/// How the suggested object is called, and what it starts from.
#[derive(Debug, Default)]
pub struct Frame<'a> {
    pub name: String,
    pub namespace: Option<String>,
    pub source: String,
    pub base: Option<&'a Written>,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (source, seen) = args
        .source
        .read(args.policy.as_deref(), &args.cluster)
        .await?;
    let mut namespace = args.cluster.named().map(str::to_owned);
    let base = match (&args.base, &args.policy) {
        (Some(file), _) => Some(Written::from_file(file)?),
        (None, Some(policy)) => {
            let cluster = args.cluster.connect().await?;
            namespace = Some(cluster.namespace().to_owned());
            let deployed = Deployed::read(&cluster, cluster.namespace(), policy).await?;
            let base = Written::of(&deployed.policy);
            if let Err(error) = &base {
                note(&format!("started from nothing: {error}"));
            }
            base.ok()
        }
        (None, None) => None,
    };
    let name = args.name.clone().or(args.policy.clone());
    let suggestion = suggest(
        &seen,
        &Frame {
            name: name.unwrap_or_else(|| "suggested".to_owned()),
            namespace,
            source,
            base: base.as_ref(),
        },
    )?;
    emit(args.output, &suggestion, |s| s.yaml.clone())?;
    note(&format!(
        "{} of {} distinct actions are allowed by it{}",
        suggestion.allowed,
        seen.len(),
        if suggestion.left_out.is_empty() {
            ""
        } else {
            "; the rest is listed in its comments"
        }
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes the policy and decides everything again under it: what it says it allows, it allows.
pub fn suggest(seen: &[Seen], frame: &Frame<'_>) -> Result<Suggestion, CliError> {
    if seen.len() > MOST {
        return Err(CliError::Argument(format!(
            "{} distinct actions, at most {MOST} make one policy: split them by agent (--seen)",
            seen.len()
        )));
    }
    let mut draft = Draft::of(seen, frame.base, Grain::Action)?;
    if !draft.fits() {
        draft = Draft::of(seen, frame.base, Grain::Destination)?;
    }
    let mut left_out = std::mem::take(&mut draft.left_out);
    let known: BTreeSet<usize> = left_out.iter().map(|out| out.at).collect();
    // What the draft could not foresee is found by asking it.
    let yaml = write::policy(&draft, frame, &left_out);
    let written = parse(&yaml, &frame.name)?;
    let engine = Engine::local(&written)?;
    for (at, action) in seen.iter().enumerate() {
        if known.contains(&at) {
            continue;
        }
        let why = match again(action, &written, &engine, 0)? {
            Outcome::Decided {
                decision: "allow", ..
            } => continue,
            Outcome::Decided { reason, .. } => format!("it would be denied: {reason}"),
            Outcome::Unknown(why) => why,
        };
        left_out.push(LeftOut::of(at, action, why));
    }
    left_out.sort_by_key(|out| out.at);
    Ok(Suggestion {
        yaml: write::policy(&draft, frame, &left_out),
        allowed: seen.len() - left_out.len(),
        left_out,
    })
}

fn parse(yaml: &str, name: &str) -> Result<Written, CliError> {
    let policy: writ_api::AgentPolicy = serde_saphyr::from_str(yaml).map_err(|e| {
        CliError::Argument(format!("the suggestion for {name} is no AgentPolicy: {e}"))
    })?;
    Written::of(&policy)
}

impl LeftOut {
    fn of(at: usize, seen: &Seen, why: impl Into<String>) -> Self {
        Self {
            agent: seen.agent.clone(),
            action: describe(seen),
            why: why.into(),
            count: seen.count,
            at,
        }
    }
}

/// What of an AgentPolicy is not about rules and catalog, as it was or as it starts.
fn rest(frame: &Frame<'_>) -> AgentPolicySpec {
    let mut spec = frame
        .base
        .and_then(|base| base.spec.clone())
        .unwrap_or_else(|| AgentPolicySpec {
            chain: "default".to_owned(),
            ..empty()
        });
    spec.mode = writ_api::Mode::Enforce;
    spec.rules = None;
    spec.catalog = None;
    spec.policy_ref = None;
    spec
}

fn empty() -> AgentPolicySpec {
    AgentPolicySpec {
        selector: Default::default(),
        service_accounts: Vec::new(),
        chain: String::new(),
        rules: None,
        policy_ref: None,
        catalog: None,
        mode: Default::default(),
        model: None,
        inbound: Vec::new(),
        callers: Default::default(),
        disclose_to: Vec::new(),
        pod_local_ports: Vec::new(),
        tls: Default::default(),
        staleness: Default::default(),
        record: Default::default(),
    }
}
