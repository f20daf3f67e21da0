//! Puts the parts together and runs them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use writ_service::{Admin, ServiceError, listen, signalled};

use crate::Metrics;
use crate::agent::Agent;
use crate::args::Args;
use crate::enter::InNamespace;
use crate::events::Events;
use crate::process::Processes;

/// What this program needs, by name and bit of the capability sets (capabilities(7)).
pub const CAPABILITIES: [(&str, u32); 4] = [
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
];

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
    /// The watch ended by itself.
    #[error("the watch of pods ended")]
    Ended,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: &Args) -> Result<(), RunError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(RunError::Proc)?;
    permitted(&status, std::process::id())?;
    let client = Client::try_default()
        .await
        .map_err(|error| RunError::Kubernetes(error.to_string()))?;
    let metrics = Arc::new(Metrics::new()?);
    let listed = Arc::new(AtomicBool::new(false));
    let listener = listen(args.admin_listen).await?;
    let (seen, counted) = (Arc::clone(&listed), Arc::clone(&metrics));
    let ready = move || {
        let is = seen.load(Ordering::Relaxed);
        is.then_some(())
            .ok_or_else(|| "this node's pods were not listed yet".to_owned())
    };
    tokio::spawn(Admin::new(ready, move || counted.text()).serve(listener));
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
    tracing::info!(node = args.node, "node agent started");
    tokio::select! {
        () = agent.follow(watch) => Err(RunError::Ended),
        ended = signalled() => ended.map_err(RunError::from),
    }
}

/// Whether this process may do its work, by the text of its `/proc/self/status` and its number. With a
/// process namespace of its own it would be the first one, and see no other pod.
fn permitted(status: &str, number: u32) -> Result<(), RunError> {
    if number == 1 {
        return Err(RunError::Lacking("hostPID"));
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let lacks = |bit: &u32| effective & (1 << bit) == 0;
    match CAPABILITIES.iter().find(|(_, bit)| lacks(bit)) {
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
        let all = "Name:\twrit-node\nCapEff:\t0000000000283000\n";
        permitted(all, 4711).unwrap();
        let lacking = |status: &str, number| permitted(status, number).unwrap_err().to_string();
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
