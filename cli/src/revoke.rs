//! `writ revoke`: one agent is stopped, everywhere, for good.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use writ_api::conditions::{REVOKED, holds};
use writ_api::{
    AgentPolicy, AgentRevocation, AgentRevocationSpec, AgentRevocationStatus, Enforcement, Phase,
};

use crate::ask::Consent;
use crate::cluster::{Cluster, ClusterArgs};
use crate::error::CliError;
use crate::output::{Format, emit, one_line};
use crate::progress::note;
use crate::status::{account, of_pod};

const EXAMPLES: &str = "Examples:
  writ revoke spiffe://example.org/ns/shop/sa/buyer --reason 'leaked token'
  writ revoke buyer-7d4f -n shop --reason compromised --yes --wait final

A POD stands for its agent: every pod that runs as the same service account stops.
The agent stays revoked when the AgentRevocation is deleted; only the owners can reinstate it.
Doing it again changes nothing. Exit code 1 when it did not come as far as --wait within --timeout, 2 when it failed.

Needs: create, get and list agentrevocations.writ.dev; for a POD also get pods, list agentpolicies.writ.dev.";

/// How often the revocation is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Stop an agent everywhere, for good.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// SPIFFE ID, or a pod of the agent.
    #[arg(value_name = "SPIFFE_ID|POD")]
    agent: String,
    /// Why, for the public registry: 1 to 32 printable ASCII characters, no names of people.
    #[arg(long, value_parser = reason)]
    reason: String,
    /// Name of the Chain. Default: that of the agent's AgentPolicy, else `default`.
    #[arg(long)]
    chain: Option<String>,
    /// How far it must have come before this command ends.
    #[arg(long, value_enum, default_value = "safe")]
    wait: Wait,
    /// How long to wait.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5m")]
    timeout: Duration,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How far a revocation must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wait {
    /// Do not wait.
    None,
    /// In a block: every sidecar that sees the chain refuses.
    Included,
    /// In a block that the chain calls safe.
    Safe,
    /// In a block that the chain calls final.
    Final,
}

impl Wait {
    fn phase(self) -> Phase {
        match self {
            Self::None => Phase::Pending,
            Self::Included => Phase::Included,
            Self::Safe => Phase::Safe,
            Self::Final => Phase::Final,
        }
    }
}

fn reason(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if printable && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("1 to 32 printable ASCII characters".to_owned())
    }
}

/// Who is to be revoked, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    spiffe_id: String,
    chain: String,
    /// Pods that run as the agent, where they can be told.
    pods: Option<usize>,
}

/// What is known of a revocation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    name: String,
    spiffe_id: String,
    chain: String,
    /// Whether this command made it.
    created: bool,
    revoked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<i64>,
    /// Where relays tell sidecars of revocations.
    #[serde(skip_serializing_if = "Option::is_none")]
    sidecars: Option<Sidecars>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Sidecars that are connected to relays, and those of them that refuse the agent already.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sidecars {
    enforcing: u64,
    connected: u64,
}

impl Sidecars {
    fn of(status: &AgentRevocationStatus) -> Option<Self> {
        let sum = |count: fn(&Enforcement) -> u32| {
            let all = status.sidecars.iter();
            all.map(|relay| u64::from(count(relay))).sum()
        };
        (!status.sidecars.is_empty()).then(|| Self {
            enforcing: sum(|relay| relay.enforcing),
            connected: sum(|relay| relay.connected),
        })
    }

    fn text(self) -> String {
        format!(
            "{} of {} that are connected refuse it",
            self.enforcing, self.connected
        )
    }
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let cluster = args.cluster.connect().await?;
    let target = target(&cluster, &args).await?;
    let all: Vec<AgentRevocation> = cluster.list_cluster().await?;
    let (revocation, created) = match standing(&all, &target) {
        Some(there) => {
            note(&format!(
                "AgentRevocation {} is there already: {}",
                there.name_any(),
                there.spec.reason
            ));
            (there.clone(), false)
        }
        None => {
            let pods = match target.pods {
                Some(pods) => format!(" ({pods} pods run as it)"),
                None => String::new(),
            };
            Consent::of(args.yes).to(&format!(
                "Revoke {}{pods} on chain {}, for good?",
                target.spiffe_id, target.chain
            ))?;
            (create(&cluster, &all, &target, &args.reason).await?, true)
        }
    };
    let revocation = follow(&cluster, revocation, &args).await?;
    let told = told(&revocation, created);
    let enough = args.wait == Wait::None
        || (told.revoked && told.phase.is_some_and(|p| p >= args.wait.phase()))
        || is_unknown(&revocation);
    emit(args.output, &told, text)?;
    if enough {
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!(
        "not {} after {}: see `kubectl describe agentrevocation {}`, or run this again to go on waiting",
        format!("{:?}", args.wait).to_lowercase(),
        humantime::format_duration(args.timeout),
        told.name
    ));
    Ok(ExitCode::FAILURE)
}

