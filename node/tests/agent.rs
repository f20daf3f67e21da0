//! What the agent begins, repeats and leaves alone, with a stand-in for what installs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::watcher::Event;
use serde_json::json;
use writ_node::agent::Agent;
use writ_node::enter::Install;
use writ_node::events::{Kind, Tell};
use writ_node::spec::{Repositories, Task};
use writ_node::{Metrics, NodeError};
use writ_webhook::settings::RedirectBy;
use writ_webhook::{Settings, inject};

const PATIENCE: Duration = Duration::from_secs(10);

/// Fails as often as it is told to, and keeps what it was asked for.
#[derive(Default)]
struct Fake {
    failures: AtomicUsize,
    asked: Mutex<Vec<String>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    pairs: Option<Barrier>,
}

impl Install for Fake {
    fn install(&self, task: &Task) -> Result<(), NodeError> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        if let Some(pairs) = &self.pairs {
            pairs.wait();
        }
        self.asked
            .lock()
            .unwrap()
            .push(task.container.to_string()[..1].to_owned());
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let fail = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if fail.is_ok() {
            Err(NodeError::NotFound)
        } else {
            Ok(())
        }
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<(Kind, String)>>);

#[async_trait]
impl Tell for Told {
    async fn tell(&self, regarding: &ObjectReference, kind: Kind, _: &str) {
        let name = regarding.name.clone().unwrap();
        self.0.lock().unwrap().push((kind, name));
    }
}

struct Stage {
    fake: Arc<Fake>,
    told: Arc<Told>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    events: mpsc::UnboundedSender<Result<Event<Pod>, String>>,
}

impl Stage {
    fn new(at_once: u16) -> Self {
        Self::with(at_once, Fake::default())
    }

    fn with(at_once: u16, fake: Fake) -> Self {
        let (events, watch) = mpsc::unbounded();
        let stage = Self {
            fake: Arc::new(fake),
            told: Arc::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            ready: Arc::default(),
            events,
        };
        let mut agent = Agent::new(
            "node-1".to_owned(),
            Repositories::of("init", "sidecar"),
            at_once,
            Arc::clone(&stage.fake) as Arc<dyn Install>,
            Arc::clone(&stage.told) as Arc<dyn Tell>,
            Arc::clone(&stage.metrics),
            Arc::clone(&stage.ready),
        );
        tokio::spawn(async move { agent.follow(watch).await });
        stage
    }

    fn see(&self, event: Event<Pod>) {
        self.events.unbounded_send(Ok(event)).unwrap();
    }

    fn asked(&self) -> Vec<String> {
        self.fake.asked.lock().unwrap().clone()
    }

    fn told(&self) -> Vec<(Kind, String)> {
        self.told.0.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let asked = || format!("{what}: {:?} {:?}", self.asked(), self.told());
        waited.await.unwrap_or_else(|_| panic!("{}", asked()));
    }

    /// All that was sent so far is seen: a further pod comes after it.
    async fn settled(&self) {
        let before = self.told().len();
        self.see(Event::Apply(refused(&format!("marker-{before}"))));
        self.until("the marker", |stage| {
            stage
                .told()
                .last()
                .is_some_and(|(_, name)| *name == format!("marker-{before}"))
        })
        .await;
    }
}

fn pod(name: &str, uid: u8, container: char) -> Pod {
    let id: String = std::iter::repeat_n(container, 64).collect();
    let pod = json!({
        "metadata": {"name": name, "namespace": "agents",
            "uid": format!("1a2b3c4d-0000-4000-8000-0123456789{uid:02x}")},
        "spec": {"nodeName": "node-1", "containers": [{"name": "agent", "image": "a"}]},
        "status": {"initContainerStatuses": [{"name": "writ-init",
            "containerID": format!("containerd://{id}"), "image": "x", "imageID": "x",
            "ready": false, "restartCount": 0, "state": {"running": {}}}]}
    });
    let settings = Settings {
        redirect: RedirectBy::Node,
        init_image: "init:1".to_owned(),
        sidecar_image: "sidecar:1".to_owned(),
        ..Settings::default()
    };
    inject(serde_json::from_value(pod).unwrap(), &settings).unwrap()
}

fn refused(name: &str) -> Pod {
    let mut pod = pod(name, 255, 'f');
    pod.spec.as_mut().unwrap().host_network = Some(true);
    pod.metadata.uid = Some(name.to_owned());
    pod
}

