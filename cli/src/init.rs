//! `writ init`: from a bare cluster to a namespace whose agents are observed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use serde_json::json;
use writ_api::{AgentPolicy, INJECT, Mode};

use crate::ask::Consent;
use crate::cluster::{Cluster, ClusterArgs};
use crate::doctor::{self, Looked};
use crate::error::CliError;
use crate::helm::{Helm, chart};
use crate::output::{Format, emit};
use crate::progress::note;

const EXAMPLES: &str = "Examples:
  writ init shop --set spire.trustDomain=example.org --set devChain.enabled=true --set spire.enabled=true
  writ init --values values.yaml --chart oci://registry.example/writ --yes
  writ init shop                     Writ is installed: observe one more namespace

Checks the prerequisites, installs the chart with helm, and opts a namespace in under an AgentPolicy in mode
Observe: everything is decided and recorded, and what is denied happens all the same. NOT PROTECTED until
mode: Enforce.
Every step is shown and asked for, and is not done twice.";

/// Install Writ, and observe a namespace.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Namespace whose pods are agents.
    #[arg(value_name = "NAMESPACE")]
    observe: Option<String>,
    /// The chart. Default: charts/writ.
    #[arg(long, env = "WRIT_CHART", value_name = "CHART")]
    chart: Option<PathBuf>,
    /// Name of the release.
    #[arg(long, value_name = "NAME", default_value = "writ")]
    release: String,
    /// Namespace of Writ's own pods.
    #[arg(long, value_name = "NAME", default_value = "writ-system")]
    system_namespace: String,
    /// Value of the chart, as helm takes it; repeat it.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Values of the chart; repeat it.
    #[arg(long, short = 'f', value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Name of the AgentPolicy.
    #[arg(long, value_name = "NAME", default_value = "agents")]
    policy: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let consent = Consent::of(args.yes);
    let cluster = args.cluster.connect().await?;
    // Before anything is installed for it.
    let named = args.observe.as_deref().or(cluster.named_namespace());
    let namespace = match named {
        Some(name) => Some(existing(&cluster, name).await?),
        None => None,
    };
    let facts = doctor::gather(&cluster, &args.system_namespace, None).await?;
    if is_installed(&facts)? {
        note("Writ is installed already: nothing is installed");
    } else {
        prerequisites(&facts, &args)?;
        install(&args, consent).await?;
    }
    let Some(namespace) = namespace else {
        emit(Format::Text, &(), |()| {
            "Writ is installed. Observe a namespace: writ init NAMESPACE. Check: writ doctor\n"
                .to_owned()
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let (policy, mode) = observe(&cluster, &namespace, &args.policy, consent).await?;
    emit(Format::Text, &(), |()| {
        next(&namespace.name_any(), &policy, mode)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn existing(cluster: &Cluster, name: &str) -> Result<Namespace, CliError> {
    cluster.get_cluster(name).await?.ok_or_else(|| {
        CliError::Argument(format!(
            "there is no namespace {name}: kubectl create namespace {name}"
        ))
    })
}

/// Where that may not be seen nothing is installed: helm would take other values for an upgrade.
fn is_installed(facts: &doctor::Facts) -> Result<bool, CliError> {
    match &facts.mutating {
        Looked::Seen(all) => Ok(all
            .iter()
            .flat_map(|c| c.webhooks.iter().flatten())
            .any(|w| w.name.ends_with(".writ.dev"))),
        Looked::Hidden { what, fix } => Err(CliError::Cluster {
            what: format!("whether Writ is installed cannot be told: {what}"),
            fix: fix.clone(),
        }),
    }
}

/// What must be there before Writ is.
fn prerequisites(facts: &doctor::Facts, args: &Args) -> Result<(), CliError> {
    let says = ["spire.enabled=true", "spire.identities.enabled=false"];
    // A file of values may say one of them.
    let otherwise = !args.values.is_empty() || args.set.iter().any(|s| says.contains(&s.as_str()));
    if !otherwise && matches!(facts.identities, Looked::Seen(None)) {
        return Err(CliError::Cluster {
            what: "there is no SPIRE with spire-controller-manager (no kind ClusterSPIFFEID), from which sidecars get \
                   their identity"
                .to_owned(),
            fix: "install SPIRE, or for development let the chart bring one: --set spire.enabled=true".to_owned(),
        });
    }
    match doctor::outdated(&facts.version) {
        None => Ok(()),
        Some((what, fix)) => Err(CliError::Cluster {
            what,
            fix: fix.to_owned(),
        }),
    }
}

async fn install(args: &Args, consent: Consent) -> Result<(), CliError> {
    let chart = chart(args.chart.as_deref())?;
    let values = args
        .values
        .iter()
        .map(|file| format!("--values={}", file.display()));
    let set = args.set.iter().map(|set| format!("--set={set}"));
    let words = [
        "upgrade",
        "--install",
        &args.release,
        &chart.display().to_string(),
        "--namespace",
        &args.system_namespace,
        "--create-namespace",
        "--wait",
    ];
    let helm = Helm::new(&words, &args.cluster).with(values.chain(set));
    consent.to(&format!("Install Writ with `{}`?", helm.line()))?;
    helm.run().await
}

/// First the policy, so that no pod comes up in between and is refused for want of one. The answer is
/// the policy that is there now, with its mode.
async fn observe(
    cluster: &Cluster,
    there: &Namespace,
    policy: &str,
    consent: Consent,
) -> Result<(String, Mode), CliError> {
    let namespace = &there.name_any();
    let policies: Vec<AgentPolicy> = cluster.list(Some(namespace)).await?;
    let mut answer = (policy.to_owned(), Mode::Observe);
    if let Some(there) = policies.first() {
        answer = (there.name_any(), there.spec.mode);
        note(&format!(
            "AgentPolicy {namespace}/{} is there already (mode {:?}): it stays as it is",
            answer.0, answer.1
        ));
    } else {
        consent.to(&format!(
            "Make AgentPolicy {namespace}/{policy} in mode Observe, for every pod of the namespace?"
        ))?;
        let object = observing(namespace, policy)?;
        cluster.create(namespace, &object).await?;
        note(&format!(
            "AgentPolicy {namespace}/{policy} is made, in mode Observe: NOT PROTECTED"
        ));
    }
    if there.labels().get(INJECT).is_some_and(|v| v == "enabled") {
        note(&format!("namespace {namespace} is opted in already"));
        return Ok(answer);
    }
    consent.to(&format!(
        "Label namespace {namespace} with {INJECT}=enabled?"
    ))?;
    let label = json!({"metadata": {"labels": {INJECT: "enabled"}}});
    cluster
        .merge_cluster::<Namespace>(namespace, &label)
        .await?;
    note(&format!(
        "namespace {namespace} is opted in: pods get a sidecar when they are made anew"
    ));
    Ok(answer)
}

/// A policy that knows nothing: everything is seen as unlisted.
fn observing(namespace: &str, policy: &str) -> Result<AgentPolicy, CliError> {
    let object = json!({
        "apiVersion": "writ.dev/v1alpha1",
        "kind": "AgentPolicy",
        "metadata": {"name": policy, "namespace": namespace},
        "spec": {
            "mode": Mode::Observe,
            "selector": {},
            "catalog": {"version": 1, "name": "observed", "destinations": []},
            "rules": {"version": 1, "scale": 2, "rules": []},
        },
    });
    serde_json::from_value(object).map_err(|e| CliError::Output(e.to_string()))
}

fn next(namespace: &str, policy: &str, mode: Mode) -> String {
    if mode == Mode::Enforce {
        return format!(
            "Namespace {namespace} is under AgentPolicy {policy}, which enforces.

Next:
  1. give pods without a sidecar one:   kubectl rollout restart deployment -n {namespace}
  2. see them:                          kubectl writ status {namespace}
  3. see why, if something is refused:  kubectl writ doctor -n {namespace}
"
        );
    }
    format!(
        "Namespace {namespace} is observed. NOT PROTECTED until its AgentPolicy says mode: Enforce.

Next:
  1. give its pods their sidecar:       kubectl rollout restart deployment -n {namespace}
  2. see them:                          kubectl writ status {namespace}
  3. let the agents do their work, then take what they did as a first policy, and read it:
                                        kubectl writ policy suggest {policy} -n {namespace} > suggested.yaml
  4. see what it would refuse:          kubectl writ policy simulate --policy suggested.yaml --of {policy} -n {namespace}
  5. put it in force:                   kubectl apply -f suggested.yaml
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_that_observes_is_one_that_the_operator_can_carry_out() {
        let policy = observing("shop", "agents").unwrap();
        let written = crate::policy::Written::of(&policy).unwrap();
        assert!(crate::policy::Engine::local(&written).is_ok());
    }
}