async fn target(cluster: &Cluster, args: &Args) -> Result<Target, CliError> {
    if args.agent.starts_with("spiffe://") {
        return Ok(Target {
            spiffe_id: args.agent.clone(),
            chain: args.chain.clone().unwrap_or_else(|| "default".to_owned()),
            pods: None,
        });
    }
    let namespace = cluster.namespace();
    let pod: Pod = cluster.get(namespace, &args.agent).await?.ok_or_else(|| {
        CliError::Argument(format!(
            "there is no pod {} in namespace {namespace}: name its namespace with -n, or the agent's SPIFFE ID",
            args.agent
        ))
    })?;
    let policies: Vec<AgentPolicy> = cluster.list(Some(namespace)).await?;
    let Some((policy, agent)) = of_pod(&pod, policies.iter()) else {
        return Err(CliError::Argument(format!(
            "pod {} runs under no AgentPolicy of namespace {namespace}: name the SPIFFE ID instead",
            args.agent
        )));
    };
    let agent = agent.ok_or_else(|| {
        CliError::Argument(format!(
            "AgentPolicy {} does not know service account {} yet: name the SPIFFE ID instead",
            policy.name_any(),
            account(&pod)
        ))
    })?;
    Ok(Target {
        spiffe_id: agent.spiffe_id.clone(),
        chain: args
            .chain
            .clone()
            .unwrap_or_else(|| policy.spec.chain.clone()),
        pods: usize::try_from(agent.pods).ok(),
    })
}

/// The revocation of this agent that holds or is on its way. One that the owners undid is not sent
/// again by the operator, so it does not count.
fn standing<'r>(all: &'r [AgentRevocation], target: &Target) -> Option<&'r AgentRevocation> {
    all.iter().find(|revocation| {
        revocation.spec.spiffe_id == target.spiffe_id
            && revocation.spec.chain == target.chain
            && revocation.metadata.deletion_timestamp.is_none()
            && !is_undone(revocation)
    })
}

fn condition(revocation: &AgentRevocation) -> Option<&writ_api::Condition> {
    let conditions = &revocation.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == REVOKED)
}

fn is_undone(revocation: &AgentRevocation) -> bool {
    condition(revocation).is_some_and(|c| c.reason == "Reinstated")
}

/// The registry does not know the agent: nothing of it passes, and nothing comes of waiting.
fn is_unknown(revocation: &AgentRevocation) -> bool {
    condition(revocation).is_some_and(|c| c.reason == "AgentUnknown")
}

/// A name that follows from whom it revokes, so that two who do the same at once make one object.
fn name(target: &Target, nth: usize) -> String {
    let digest = Sha256::digest(format!("{}\n{}", target.chain, target.spiffe_id));
    let hash: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let last = target.spiffe_id.rsplit('/').next().unwrap_or_default();
    let plain: String = last
        .to_ascii_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        .take(40)
        .collect();
    let nth = if nth == 0 {
        String::new()
    } else {
        format!("-{}", nth + 1)
    };
    format!("revoked-{plain}-{hash}{nth}").replace("--", "-")
}

async fn create(
    cluster: &Cluster,
    all: &[AgentRevocation],
    target: &Target,
    reason: &str,
) -> Result<AgentRevocation, CliError> {
    for nth in 0..=all.len() {
        let name = name(target, nth);
        if all.iter().any(|there| there.name_any() == name) {
            continue;
        }
        let spec = AgentRevocationSpec {
            spiffe_id: target.spiffe_id.clone(),
            chain: target.chain.clone(),
            reason: reason.to_owned(),
            agent_key: None,
        };
        if let Some(made) = cluster
            .create_cluster(&AgentRevocation::new(&name, spec))
            .await?
        {
            note(&format!("AgentRevocation {name} is made"));
            return Ok(made);
        }
        // Somebody else was faster.
        if let Some(there) = cluster.get_cluster::<AgentRevocation>(&name).await? {
            return Ok(there);
        }
    }
    Err(CliError::Argument(
        "the revocation is deleted as fast as it is made: see who does, `kubectl get events`"
            .to_owned(),
    ))
}

