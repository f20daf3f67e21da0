//! `writ status`: the agents of a cluster, what they run under, and what is not protected.

mod survey;

use std::process::ExitCode;

use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use writ_api::{AgentPolicy, AgentRevocation};

use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{Format, emit};
pub use survey::{Facts, Survey, account, config_map, of_pod, survey};

const EXAMPLES: &str = "Examples:
  writ status                          every namespace
  writ status shop                     one namespace
  kubectl writ status shop -o json | jq '.unprotected'

Needs: list pods, namespaces, agentpolicies.writ.dev and agentrevocations.writ.dev.
Exit code 1 when a pod that should be protected is not, 2 when that cannot be told.";

/// Show the agents of a cluster, what they run under, and which pods are not protected.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Namespace. Default: all.
    #[arg(value_name = "NAMESPACE")]
    only: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let cluster = args.cluster.connect().await?;
    let only = args.only.as_deref().or(cluster.named_namespace());
    let facts = gather(&cluster, only).await?;
    let survey = survey(&facts);
    emit(args.output, &survey, Survey::text)?;
    Ok(if survey.unprotected.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What `writ status` looks at.
pub async fn gather(cluster: &Cluster, only: Option<&str>) -> Result<Facts, CliError> {
    let namespaces = match only {
        // One of its own right, so that whoever may see one namespace only can use this.
        Some(name) => cluster
            .get_cluster::<Namespace>(name)
            .await?
            .into_iter()
            .collect(),
        None => cluster.list_cluster::<Namespace>().await?,
    };
    if let (Some(name), true) = (only, namespaces.is_empty()) {
        return Err(CliError::Argument(format!(
            "there is no namespace {name}; see `kubectl get namespaces`"
        )));
    }
    Ok(Facts {
        namespaces,
        pods: cluster.list::<Pod>(only).await?,
        policies: cluster.list::<AgentPolicy>(only).await?,
        revocations: cluster.list_cluster::<AgentRevocation>().await?,
    })
}
