//! What the node agent does about each pod: once for each start of its init container.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::watcher;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::enter::Install;
use crate::events::{Kind, Tell, named, reference};
use crate::spec::{Decision, Repositories, Task, decide};
use crate::{Metrics, NodeError, thread};

/// Before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The init container gives up after a minute, and its next start is another task.
const ATTEMPTS: u32 = 60;

/// What every pod's work shares.
struct Shared {
    installer: Arc<dyn Install>,
    tell: Arc<dyn Tell>,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
}

/// The pods of one node.
pub struct Agent {
    node: String,
    repositories: Repositories,
    shared: Arc<Shared>,
    pods: BTreeMap<String, Work>,
    /// Pods of the list that is being read, which ends with those that went meanwhile.
    listed: Option<BTreeSet<String>>,
    ready: Arc<AtomicBool>,
}

/// What was last done about a pod.
enum Work {
    Installing(Task, JoinHandle<()>),
    Refused(String),
}

impl Drop for Work {
    fn drop(&mut self) {
        // A thread that installs goes on to its end; nothing more is begun.
        if let Self::Installing(_, handle) = self {
            handle.abort();
        }
    }
}

impl Agent {
    /// For the pods of `node`. `ready` is set when all of them were seen.
    #[must_use]
    pub fn new(
        node: String,
        repositories: Repositories,
        at_once: u16,
        installer: Arc<dyn Install>,
        tell: Arc<dyn Tell>,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(at_once.into()));
        Self {
            node,
            repositories,
            shared: Arc::new(Shared {
                installer,
                tell,
                metrics,
                permits,
            }),
            pods: BTreeMap::new(),
            listed: None,
            ready,
        }
    }

    /// Follows a watch until it ends.
    pub async fn follow<E: std::fmt::Display>(
        &mut self,
        watch: impl Stream<Item = Result<watcher::Event<Pod>, E>>,
    ) {
        let mut watch = std::pin::pin!(watch);
        while let Some(event) = watch.next().await {
            match event {
                Ok(event) => self.see(event).await,
                Err(error) => {
                    self.shared.metrics.watch_failures.inc();
                    tracing::warn!(%error, "the watch of pods failed; trying again");
                }
            }
        }
    }

    async fn see(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.look(&pod).await;
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed.take() {
                    self.pods.retain(|uid, _| listed.contains(uid));
                }
                self.ready.store(true, Ordering::Relaxed);
            }
            watcher::Event::Apply(pod) => self.look(&pod).await,
            watcher::Event::Delete(pod) => {
                self.pods
                    .remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
        }
    }

    /// Begins, goes on with or ends what is done about a pod.
    async fn look(&mut self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        match decide(pod, &self.node, &self.repositories) {
            Decision::Other | Decision::Idle => {
                self.pods.remove(&uid);
            }
            Decision::Refused(refusal) => {
                let note = refusal.to_string();
                if !matches!(self.pods.get(&uid), Some(Work::Refused(known)) if *known == note) {
                    self.shared.metrics.refused.inc();
                    tracing::warn!(pod = named(pod), note, "refused");
                    let regarding = reference(pod);
                    self.shared
                        .tell
                        .tell(&regarding, Kind::Refused, &note)
                        .await;
                    self.pods.insert(uid, Work::Refused(note));
                }
            }
            Decision::Install(task) => {
                if !matches!(self.pods.get(&uid), Some(Work::Installing(known, _)) if *known == *task)
                {
                    tracing::info!(pod = named(pod), container = %task.container, "its init container waits");
                    let work = install(Arc::clone(&self.shared), reference(pod), (*task).clone());
                    self.pods
                        .insert(uid, Work::Installing(*task, tokio::spawn(work)));
                }
            }
        }
    }
}

/// Counts a pod as waiting for as long as it is held.
struct Waiting(Arc<Shared>);

impl Waiting {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.metrics.waiting.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.metrics.waiting.dec();
    }
}

async fn install(shared: Arc<Shared>, regarding: ObjectReference, task: Task) {
    let _waiting = Waiting::new(&shared);
    let begun = Instant::now();
    let mut told = BTreeSet::new();
    let mut pause = FIRST_PAUSE;
    for _ in 0..ATTEMPTS {
        let Ok(permit) = Arc::clone(&shared.permits).acquire_owned().await else {
            return;
        };
        let (installer, what) = (Arc::clone(&shared.installer), task.clone());
        let work = move || installer.install(&what);
        let outcome = thread::of_its_own("redirect", permit, work).await;
        let counted = outcome
            .as_ref()
            .map_or_else(NodeError::cause, |()| "Installed");
        shared.metrics.installs.with_label_values(&[counted]).inc();
        let error = match outcome {
            Ok(()) => {
                shared
                    .metrics
                    .install_seconds
                    .observe(begun.elapsed().as_secs_f64());
                let note = "the node agent installed the redirection";
                shared.tell.tell(&regarding, Kind::Redirected, note).await;
                return;
            }
            Err(error) => error,
        };
        tracing::warn!(pod = %task.pod, container = %task.container, %error, "not installed; trying again");
        // A container that has only just started does not listen yet.
        if pause > FIRST_PAUSE && told.insert(error.cause()) {
            let note = error.to_string();
            shared.tell.tell(&regarding, Kind::Failed, &note).await;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
