//! The redirection from the node: agents' pods that may nothing. `e2e/run` installs the chart with
//! `redirect.by: node` before it runs these.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use k8s_openapi::api::core::v1::{Event, Namespace, Pod as Object};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use writ_e2e::{Pod, Stage, agent_pod, peer_pod, play, play_alone, until};

const ECHO: u16 = 443;
const WAYS_OUT: [&str; 4] = ["udp v4", "udp v6", "tcp v4", "tcp v6"];

/// A server outside that answers over UDP and TCP, and what an agent does: it tries to reach that in
/// every way, and asks for what it may have.
struct Attempts {
    echo: Pod,
    steps: Value,
}

impl Attempts {
    async fn new(stage: &Stage) -> Self {
        let mut pod = peer_pod("echo", &["/peer/udp_echo.py", &ECHO.to_string()]);
        pod["spec"]["containers"][0]["securityContext"] =
            json!({"runAsUser": 0, "capabilities": {"add": ["NET_BIND_SERVICE"]}});
        let echo = stage.create(&stage.outside, pod).await;
        let (v4, v6) = (echo.ready().await, echo.ipv6().await);
        stage.start_tool().await;
        let steps = json!([
            {"name": "udp v4", "do": "datagram", "address": v4, "port": ECHO},
            {"name": "udp v6", "do": "datagram", "address": v6, "port": ECHO, "family": "v6"},
            {"name": "tcp v4", "do": "connect", "address": v4, "port": ECHO},
            {"name": "tcp v6", "do": "connect", "address": v6, "port": ECHO, "family": "v6"},
            {"name": "allowed", "do": "request", "until": {"status": 200},
                "url": stage.payments("/v1/accounts/A-1/balance")},
        ]);
        Self { echo, steps }
    }

    /// What the agent may have it gets, and nothing else of it arrives anywhere.
    async fn only_the_allowed(&self, agent: &Pod) {
        assert_eq!(agent.result("allowed").await["status"], 200);
        for way in WAYS_OUT {
            let seen = agent.result(way).await;
            let received = seen["received"].as_str().unwrap_or_default();
            assert!(!received.contains("answered"), "{way}: {seen}");
        }
        assert_eq!(self.echo.said().await, Vec::<Value>::new());
    }
}

/// Events of a reason about a pod.
async fn events(stage: &Stage, namespace: &str, pod: &str, reason: &str) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(stage.client(), namespace);
    let all = api.list(&ListParams::default()).await.expect("events");
    all.items
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some(reason))
        .filter(|event| event.involved_object.name.as_deref() == Some(pod))
        .filter_map(|event| event.message)
        .collect()
}

#[test]
fn an_agent_whose_pod_has_no_capability_acts_and_nothing_else_gets_out() {
    play("bynode", async |stage| {
        let attempts = Attempts::new(stage).await;
        let agent = stage.start_agent(attempts.steps.clone()).await;
        let pod = serde_json::to_value(&agent.admitted).unwrap();
        assert_eq!(pod["metadata"]["annotations"]["writ.dev/redirect"], "node");
        let init = &pod["spec"]["initContainers"][0];
        assert_eq!(init["name"], "writ-init");
        let capabilities = &init["securityContext"]["capabilities"];
        assert_eq!(*capabilities, json!({"drop": ["ALL"]}));
        attempts.only_the_allowed(&agent).await;
        let told = events(stage, &stage.agents, "agent", "Redirected").await;
        assert_ne!(told, Vec::<String>::new());
    });
}

#[test]
fn a_sandbox_that_is_made_anew_gets_its_rules_too() {
    play("sandbox", async |stage| {
        let attempts = Attempts::new(stage).await;
        let mut pod = agent_pod("agent", &attempts.steps);
        pod["spec"]["restartPolicy"] = json!("Always");
        let agent = stage.create(&stage.agents, pod).await;
        attempts.only_the_allowed(&agent).await;
        let address = agent.now().await.status.unwrap().pod_ip;
        let before = events(stage, &stage.agents, "agent", "Redirected").await;

        // Without its first process a sandbox is dead, and the kubelet makes another one.
        let uid = agent.now().await.metadata.uid.expect("a uid");
        let mut killer = peer_pod("killer", &["/peer/kill.py", &uid, "pause"]);
        killer["spec"]["hostPID"] = json!(true);
        killer["spec"]["containers"][0]["securityContext"] =
            json!({"privileged": true, "runAsUser": 0});
        let killer = stage.create(&stage.outside, killer).await;
        assert_eq!(killer.result("killed").await["processes"], 1);
        until("the pod has a new network namespace", async || {
            (agent.restarts("peer").await > 0).then_some(())?;
            (agent.now().await.status?.pod_ip? != address.clone()?).then_some(())
        })
        .await;
        attempts.only_the_allowed(&agent).await;
        let told = events(stage, &stage.agents, "agent", "Redirected").await;
        assert!(told.len() > before.len(), "{told:?}");
    });
}

#[test]
fn a_pod_that_only_claims_to_be_the_webhooks_is_refused_and_stays_as_it_is() {
    play("claims", async |stage| {
        let attempts = Attempts::new(stage).await;
        // Its namespace is not opted in, so nobody but the node agent looks at the annotations.
        let mut pod = agent_pod("claims", &json!([]));
        pod["metadata"]["annotations"] =
            json!({"writ.dev/redirect": "node", "writ.dev/injected": "1"});
        let mut init = pod["spec"]["containers"][0].clone();
        init["name"] = json!("writ-init");
        let ways: Vec<Value> = attempts.steps.as_array().unwrap()[..4].to_vec();
        let ways = Value::from(ways).to_string();
        init["args"] = json!(["/peer/agent.py", ways, "--stay"]);
        pod["spec"]["initContainers"] = json!([init]);
        let pod = stage.create(&stage.outside, pod).await;
        let told = until("the node agent refuses it", async || {
            let told = events(stage, &stage.outside, "claims", "RedirectRefused").await;
            told.into_iter().next()
        })
        .await;
        assert!(told.contains("spec.initContainers"), "{told}");
        for way in WAYS_OUT {
            let seen = pod.result_of("writ-init", way).await.to_string();
            assert!(
                seen.contains("answered"),
                "no rules were installed: {way}: {seen}"
            );
        }
        let told = events(stage, &stage.outside, "claims", "Redirected").await;
        assert_eq!(told, Vec::<String>::new());
    });
}