async fn follow(
    cluster: &Cluster,
    mut revocation: AgentRevocation,
    args: &Args,
) -> Result<AgentRevocation, CliError> {
    if args.wait == Wait::None {
        return Ok(revocation);
    }
    let until = Instant::now().checked_add(args.timeout);
    let mut looks = tokio::time::interval(LOOK);
    let mut said = String::new();
    loop {
        let now = progress(&revocation);
        if now != said {
            note(&now);
            said = now;
        }
        let phase = revocation.status.as_ref().and_then(|s| s.phase);
        let revoked = condition(&revocation).is_some_and(|c| c.status == "True");
        if is_unknown(&revocation) || (revoked && phase.is_some_and(|p| p >= args.wait.phase())) {
            return Ok(revocation);
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(revocation);
        }
        looks.tick().await;
        let name = revocation.name_any();
        revocation = cluster.get_cluster(&name).await?.ok_or_else(|| {
            CliError::Argument(format!(
                "AgentRevocation {name} was deleted; what it had submitted stays so: run this again to see"
            ))
        })?;
    }
}

/// One line on how far it has come.
fn progress(revocation: &AgentRevocation) -> String {
    let status = revocation.status.clone().unwrap_or_default();
    let Some(condition) = condition(revocation) else {
        return "waiting for the operator to see it".to_owned();
    };
    let phase = status
        .phase
        .map_or_else(String::new, |p| format!("{p:?}: "));
    let block = status
        .block
        .map_or_else(String::new, |block| format!(" (block {block})"));
    let sidecars =
        Sidecars::of(&status).map_or_else(String::new, |s| format!("; sidecars: {}", s.text()));
    format!("{phase}{}{block}{sidecars}", one_line(&condition.message))
}

fn told(revocation: &AgentRevocation, created: bool) -> Told {
    let status = revocation.status.clone().unwrap_or_default();
    Told {
        name: revocation.name_any(),
        spiffe_id: revocation.spec.spiffe_id.clone(),
        chain: revocation.spec.chain.clone(),
        created,
        revoked: holds(&status.conditions, REVOKED),
        phase: status.phase,
        sidecars: Sidecars::of(&status),
        transaction: status.transaction,
        block: status.block,
        message: condition(revocation).map(|c| c.message.clone()),
    }
}

fn text(told: &Told) -> String {
    let state = match (told.revoked, told.phase) {
        (true, Some(Phase::Pending)) | (true, None) => "refused".to_owned(),
        (true, Some(phase)) => format!("revoked ({phase:?})"),
        (false, _) => "NOT YET REVOKED on chain".to_owned(),
    };
    let mut text = format!("{}  {state}\n", told.spiffe_id);
    for (name, value) in [
        ("revocation", Some(told.name.clone())),
        ("chain", Some(told.chain.clone())),
        ("transaction", told.transaction.clone()),
        ("block", told.block.map(|block| block.to_string())),
        ("sidecars", told.sidecars.map(Sidecars::text)),
        ("says", told.message.clone()),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<12} {}\n", one_line(&value)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(id: &str) -> Target {
        Target {
            spiffe_id: id.to_owned(),
            chain: "default".to_owned(),
            pods: None,
        }
    }

    #[test]
    fn a_name_follows_from_the_agent_and_is_a_dns_label() {
        for id in [
            "spiffe://example.org/ns/shop/sa/buyer",
            "spiffe://example.org/ns/shop/sa/Buyer_1.x",
            "spiffe://example.org/ns/shop/sa/---",
        ] {
            let name = name(&target(id), 0);
            assert_eq!(name, super::name(&target(id), 0));
            assert!(
                name.len() <= 63 && !name.contains("--") && !name.ends_with('-'),
                "{name}"
            );
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
        let (a, b) = (target("spiffe://a.b/sa/x"), target("spiffe://c.d/sa/x"));
        assert_ne!(name(&a, 0), name(&b, 0));
        assert_ne!(name(&a, 0), name(&a, 1));
    }

    #[test]
    fn a_reason_is_what_the_registry_takes() {
        assert!(reason("leaked token").is_ok());
        for refused in ["", "\u{e4}", "a\nb", &"x".repeat(33)] {
            assert!(reason(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_revocation_that_the_owners_undid_does_not_stand() {
        let made = |why: &str| -> AgentRevocation {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "writ.dev/v1alpha1", "kind": "AgentRevocation", "metadata": {"name": "r"},
                "spec": {"spiffeId": "spiffe://a.b/sa/x", "reason": "r"},
                "status": {"conditions": [{"type": "Revoked", "status": "False", "reason": why, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap()
        };
        let target = target("spiffe://a.b/sa/x");
        assert!(standing(&[made("Reinstated")], &target).is_none());
        assert!(standing(&[made("EndpointFailed")], &target).is_some());
    }
}
