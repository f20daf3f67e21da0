//! Measures on a running cluster what a user waits for: a sidecar to be ready, a revocation to be obeyed.
//! Writes raw times; `benches/cluster/report.py` makes a page of them.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use writ_api::{AgentRevocation, AgentRevocationSpec};
use writ_e2e::{
    By, Chain, Heads, Options, Part, Pod, Stage, TRUST_DOMAIN, agent_pod, now, play_alone_with,
    until, until_within,
};

/// Every registration is a transaction, and a block.
const REGISTERED: Duration = Duration::from_secs(900);

/// Measures on a running cluster: start of sidecars, and revocations until the last sidecar refuses.
#[derive(Parser)]
struct Args {
    /// Revocations by AgentRevocation, with the relay's push.
    #[arg(long, default_value_t = 40)]
    pushed: usize,
    /// Revocations by the guardian's transaction, with operator and relay stopped.
    #[arg(long, default_value_t = 10)]
    alone: usize,
    /// Pods of each revoked agent.
    #[arg(long, default_value_t = 3)]
    pods: usize,
    /// Sidecars that are killed and start again.
    #[arg(long, default_value_t = 10)]
    killed: usize,
    /// Seconds between the actions of a pod.
    #[arg(long, default_value_t = 0.1)]
    every: f64,
    /// Where the raw times go.
    #[arg(long)]
    out: PathBuf,
}

fn main() {
    let args = Args::parse();
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_alone_with("measure", options, async |stage| {
        let raw = measure(stage, &args).await;
        let text = serde_json::to_string_pretty(&raw).expect("JSON");
        std::fs::write(&args.out, text + "\n").expect("a file that can be written");
    });
}

async fn measure(stage: &Stage, args: &Args) -> Value {
    stage.start_tool().await;
    let keys = register(stage, args.pushed + args.alone).await;
    let (mut starts, mut restarts) = (Vec::new(), Vec::new());
    let mut pushed = Vec::new();
    for run in 0..args.pushed {
        say(&format!("revocation {} of {}", run + 1, args.pushed));
        let pods = start(stage, run, args).await;
        for pod in &pods {
            starts.push(ready(pod, &Value::Null).await);
        }
        if run < args.killed {
            stage.kill(&pods[0], "writ-sidecar").await;
            restarts.push(ready(&pods[0], &starts[starts.len() - args.pods]).await);
            acting(&pods[..1]).await;
        }
        pushed.push(push(stage, run, &pods).await);
        end(pods).await;
    }
    let chain = Chain::of_operator(&stage.client()).await;
    let mut alone = Vec::new();
    let relays = Part::Relay.scale(stage.client(), 0).await;
    let operators = Part::Operator.scale(stage.client(), 0).await;
    for run in 0..args.alone {
        say(&format!(
            "without the operator: {} of {}",
            run + 1,
            args.alone
        ));
        let run = args.pushed + run;
        let pods = start(stage, run, args).await;
        let heads = Heads::watch(&chain);
        let began = now();
        let included = chain.revoke_key(&keys[run]).await;
        let told = refused(&pods).await;
        let last = told.iter().map(|pod| pod.allowed).fold(began, f64::max);
        alone.push(json!({
            "block": included,
            "last_allowed_in": heads.at(last),
            "pods": told.iter().map(|pod| pod.since(began)).collect::<Vec<_>>(),
        }));
        end(pods).await;
    }
    Part::Operator.scale(stage.client(), operators).await;
    Part::Relay.scale(stage.client(), relays).await;
    json!({"pods": args.pods, "every": args.every, "starts": starts, "restarts": restarts,
        "pushed": pushed, "alone": alone})
}

fn say(text: &str) {
    writ_e2e::measured(text);
}

fn account(run: usize) -> String {
    format!("agent-{run}")
}

/// Registers an agent for every run, and returns their keys in the registry.
async fn register(stage: &Stage, runs: usize) -> Vec<String> {
    let accounts: Vec<String> = (0..runs).map(account).collect();
    for name in &accounts {
        let object =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        stage.apply::<ServiceAccount>(&stage.agents, object).await;
    }
    stage
        .change_policy(|spec| {
            spec.service_accounts.clone_from(&accounts);
            let rules = spec.rules.as_mut().expect("rules");
            for rule in rules["rules"].as_array_mut().expect("a list") {
                rule["agent"] = json!("any");
            }
        })
        .await;
    until_within(REGISTERED, "every agent is registered", async || {
        let status = stage.policy(&stage.agents).await.status?;
        accounts
            .iter()
            .map(|name| {
                let known = status.agents.iter().find(|a| a.service_account == *name)?;
                (known.status == "active").then(|| known.key.clone())
            })
            .collect()
    })
    .await
}

