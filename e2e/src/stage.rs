//! One test's stage: its namespaces, its agent and policy on chain, its sidecars' configuration.

mod governed;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::chain::CHAIN_ID;
use crate::{Pod, SYSTEM, TRUST_DOMAIN, World, until};

/// Who configures a stage's sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The test itself: ConfigMaps, and `writ chain` for what stands on chain.
    Hand,
    /// The operator, from AgentPolicies.
    AgentPolicies,
}

/// What a stage may have different.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who configures the sidecars.
    pub by: By,
    /// Bounds of staleness, in seconds: fresh, and most.
    pub staleness: (u32, u32),
    /// Where the agents' sidecars read the chain, if not at the chain itself.
    pub endpoint: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            by: By::Hand,
            staleness: (60, 300),
            endpoint: None,
        }
    }
}

/// One test's stage.
pub struct Stage {
    /// What all tests share.
    pub world: &'static World,
    /// The opted-in namespace of the agents.
    pub agents: String,
    /// The opted-in namespace of the tools.
    pub tools: String,
    /// A namespace that is not opted in.
    pub outside: String,
    options: Options,
    policy: String,
    salts: (String, String),
}

impl Stage {
    /// Sets a stage. What an earlier run of the same test left is removed first.
    pub async fn set(world: &'static World, name: &str, options: Options) -> Self {
        let stage = Self {
            world,
            agents: format!("{name}-agents"),
            tools: format!("{name}-tools"),
            outside: format!("{name}-outside"),
            options,
            policy: name.to_owned(),
            // Told apart by run too: another run's agent of the same name is another agent.
            salts: (salt(name, "agent"), salt(name, "policy")),
        };
        stage.strike().await;
        for name in [&stage.agents, &stage.tools, &stage.outside] {
            stage.gone(name).await;
        }
        for (namespace, opted_in) in [
            (&stage.agents, true),
            (&stage.tools, true),
            (&stage.outside, false),
        ] {
            stage.namespace(namespace, opted_in).await;
        }
        stage.services().await;
        match stage.options.by {
            By::Hand => {
                stage.register().await;
                stage.configure().await;
            }
            By::AgentPolicies => stage.govern().await,
        }
        stage
    }

    /// The Kubernetes client.
    pub fn client(&self) -> Client {
        self.world.client.clone()
    }

