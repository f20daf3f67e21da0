//! Puts the parts together and runs them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use writ_service::{Admin, ServiceError, listen, signalled};

use crate::agent::Agent;
use crate::args::{Args, Switch};
use crate::csi::{self, InNode, Plugin};
use crate::enter::InNamespace;
use crate::events::Events;
use crate::process::Processes;
use crate::{Metrics, NodeError};

/// Why the node agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pod of this program lacks something.
    #[error("{0} is missing: see the DaemonSet writ-node of the chart")]
    Lacking(&'static str),
    /// /proc cannot be read.
    #[error("/proc/self/status: {0}")]
    Proc(io::Error),
    /// No client for the Kubernetes API.
    #[error("no Kubernetes API: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Kubernetes(String),
    /// Logs, signals, metrics or the admin port.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A socket in the kubelet's folders cannot be made.
    #[error("the socket {0}: {1}; check the volumes of the DaemonSet writ-node of the chart")]
    Socket(PathBuf, io::Error),
    /// The driver ended.
    #[error("the CSI driver ended: {0}")]
    Serve(String),
    /// The driver cannot do its work.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Every part is turned off.
    #[error("nothing to do: leave --redirect off out, or name --workload-api")]
    Nothing,
    /// The watch ended by itself.
    #[error("the watch of pods ended")]
    Ended,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: &Args) -> Result<(), RunError> {
    if args.redirect == Switch::Off && args.workload_api.is_none() {
        return Err(RunError::Nothing);
    }
    let status = std::fs::read_to_string("/proc/self/status").map_err(RunError::Proc)?;
    permitted(&status, std::process::id(), &args.capabilities())?;
    let metrics = Arc::new(Metrics::new()?);
    let listener = listen(args.admin_listen).await?;
    let (listed, registered) = (Arc::default(), Arc::default());
    let ready = readiness(args, &listed, &registered);
    let counted = Arc::clone(&metrics);
    tokio::spawn(Admin::new(ready, move || counted.text()).serve(listener));
    tracing::info!(node = args.node, redirect = ?args.redirect, workload_api = ?args.workload_api, "node agent started");
    tokio::select! {
        ended = redirect(args, Arc::clone(&metrics), listed) => ended,
        ended = bring_socket(args, metrics, registered) => ended,
        ended = signalled() => ended.map_err(RunError::from),
    }
}

/// Ready when every part is that was asked for.
fn readiness(
    args: &Args,
    listed: &Arc<AtomicBool>,
    registered: &Arc<AtomicBool>,
) -> impl Fn() -> Result<(), String> + Send + Sync + use<> {
    let mut parts = Vec::new();
    if args.redirect == Switch::On {
        parts.push((Arc::clone(listed), "this node's pods were not listed yet"));
    }
    if args.workload_api.is_some() {
        parts.push((
            Arc::clone(registered),
            "the kubelet did not register the CSI driver yet",
        ));
    }
    move || {
        let missing = parts.iter().find(|(is, _)| !is.load(Ordering::Relaxed));
        missing.map_or(Ok(()), |(_, what)| Err((*what).to_owned()))
    }
}

/// Installs the redirection in pods that ask for it, where that is asked for.
async fn redirect(
    args: &Args,
    metrics: Arc<Metrics>,
    listed: Arc<AtomicBool>,
) -> Result<(), RunError> {
    if args.redirect == Switch::Off {
        return std::future::pending().await;
    }
    let client = Client::try_default()
        .await
        .map_err(|error| RunError::Kubernetes(error.to_string()))?;
    let mut agent = Agent::new(
        args.node.clone(),
        args.repositories(),
        args.at_once,
        Arc::new(InNamespace {
            processes: Processes::of("/proc"),
        }),
        Arc::new(Events::new(client.clone(), args.node.clone())),
        metrics,
        listed,
    );
    let of_this_node = format!("spec.nodeName={}", args.node);
    let watch = watcher(
        Api::<Pod>::all(client),
        watcher::Config::default().fields(&of_this_node),
    )
    .default_backoff();
    agent.follow(watch).await;
    Err(RunError::Ended)
}

/// Brings pods SPIRE's socket, where that is asked for.
async fn bring_socket(
    args: &Args,
    metrics: Arc<Metrics>,
    registered: Arc<AtomicBool>,
) -> Result<(), RunError> {
    let Some(sockets) = &args.workload_api else {
        return std::future::pending().await;
    };
    let mount = InNode::new(
        "/proc/1/ns/mnt".into(),
        sockets.clone(),
        args.kubelet.clone(),
    )?;
    let plugin = Plugin {
        node: args.node.clone(),
        folders: args.folders(),
        mount: Arc::new(mount),
        metrics,
        registered,
    };
    csi::serve(plugin).await
}

/// Whether this process may do its work, by the text of its `/proc/self/status` and its number. With a
/// process namespace of its own it would be the first one, and see no other pod.
fn permitted(status: &str, number: u32, needed: &[(&'static str, u32)]) -> Result<(), RunError> {
    if number == 1 {
        return Err(RunError::Lacking("hostPID"));
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let lacks = |bit: &u32| effective & (1 << bit) == 0;
    match needed.iter().find(|(_, bit)| lacks(bit)) {
        Some((name, _)) => Err(RunError::Lacking(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_missing_is_named_before_anything_is_tried() {
        let needed = [
            ("NET_ADMIN", 12),
            ("NET_RAW", 13),
            ("SYS_PTRACE", 19),
            ("SYS_ADMIN", 21),
        ];
        let all = "Name:\twrit-node\nCapEff:\t0000000000283000\n";
        permitted(all, 4711, &needed).unwrap();
        let lacking =
            |status: &str, number| permitted(status, number, &needed).unwrap_err().to_string();
        assert!(lacking(all, 1).starts_with("hostPID"));
        for (set, name) in [
            ("0000000000282000", "NET_ADMIN"),
            ("0000000000281000", "NET_RAW"),
            ("0000000000203000", "SYS_PTRACE"),
            ("0000000000083000", "SYS_ADMIN"),
            ("zz", "NET_ADMIN"),
        ] {
            let said = lacking(&format!("CapEff:\t{set}\n"), 4711);
            assert!(said.starts_with(name), "{said}");
        }
    }
}