/// Starts the pods of a run's agent, and waits until each acts.
async fn start(stage: &Stage, run: usize, args: &Args) -> Vec<Pod> {
    let steps = json!([{"name": "load", "do": "load", "every": args.every,
        "url": stage.payments("/v1/accounts/A-1/balance")}]);
    let mut pods = Vec::new();
    for number in 0..args.pods {
        let mut pod = agent_pod(&format!("agent-{run}-{number}"), &steps);
        pod["spec"]["serviceAccountName"] = json!(account(run));
        pods.push(stage.create(&stage.agents, pod).await);
    }
    acting(&pods).await;
    pods
}

async fn acting(pods: &[Pod]) {
    for pod in pods {
        let before = pod.said().await.len();
        until("the agent acts", async || {
            let said = pod.said().await;
            let since = said.iter().skip(before);
            since
                .into_iter()
                .any(|line| line["status"] == 200)
                .then_some(())
        })
        .await;
    }
}

async fn end(pods: Vec<Pod>) {
    join_all(pods.iter().map(Pod::delete)).await;
}

/// Revokes by an AgentRevocation, and says when each pod's actions were refused.
async fn push(stage: &Stage, run: usize, pods: &[Pod]) -> Value {
    let api: Api<AgentRevocation> = Api::all(stage.client());
    let name = format!("measure-{run}");
    let _ = api.delete(&name, &DeleteParams::default()).await;
    until("no AgentRevocation of that name", async || {
        matches!(api.get_opt(&name).await, Ok(None)).then_some(())
    })
    .await;
    let id = format!(
        "spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}",
        stage.agents,
        account(run)
    );
    let spec: AgentRevocationSpec =
        serde_json::from_value(json!({"spiffeId": id, "reason": "measured"})).expect("a spec");
    let wanted = AgentRevocation::new(&name, spec);
    let began = now();
    api.create(&PostParams::default(), &wanted)
        .await
        .expect("an AgentRevocation");
    let told = refused(pods).await;
    let _ = api.delete(&name, &DeleteParams::default()).await;
    json!(told.iter().map(|pod| pod.since(began)).collect::<Vec<_>>())
}

/// How a pod's last allowed and first refused action ended, in seconds since the epoch.
struct Stopped {
    allowed: f64,
    refused: f64,
    code: String,
}

impl Stopped {
    fn since(&self, began: f64) -> Value {
        json!({"allowed": self.allowed - began, "refused": self.refused - began, "code": self.code})
    }
}

async fn refused(pods: &[Pod]) -> Vec<Stopped> {
    let mut all = Vec::new();
    for pod in pods {
        let stopped = until("every sidecar refuses", async || {
            let said = pod.said().await;
            let at = |line: &Value| line["at"].as_f64().expect("a time");
            let allowed = said.iter().rposition(|line| line["status"] == 200)?;
            let refused = said.get(allowed + 1)?;
            // Three in a row, so that the first is no single hiccup.
            (said.len() > allowed + 3).then(|| Stopped {
                allowed: at(&said[allowed]),
                refused: at(refused),
                code: refused["code"].as_str().unwrap_or_default().to_owned(),
            })
        });
        all.push(stopped.await);
    }
    all
}

/// When a pod's sidecar, by its own log, started, had its identity and was ready; waits for another start than
/// `before`.
async fn ready(pod: &Pod, before: &Value) -> Value {
    until("the sidecar is ready", async || {
        let mut start = json!({});
        for line in pod.said_by("writ-sidecar").await {
            let what = match line["message"].as_str() {
                Some("sidecar starting") => "starting",
                Some("identity issued") => "identity",
                Some("sidecar ready") => "ready",
                _ => continue,
            };
            start[what] = line["timestamp"].clone();
        }
        let whole = ["starting", "identity", "ready"]
            .iter()
            .all(|what| start[*what].is_string());
        (whole && start != *before).then_some(start)
    })
    .await
}
