//! `writ uninstall`: takes Writ out without leaving agents silently open.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use tokio::time::Instant;
use writ_api::{AgentPolicy, INJECT};

use crate::ask::Consent;
use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::helm::Helm;
use crate::output::{Format, emit};
use crate::progress::note;
use crate::status::{Facts, Survey, gather, survey};

const EXAMPLES: &str = "Examples:
  writ uninstall                     refused while agents run, and says which
  writ uninstall --force --yes       takes it out all the same, in an order that closes before it opens

The order: every AgentPolicy is deleted first, which pauses it on chain, so that agents that still run are
refused everything; then the chart is uninstalled. The admission policies stay, so that nothing that is opted
in comes up without a sidecar. The last words say what is left, and how to take that out too.";

/// How often what is being deleted is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Most agents that are listed.
const LISTED: usize = 20;

/// Take Writ out without leaving agents silently open.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the release.
    #[arg(long, value_name = "NAME", default_value = "writ")]
    release: String,
    /// Namespace of Writ's own pods.
    #[arg(long, value_name = "NAME", default_value = "writ-system")]
    system_namespace: String,
    /// Although agents run.
    #[arg(long)]
    force: bool,
    /// How long to wait until the policies are paused on chain.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2m")]
    timeout: Duration,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let cluster = args.cluster.connect().await?;
    let facts = gather(&cluster, None).await?;
    let opted_in = opted_in(&facts);
    let survey = survey(&facts);
    note(&leaves(&survey, &opted_in, facts.policies.len()));
    if !survey.agents.is_empty() && !args.force {
        return Err(CliError::Argument(format!(
            "{} agents run, so nothing is uninstalled\n  take them down first (kubectl scale, kubectl delete), or add \
             --force: they are then refused everything until they end",
            survey.agents.len()
        )));
    }
    let words = [
        "uninstall",
        args.release.as_str(),
        "--namespace",
        args.system_namespace.as_str(),
        "--wait",
    ];
    let mut helm = Helm::new(&words, &args.cluster);
    if args.force {
        // Its hook would refuse for the reason that was passed over above.
        helm = helm.with(["--no-hooks".to_owned()]);
    }
    Consent::of(args.yes).to(&format!(
        "Delete {} AgentPolicies, then run `{}`?",
        facts.policies.len(),
        helm.line()
    ))?;
    close(&cluster, &facts.policies, args.timeout).await?;
    helm.run().await?;
    emit(Format::Text, &(), |()| {
        last_words(&opted_in, &args.system_namespace)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn opted_in(facts: &Facts) -> Vec<String> {
    facts
        .namespaces
        .iter()
        .filter(|n: &&Namespace| n.labels().contains_key(INJECT))
        .map(ResourceExt::name_any)
        .collect()
}

/// What there is that depends on Writ.
fn leaves(survey: &Survey, opted_in: &[String], policies: usize) -> String {
    let mut text = format!(
        "{} agents run, {policies} AgentPolicies, {} namespaces opted in",
        survey.agents.len(),
        opted_in.len()
    );
    for agent in survey.agents.iter().take(LISTED) {
        let policy = agent.policy.as_deref().unwrap_or("no AgentPolicy");
        text.push_str(&format!("\n  {}/{} ({policy})", agent.namespace, agent.pod));
    }
    if survey.agents.len() > LISTED {
        text.push_str(&format!("\n  and {} more", survey.agents.len() - LISTED));
    }
    for namespace in opted_in {
        text.push_str(&format!("\n  namespace {namespace}: opted in"));
    }
    text
}

/// Deletes the policies, and waits until the operator has paused each of them on chain.
async fn close(
    cluster: &Cluster,
    policies: &[AgentPolicy],
    timeout: Duration,
) -> Result<(), CliError> {
    for policy in policies {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        cluster.delete::<AgentPolicy>(&namespace, &name).await?;
        note(&format!("AgentPolicy {namespace}/{name} is being deleted"));
    }
    let until = Instant::now().checked_add(timeout);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let left: Vec<AgentPolicy> = cluster.list(None).await?;
        let Some(waits) = left.first() else {
            return Ok(());
        };
        if until.is_some_and(|until| Instant::now() >= until) {
            let place = format!(
                "{}/{}",
                waits.namespace().unwrap_or_default(),
                waits.name_any()
            );
            return Err(CliError::Cluster {
                what: format!(
                    "{} AgentPolicies are not paused on chain yet, among them {place}: nothing more is uninstalled",
                    left.len()
                ),
                fix: format!(
                    "see kubectl describe agentpolicy {} -n {}; without the guardian's key the owners pause it (writ chain \
                     pause); then run this again",
                    waits.name_any(),
                    waits.namespace().unwrap_or_default()
                ),
            });
        }
        looks.tick().await;
    }
}

fn last_words(opted_in: &[String], system: &str) -> String {
    let mut text = "Writ is uninstalled. What stays, so that nothing comes up unprotected unseen:
  - the admission policies writ-*: opted-in pods are refused, since nothing gives them a sidecar
  - the definitions (CRDs), and what of their objects you keep
"
    .to_owned();
    if !opted_in.is_empty() {
        text.push_str("To let these namespaces' pods run WITHOUT protection, say so for each:\n");
        for namespace in opted_in {
            text.push_str(&format!(
                "  kubectl label namespace {namespace} {INJECT}-\n"
            ));
        }
    }
    text.push_str(&format!(
        "To take out the rest:
  kubectl delete validatingadmissionpolicybindings,validatingadmissionpolicies -l app.kubernetes.io/part-of=writ
  kubectl delete crd agentpolicies.writ.dev agentrevocations.writ.dev chains.writ.dev
  kubectl delete namespace {system}      with its Secrets writ-salts-*, without which nobody can say whose hashes
                                            stand on chain
"
    ));
    text
}
