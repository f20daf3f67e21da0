//! What all tests share: one runtime, one client, one chain; and how a test is played.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use futures::FutureExt as _;
use kube::Client;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock};

use crate::{Chain, Options, Stage, diagnosis};

/// Namespace of our own pods.
pub const SYSTEM: &str = "writ-system";
/// The trust domain of the cluster's SPIRE.
pub const TRUST_DOMAIN: &str = "writ.local";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static WORLD: OnceCell<World> = OnceCell::const_new();
/// Held to write by tests that disturb what all share.
static PEACE: RwLock<()> = RwLock::const_new(());

/// What all tests share.
pub struct World {
    /// As cluster-admin.
    pub client: Client,
    /// The EVM node in the cluster, with the contracts deployed.
    pub chain: Chain,
}

impl World {
    /// The one world, made when the first test asks for it.
    pub async fn get() -> &'static Self {
        WORLD
            .get_or_init(|| async {
                let _ = rustls::crypto::ring::default_provider().install_default();
                let client = Client::try_default()
                    .await
                    .expect("a kubeconfig in KUBECONFIG; e2e/run sets it");
                let chain = Chain::start(&client).await;
                Self { client, chain }
            })
            .await
    }
}

/// Plays a scene on a stage of its own, beside other tests.
pub fn play<F: AsyncFnOnce(&Stage)>(name: &str, scene: F) {
    play_with(name, Options::default(), scene);
}

/// The same, on a stage with other options.
pub fn play_with<F: AsyncFnOnce(&Stage)>(name: &str, options: Options, scene: F) {
    RUNTIME.block_on(async {
        let _peace = PEACE.read().await;
        act(name, options, scene).await;
    });
}

/// Plays a scene that disturbs what all share, while no other test runs.
pub fn play_alone<F: AsyncFnOnce(&Stage)>(name: &str, scene: F) {
    play_alone_with(name, Options::default(), scene);
}

/// The same, on a stage with other options.
pub fn play_alone_with<F: AsyncFnOnce(&Stage)>(name: &str, options: Options, scene: F) {
    RUNTIME.block_on(async {
        let _alone = PEACE.write().await;
        act(name, options, scene).await;
    });
}

async fn act<F: AsyncFnOnce(&Stage)>(name: &str, options: Options, scene: F) {
    let stage = Stage::set(World::get().await, name, options).await;
    let played = AssertUnwindSafe(scene(&stage)).catch_unwind().await;
    match played {
        Ok(()) => stage.strike().await,
        Err(panic) => {
            eprintln!("{}", diagnosis::tell(&stage).await);
            std::panic::resume_unwind(panic);
        }
    }
}
