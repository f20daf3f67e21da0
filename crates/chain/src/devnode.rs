//! A development chain for tests, benches and the demo: the real node program on a free loopback port.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;
use url::Url;

/// Private keys of the node's well-known development mnemonic, hex. They hold funds on development chains only.
pub const DEV_KEYS: [&str; 6] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
];

/// How to start a node.
#[derive(Debug, Clone)]
pub struct DevNodeOptions {
    /// The node program.
    pub program: PathBuf,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// How blocks come.
    pub mining: Mining,
    /// How long the node may take to listen.
    pub start_timeout: Duration,
}

/// How blocks come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mining {
    /// One block per transaction, at once. Without transactions the head stands still.
    Instant,
    /// One block every so many seconds; transactions wait for the next.
    Interval(u64),
    /// Both: a block for each transaction at once, and one every so many seconds.
    Mixed(u64),
}

impl Default for DevNodeOptions {
    fn default() -> Self {
        Self {
            program: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/anvil"),
            chain_id: 84532,
            mining: Mining::Instant,
            start_timeout: Duration::from_secs(20),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum DevNodeError {
    /// The program is not there.
    #[error("the development chain's program is missing at {0}: run scripts/bootstrap")]
    Missing(PathBuf),
    /// The program did not start or its output could not be read.
    #[error("the development chain's program at {program} did not start: {source}")]
    Start {
        /// The node program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program ended before it listened.
    #[error("the development chain ended before it listened; it said: {0}")]
    Ended(String),
    /// The program did not listen in time.
    #[error("the development chain did not listen within {0:?}")]
    Timeout(Duration),
}

/// A running node. It ends when this is dropped.
#[derive(Debug)]
pub struct DevNode {
    child: Child,
    url: Url,
    chain_id: u64,
}

impl DevNode {
    /// Starts a node on a free loopback port and waits until it listens.
    ///
    /// # Errors
    /// The program is missing, does not start, or does not listen in time.
    pub async fn start(options: DevNodeOptions) -> Result<Self, DevNodeError> {
        if !options.program.exists() {
            return Err(DevNodeError::Missing(options.program));
        }
        let start_error = |source| DevNodeError::Start {
            program: options.program.clone(),
            source,
        };
        let mut command = Command::new(&options.program);
        command.args([
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--chain-id",
            &options.chain_id.to_string(),
        ]);
        if let Mining::Interval(seconds) | Mining::Mixed(seconds) = options.mining {
            command.args(["--block-time", &seconds.to_string()]);
        }
        if let Mining::Mixed(_) = options.mining {
            command.arg("--mixed-mining");
        }
        let mut child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(start_error)?;
        let (sender, receiver) = oneshot::channel();
        let stdout = child.stdout.take();
        let reader = std::thread::Builder::new()
            .name("devnode".into())
            .spawn(move || {
                if let Some(stdout) = stdout {
                    drain(BufReader::new(stdout), sender);
                }
            });
        // From here on dropping the node ends the program.
        let url =
            Url::parse("http://127.0.0.1:1/").map_err(|e| start_error(std::io::Error::other(e)))?;
        let mut node = Self {
            child,
            url,
            chain_id: options.chain_id,
        };
        reader.map_err(start_error)?;
        let address = tokio::time::timeout(options.start_timeout, receiver)
            .await
            .map_err(|_| DevNodeError::Timeout(options.start_timeout))?
            .unwrap_or_else(|_| Err(String::new()))
            .map_err(DevNodeError::Ended)?;
        node.url = Url::parse(&format!("http://{address}/"))
            .map_err(|e| start_error(std::io::Error::other(e)))?;
        Ok(node)
    }

    /// Where it answers JSON-RPC.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its EIP-155 chain id.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Its process id, so that a test can stop and continue it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for DevNode {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the address that the node listens on, then reads on, so that the node never blocks on a full pipe.
fn drain(mut output: impl BufRead, sender: oneshot::Sender<Result<String, String>>) {
    let mut said = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        match output.by_ref().take(64 * 1024).read_line(&mut line) {
            Ok(0) | Err(_) => {
                let _ = sender.send(Err(said));
                return;
            }
            Ok(_) => {}
        }
        if let Some(address) = line.trim().strip_prefix("Listening on ") {
            let _ = sender.send(Ok(address.to_owned()));
            break;
        }
        if said.len() < 4096 {
            said.push_str(&line);
        }
    }
    let _ = std::io::copy(&mut output, &mut std::io::sink());
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;

    #[tokio::test]
    async fn a_missing_node_program_names_the_bootstrap_script() {
        let options = DevNodeOptions {
            program: "/nonexistent/anvil".into(),
            ..DevNodeOptions::default()
        };
        let error = DevNode::start(options).await.unwrap_err();
        assert!(error.to_string().contains("scripts/bootstrap"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_an_error() {
        let options = DevNodeOptions {
            program: "/bin/true".into(),
            ..DevNodeOptions::default()
        };
        assert!(matches!(
            DevNode::start(options).await,
            Err(DevNodeError::Ended(_))
        ));
    }
}