fn ended(name: &str, uid: u8) -> Pod {
    let mut pod = pod(name, uid, '0');
    let status = pod.status.as_mut().unwrap();
    status.init_container_statuses.as_mut().unwrap()[0].state =
        serde_json::from_value(json!({"terminated": {"exitCode": 0}})).unwrap();
    pod
}

#[tokio::test]
async fn each_start_of_the_init_container_is_served_once() {
    let stage = Stage::new(4);
    for event in [
        Event::Init,
        Event::InitApply(pod("a", 1, '0')),
        Event::InitDone,
    ] {
        stage.see(event);
    }
    stage
        .until("installed", |stage| stage.asked() == ["0"])
        .await;
    assert!(stage.ready.load(Ordering::Relaxed));
    // The pod changes in other ways, and is listed anew.
    stage.see(Event::Apply(pod("a", 1, '0')));
    for event in [
        Event::Init,
        Event::InitApply(pod("a", 1, '0')),
        Event::InitDone,
    ] {
        stage.see(event);
    }
    stage.settled().await;
    assert_eq!(stage.asked(), ["0"]);
    // A new sandbox, and so another start.
    stage.see(Event::Apply(ended("a", 1)));
    stage.see(Event::Apply(pod("a", 1, '1')));
    stage
        .until("again", |stage| stage.asked() == ["0", "1"])
        .await;
    stage
        .until("told", |stage| {
            let told = stage.told();
            told.iter()
                .filter(|(kind, _)| *kind == Kind::Redirected)
                .count()
                == 2
        })
        .await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_told_once() {
    let stage = Stage::new(4);
    stage.fake.failures.store(3, Ordering::SeqCst);
    stage.see(Event::Apply(pod("a", 1, '0')));
    stage
        .until("installed", |stage| {
            stage
                .told()
                .last()
                .is_some_and(|(kind, _)| *kind == Kind::Redirected)
        })
        .await;
    assert_eq!(stage.asked().len(), 4);
    let kinds: Vec<Kind> = stage.told().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::Failed, Kind::Redirected]);
    let text = String::from_utf8(stage.metrics.text()).unwrap();
    assert!(
        text.contains("installs_total{outcome=\"NotFound\"} 3"),
        "{text}"
    );
    assert!(
        text.contains("installs_total{outcome=\"Installed\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn nothing_is_tried_again_for_a_container_that_ended_or_a_pod_that_went() {
    for gone in [Event::Apply(ended("a", 1)), Event::Delete(pod("a", 1, '0'))] {
        let stage = Stage::new(4);
        stage.fake.failures.store(usize::MAX, Ordering::SeqCst);
        stage.see(Event::Apply(pod("a", 1, '0')));
        stage
            .until("tried", |stage| !stage.asked().is_empty())
            .await;
        stage.see(gone);
        stage.settled().await;
        stage
            .until("given up", |stage| stage.metrics.waiting.get() == 0)
            .await;
    }
}

#[tokio::test]
async fn a_pod_that_is_missing_from_a_new_list_is_given_up() {
    let stage = Stage::new(4);
    stage.fake.failures.store(usize::MAX, Ordering::SeqCst);
    stage.see(Event::Apply(pod("a", 1, '0')));
    stage
        .until("tried", |stage| !stage.asked().is_empty())
        .await;
    stage.see(Event::Init);
    stage.see(Event::InitDone);
    stage
        .until("given up", |stage| stage.metrics.waiting.get() == 0)
        .await;
}

#[tokio::test]
async fn a_refused_pod_is_told_once_and_nothing_is_installed() {
    let stage = Stage::new(4);
    stage.see(Event::Apply(refused("a")));
    stage.see(Event::Apply(refused("a")));
    stage.settled().await;
    let names: Vec<String> = stage.told().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "marker-0"].map(str::to_owned).to_vec());
    assert_eq!(stage.asked(), Vec::<String>::new());
    assert_eq!(stage.metrics.refused.get(), 2);
}

#[tokio::test]
async fn no_more_pods_than_permitted_are_worked_on_at_once() {
    // Each waits until another one works beside it.
    let fake = Fake {
        pairs: Some(Barrier::new(2)),
        ..Fake::default()
    };
    let stage = Stage::with(2, fake);
    for uid in 0..12 {
        stage.see(Event::Apply(pod(&format!("p{uid}"), uid, '0')));
    }
    stage.until("all", |stage| stage.asked().len() == 12).await;
    assert_eq!(stage.fake.most_at_once.load(Ordering::SeqCst), 2);
}
