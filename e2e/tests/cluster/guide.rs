//! `docs/first-agent.md`, followed with the files that it names.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams};
use tokio::io::AsyncWriteExt as _;
use writ_api::AgentRevocation;
use writ_e2e::{Stage, measured, play, until};

/// What the guide's pods run in is not to be had without a registry.
const IMAGES: (&str, &str) = ("python:3.13-alpine", "localhost/writ/peer:e2e");

async fn apply(file: &str, change: (&str, &str)) {
    let path = format!(
        "{}/../examples/first-agent/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect("a file of the guide");
    let text = text.replace(IMAGES.0, IMAGES.1).replace(change.0, change.1);
    let mut kubectl = tokio::process::Command::new("kubectl")
        .args(["apply", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("kubectl on the PATH; e2e/run puts it there");
    let mut input = kubectl.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).await.expect("written");
    drop(input);
    let done = kubectl.wait().await.expect("kubectl");
    assert!(done.success(), "kubectl apply -f {path}");
}

/// The last line that the guide's agent said about a path.
async fn last(stage: &Stage, path: &str) -> Option<String> {
    let pods: Api<Pod> = Api::namespaced(stage.client(), "first-agent");
    let pod = pods.list(&ListParams::default()).await.ok()?.items.pop()?;
    let log = LogParams {
        container: Some("agent".to_owned()),
        ..LogParams::default()
    };
    let log = pods.logs(&pod.metadata.name?, &log).await.ok()?;
    let line = log.lines().rfind(|line| line.contains(path))?;
    Some(line.to_owned())
}

async fn says(stage: &Stage, path: &str, start: &str, word: &str) -> String {
    until(
        &format!("the agent says {start} {path}: {word}"),
        async || {
            let line = last(stage, path).await?;
            (line.starts_with(start) && line.contains(word)).then_some(line)
        },
    )
    .await
}

async fn strike(stage: &Stage) {
    let revocations: Api<AgentRevocation> = Api::all(stage.client());
    let _ = revocations
        .delete("first-agent", &DeleteParams::default())
        .await;
    let namespaces: Api<Namespace> = Api::all(stage.client());
    for name in ["first-agent", "first-tool"] {
        let _ = namespaces.delete(name, &DeleteParams::default()).await;
    }
    until("the guide's namespaces are gone", async || {
        let agent = namespaces.get_opt("first-agent").await.ok()?;
        let tool = namespaces.get_opt("first-tool").await.ok()?;
        (agent.is_none() && tool.is_none()).then_some(())
    })
    .await;
}

#[test]
fn the_guide_to_a_first_agent_holds() {
    play("guide", async |stage| {
        strike(stage).await;
        let started = Instant::now();
        let as_is = ("", "");
        for file in ["namespaces", "tool", "policy", "agent"] {
            apply(&format!("{file}.yaml"), as_is).await;
        }
        says(stage, "public/today.txt", "200", "all is well").await;
        measured(&format!(
            "guide: first allowed action after {:?}",
            started.elapsed()
        ));
        says(stage, "private/salaries.txt", "403", "no-rule").await;
        // The policy is edited.
        let changed = Instant::now();
        let rule = "capability: files.read, effect: allow, max_class: public}";
        let wider = "capability: 'files.*', effect: allow, max_class: confidential}";
        apply("policy.yaml", (rule, wider)).await;
        says(stage, "private/salaries.txt", "200", "nobody's business").await;
        measured(&format!(
            "guide: edited policy acts after {:?}",
            changed.elapsed()
        ));
        // And the agent stopped.
        apply("revocation.yaml", as_is).await;
        says(stage, "public/today.txt", "403", "revoked").await;
        strike(stage).await;
    });
}