    /// The agent's SPIFFE ID.
    pub fn agent_id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/peer", self.agents)
    }

    /// The tool's SPIFFE ID.
    pub fn tool_id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/peer", self.tools)
    }

    /// A URL of the payments service, as agents write it.
    pub fn payments(&self, path: &str) -> String {
        format!("http://{}{path}", self.host("payments"))
    }

    /// The URL of the MCP server.
    pub fn mcp(&self) -> String {
        format!("http://{}/mcp", self.host("mcp"))
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.tools)
    }

    /// Creates a pod and returns a handle on it; the API server's refusal otherwise.
    ///
    /// # Errors
    /// What the API server, or a webhook that it asked, refused.
    pub async fn try_create(&self, namespace: &str, pod: Value) -> Result<Pod, kube::Error> {
        let api = Api::namespaced(self.client(), namespace);
        let pod = serde_json::from_value(pod).expect("a pod");
        let made: k8s_openapi::api::core::v1::Pod =
            api.create(&PostParams::default(), &pod).await?;
        Ok(Pod::new(api, made))
    }

    /// Creates a pod that must be admitted.
    pub async fn create(&self, namespace: &str, pod: Value) -> Pod {
        let name = pod["metadata"]["name"].to_string();
        self.try_create(namespace, pod)
            .await
            .unwrap_or_else(|error| panic!("pod {name} was not admitted: {error}"))
    }

    /// Starts the tool and waits until it is ready.
    pub async fn start_tool(&self) -> Pod {
        let tool = self.create(&self.tools, crate::peers::tool_pod()).await;
        tool.ready().await;
        tool
    }

    /// Starts an agent that follows `steps`.
    pub async fn start_agent(&self, steps: Value) -> Pod {
        self.create(&self.agents, crate::agent_pod("agent", &steps))
            .await
    }

    /// Starts tool and agent, and waits until the agent acts, as it then does every so many seconds.
    pub async fn start_acting(&self, every: f64) -> Pod {
        self.start_tool().await;
        let agent = self
            .start_agent(json!([{"name": "load", "do": "load", "every": every,
                "url": self.payments("/v1/accounts/A-1/balance")}]))
            .await;
        until("the agent acts", async || {
            let said = agent.said().await;
            said.iter().any(|line| line["status"] == 200).then_some(())
        })
        .await;
        agent
    }

    /// Kills the one process `name` of a pod, from outside of it.
    pub async fn kill(&self, victim: &Pod, name: &str) {
        let uid = victim.now().await.metadata.uid.expect("a uid");
        let mut killer = crate::peer_pod("killer", &["/peer/kill.py", &uid, name]);
        killer["spec"]["hostPID"] = json!(true);
        killer["spec"]["containers"][0]["securityContext"] =
            json!({"privileged": true, "runAsUser": 0});
        let killer = self.create(&self.outside, killer).await;
        assert_eq!(killer.result("killed").await["processes"], 1);
        killer.delete().await;
    }

    /// Sets the label of the agents' namespace that opts pods in, or takes it away.
    pub async fn opt_in(&self, value: Option<&str>) {
        self.opt_in_namespace(&self.agents, value).await;
    }

    /// Waits until the API server, which watches namespaces too, knows of the agents' opting in.
    pub async fn opted_in(&self) {
        let api: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.client(), &self.agents);
        let pod = serde_json::from_value(crate::agent_pod("tried", &json!([]))).expect("a pod");
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        until("pods get sidecars", async || {
            let made = api.create(&dry, &pod).await.ok()?;
            made.spec?.init_containers.map(drop)
        })
        .await;
    }

    async fn opt_in_namespace(&self, namespace: &str, value: Option<&str>) {
        let api: Api<Namespace> = Api::all(self.client());
        let change = json!({"metadata": {"labels": {"writ.dev/inject": value}}});
        api.patch(namespace, &PatchParams::default(), &Patch::Merge(&change))
            .await
            .expect("a namespace that is labelled");
    }

    /// Revokes the stage's agent on chain.
    pub async fn revoke(&self) {
        let line = [
            "revoke",
            "--reason",
            "e2e",
            "--agent",
            &self.agent_id(),
            "--names",
        ]
        .map(str::to_owned);
        let names = self.file("names.yaml", &self.names());
        let line = [&line[..], &[names]].concat();
        self.world.chain.writ("guardian", &line).await;
    }

    /// Removes the namespaces; the cluster does the rest on its own.
    pub async fn strike(&self) {
        let api: Api<Namespace> = Api::all(self.client());
        for name in [&self.agents, &self.tools, &self.outside] {
            let _ = api.delete(name, &DeleteParams::default()).await;
        }
    }

    async fn gone(&self, namespace: &str) {
        let api: Api<Namespace> = Api::all(self.client());
        until(&format!("namespace {namespace} is gone"), async || {
            matches!(api.get_opt(namespace).await, Ok(None)).then_some(())
        })
        .await;
    }

    async fn namespace(&self, name: &str, opted_in: bool) {
        let labels = if opted_in {
            json!({"writ.dev/inject": "enabled"})
        } else {
            json!({})
        };
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
        Api::all(self.client())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap_or_else(|error| panic!("namespace {name}: {error}"));
        self.apply::<ServiceAccount>(
            name,
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "peer"}}),
        )
        .await;
    }

    /// Creates an object, or changes it to this.
    pub async fn apply<K>(&self, namespace: &str, object: Value)
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let name = object["metadata"]["name"].as_str().expect("a name");
        Api::<K>::namespaced(self.client(), namespace)
            .patch(
                name,
                &PatchParams::apply("writ-e2e").force(),
                &Patch::Apply(&object),
            )
            .await
            .unwrap_or_else(|error| panic!("{name} in {namespace}: {error}"));
    }

    async fn services(&self) {
        for (name, port) in [("payments", 8443), ("mcp", 8444)] {
            self.apply::<Service>(
                &self.tools,
                json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": {"app": "tool"}, "ports": [{"port": port}]}}),
            )
            .await;
        }
        self.apply::<Service>(
            &self.outside,
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "plain"},
            "spec": {"selector": {"app": "plain"}, "ports": [{"port": 8080}]}}),
        )
        .await;
    }

    async fn register(&self) {
        let chain = &self.world.chain;
        let [names, rules, catalog] = [
            ("names.yaml", self.names()),
            ("rules.yaml", self.rules()),
            ("catalog.yaml", self.catalog()),
        ]
        .map(|(name, text)| self.file(name, &text));
        let line = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let publish = [
            "policy",
            "publish",
            "--policy",
            &self.policy,
            "--rules",
            &rules,
        ];
        let publish = [&publish[..], &["--catalog", &catalog, "--names", &names]].concat();
        chain.writ("owner", &line(&publish)).await;
        let id = self.agent_id();
        let register = ["agent", "register", "--agent", &id, "--names", &names];
        let model = format!("0x{}", model());
        let register = [
            &register[..],
            &["--policy", &self.policy, "--model", &model],
        ]
        .concat();
        chain.writ("owner", &line(&register)).await;
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.world.chain.path(&format!("{}-{name}", self.policy));
        std::fs::write(&path, text).expect("a file in a temporary folder");
        path.display().to_string()
    }

    async fn configure(&self) {
        for (namespace, sidecar) in [
            (&self.agents, self.agent_config()),
            (&self.tools, self.tool_config()),
        ] {
            self.apply::<ConfigMap>(
                namespace,
                json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "writ-sidecar"},
                "data": {"sidecar.yaml": sidecar, "catalog.yaml": self.catalog()}}),
            )
            .await;
        }
    }

    fn agent_config(&self) -> String {
        format!(
            "\
identity: {{workloadApi: /run/spire/sockets/spire-agent.sock}}
agent: {{salt: {salt}, policySalt: {policy_salt}, model: {model}}}
{chain}\
catalog: /etc/writ/catalog.yaml
record: {{directory: /var/lib/writ/record, maxBytes: 67108864}}
outbound:
  intercept: {{keyDirectory: /run/writ/keys/ca, bundle: /run/writ/trust/bundle.pem}}
",
            salt = self.salts.0,
            policy_salt = self.salts.1,
            model = model(),
            chain = self.chain_config(self.options.endpoint.as_deref()),
        )
    }

    fn tool_config(&self) -> String {
        format!(
            "\
identity: {{workloadApi: /run/spire/sockets/spire-agent.sock}}
{chain}\
record: {{directory: /var/lib/writ/record, maxBytes: 67108864}}
inbound:
- {{port: 8443, app: '127.0.0.1:8080', authorities: ['{payments}:8443']}}
- {{port: 8444, app: '127.0.0.1:8081', authorities: ['{mcp}:8444'], protocol: mcp}}
callers: {{catalogs: [/etc/writ/catalog.yaml]}}
",
            chain = self.chain_config(None),
            payments = self.host("payments"),
            mcp = self.host("mcp"),
        )
    }

    fn chain_config(&self, endpoint: Option<&str>) -> String {
        let usual = format!("http://writ-devchain.{SYSTEM}.svc.cluster.local:8545");
        format!(
            "\
chain:
  chainId: {CHAIN_ID}
  endpoints: ['{endpoint}']
  agentRegistry: '{agents}'
  policyRegistry: '{policies}'
  anchor: '{anchor}'
  staleness: {{fresh: {fresh}s, max: {max}s}}
",
            endpoint = endpoint.unwrap_or(&usual),
            agents = self.world.chain.address("AgentRegistry"),
            policies = self.world.chain.address("PolicyRegistry"),
            anchor = self.world.chain.address("SaeAnchor"),
            fresh = self.options.staleness.0,
            max = self.options.staleness.1,
        )
    }

    fn names(&self) -> String {
        let (agent, policy) = &self.salts;
        format!("salt: {policy}\nagents:\n  {}: {agent}\n", self.agent_id())
    }

    fn rules(&self) -> String {
        let text = include_str!("../stage/rules.yaml");
        text.replace("${agent}", &self.agent_id())
    }

    fn catalog(&self) -> String {
        let text = include_str!("../stage/catalog.yaml");
        text.replace("${tool}", &self.tool_id())
            .replace("${payments}", &self.host("payments"))
            .replace("${mcp}", &self.host("mcp"))
    }
}

/// The model's digest, the same for all.
fn model() -> String {
    hex(&Sha256::digest(b"a model's weights\n"))
}

/// A salt of this run.
fn salt(name: &str, what: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let digest = Sha256::digest(format!(
        "{name} {what} {} {}",
        std::process::id(),
        now.as_nanos()
    ));
    hex(&digest)[..32].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
