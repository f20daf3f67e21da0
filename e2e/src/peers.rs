//! The pods that tests start: Python peers that know nothing of Writ.

use serde_json::{Value, json};

const IMAGE: &str = "localhost/writ/peer:e2e";

/// A pod with one container of the peers' image.
pub fn peer_pod(name: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "serviceAccountName": "peer",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "peer",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "args": args,
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    })
}

/// A pod whose container follows `steps` (`e2e/peer/agent.py`) and then stays.
pub fn agent_pod(name: &str, steps: &Value) -> Value {
    peer_pod(name, &["/peer/agent.py", &steps.to_string(), "--stay"])
}

/// The target: a plain HTTP service and an MCP server, on loopback behind their sidecar.
pub(crate) fn tool_pod() -> Value {
    let mut pod = peer_pod("tool", &["/peer/tool.py", "127.0.0.1", "8080"]);
    let mut mcp = pod["spec"]["containers"][0].clone();
    mcp["name"] = json!("mcp");
    mcp["args"] = json!(["/peer/mcp_server.py", "8081"]);
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        containers.push(mcp);
    }
    pod
}