/// As a pod must be written for a restricted namespace.
fn restricted(steps: &Value) -> Value {
    let mut pod = agent_pod("agent", steps);
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] = json!({"allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}});
    pod
}

/// The agents' namespace takes restricted pods alone.
async fn restrict(stage: &Stage) {
    let namespaces: Api<Namespace> = Api::all(stage.client());
    let label = json!({"metadata": {"labels":
        {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let (how, label) = (PatchParams::default(), Patch::Merge(&label));
    let labelled = namespaces.patch(&stage.agents, &how, &label).await;
    labelled.expect("a namespace that is labelled");
}

/// What the node has mounted for a pod's CSI volumes.
async fn mounts(stage: &Stage, looker: &str, arguments: &[&str]) -> Vec<Value> {
    let words = [&["/peer/mounts.py"], arguments].concat();
    let mut pod = peer_pod(looker, &words);
    pod["spec"]["hostPID"] = json!(true);
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true, "runAsUser": 0});
    let pod = stage.create(&stage.outside, pod).await;
    pod.result("mounts").await["seen"]
        .as_array()
        .unwrap()
        .clone()
}

fn uid(agent: &Pod) -> String {
    agent.admitted.metadata.uid.clone().expect("a uid")
}

#[test]
fn a_restricted_namespace_takes_agents_that_act_and_their_volume_goes_with_them() {
    play("restricted", async |stage| {
        let attempts = Attempts::new(stage).await;
        restrict(stage).await;
        // What Pod Security would refuse it does refuse here.
        let bare = agent_pod("bare", &json!([]));
        let refused = stage
            .try_create(&stage.agents, bare)
            .await
            .err()
            .expect("a refusal");
        assert!(
            refused.to_string().contains("violates PodSecurity"),
            "{refused}"
        );

        let agent = stage
            .create(&stage.agents, restricted(&attempts.steps))
            .await;
        attempts.only_the_allowed(&agent).await;
        let pod = serde_json::to_value(&agent.admitted).unwrap();
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let spire = volumes
            .iter()
            .find(|volume| volume["name"] == "writ-spire")
            .unwrap();
        assert_eq!(spire["csi"]["driver"], "workload-api.writ.dev");
        let found = mounts(stage, "mounted", &[&uid(&agent)]).await;
        let [mount] = found.as_slice() else {
            panic!("one mount: {found:?}");
        };
        let options = mount["options"].as_array().unwrap();
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(options.contains(&json!(option)), "{mount}");
        }
        agent.delete().await;
        let left = mounts(stage, "unmounted", &[&uid(&agent), "empty"]).await;
        assert_eq!(left, Vec::<Value>::new());
    });
}

/// Pods of the node agent that are ready and not on their way out.
async fn node_agents(stage: &Stage) -> Vec<String> {
    let api: Api<Object> = Api::namespaced(stage.client(), "writ-node");
    let pods = api.list(&ListParams::default()).await.expect("pods").items;
    let ready = |pod: &Object| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
        pod.metadata.deletion_timestamp.is_none() && ready.next().is_some()
    };
    let uids = pods.into_iter().filter(ready);
    uids.filter_map(|pod| pod.metadata.uid).collect()
}

#[test]
fn agents_act_on_while_the_node_agent_starts_anew_and_new_ones_start_after() {
    play_alone("anew", async |stage| {
        let attempts = Attempts::new(stage).await;
        restrict(stage).await;
        let load = json!([{"name": "load", "do": "load", "every": 0.5,
            "url": stage.payments("/v1/accounts/A-1/balance")}]);
        let agent = stage.create(&stage.agents, restricted(&load)).await;
        let answers = async |from: f64| {
            let said = agent
                .said()
                .await
                .into_iter()
                .filter(|line| line["step"] == "load");
            let later = said.filter(|line| line["at"].as_f64().unwrap() > from);
            later
                .filter(|line| line["status"] == 200)
                .map(|line| line["at"].as_f64().unwrap())
                .next_back()
        };
        let before = until("the agent acts", async || answers(0.0).await).await;

        let first = node_agents(stage).await;
        assert_ne!(first, Vec::<String>::new());
        let pods: Api<Object> = Api::namespaced(stage.client(), "writ-node");
        pods.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .expect("the node agents are deleted");
        until("another node agent is ready on every node", async || {
            let now = node_agents(stage).await;
            (now.len() == first.len() && now.iter().all(|uid| !first.contains(uid))).then_some(())
        })
        .await;
        let after = until("the agent acts on", async || answers(before + 2.0).await).await;
        assert!(after > before);
        assert_eq!(mounts(stage, "mounted", &[&uid(&agent)]).await.len(), 1);

        let mut other = restricted(&attempts.steps);
        other["metadata"]["name"] = json!("other");
        let other = stage.create(&stage.agents, other).await;
        attempts.only_the_allowed(&other).await;
        for (agent, looker) in [(&agent, "first-unmounted"), (&other, "other-unmounted")] {
            agent.delete().await;
            let left = mounts(stage, looker, &[&uid(agent), "empty"]).await;
            assert_eq!(left, Vec::<Value>::new());
        }
    });
}
