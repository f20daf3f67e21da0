//! `writ doctor`: what is wrong, and what to do about it.

mod chain;
mod cluster;
mod finding;
mod gather;
mod identity;
mod pod;
mod webhook;

use std::process::ExitCode;

use clap::Args as ClapArgs;

use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::output::{Format, emit};
pub use cluster::outdated;
use finding::{Level, Report};
pub use gather::{Facts, Looked, gather};

const EXAMPLES: &str = "Examples:
  writ doctor                        the cluster: identity, webhook, chain, policy, clock
  writ doctor buyer-7d4f -n shop     that, and one pod: redirect, sidecar, its policy
  kubectl writ doctor -o json | jq '.findings[] | select(.level == \"fail\")'

What you may not read is a warning that names the missing right; nothing is changed.
Exit code 1 when something is wrong, 2 when it cannot be looked at.

Needs: get and list, all over the cluster, of what it looks at: customresourcedefinitions, csidrivers,
clusterspiffeids.spire.spiffe.io, mutating- and validatingwebhookconfigurations, validatingadmissionpolicies
and their bindings, chains.writ.dev, agentpolicies.writ.dev, namespaces, pods; in
the namespaces of agents configmaps; in writ-system deployments, leases, endpointslices. For a POD also events
and, to ask its sidecar, get pods/proxy.";

/// Find out what is wrong, and what to do about it.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A pod of an agent.
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// Namespace of Writ's own pods.
    #[arg(long, value_name = "NAME", default_value = "writ-system")]
    system_namespace: String,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let cluster = args.cluster.connect().await?;
    let facts = gather(&cluster, &args.system_namespace, args.pod.as_deref()).await?;
    let report = examine(&facts);
    emit(args.output, &report, Report::text)?;
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything that can be said of what was seen.
fn examine(facts: &Facts) -> Report {
    let mut findings = Vec::new();
    cluster::check(facts, &mut findings);
    identity::check(facts, &mut findings);
    webhook::check(facts, &mut findings);
    chain::check(facts, &mut findings);
    if let Some(pod) = &facts.pod {
        pod::check(pod, facts, &mut findings);
    }
    Report { findings }
}
