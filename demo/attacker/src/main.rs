//! Plays someone who stole an agent's identity: same SVID, same network, and an envelope that
//! once was valid. It presents that envelope, and others made from it, to a PEP, and prints what
//! the PEP answered to each.
#![forbid(unsafe_code)]

mod cases;
mod connection;
mod garbage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use writ_identity::{SvidSource, WorkloadApiSource};

/// How long to wait for the identity before there is none to be had.
const FIRST_SVID: Duration = Duration::from_secs(3);

/// Presents envelopes that a PEP must refuse, and one that it must accept.
#[derive(Parser)]
struct Args {
    /// Socket of the SPIFFE Workload API that issues the stolen identity.
    #[arg(long)]
    workload_api: PathBuf,
    /// Address of the target's pod.
    #[arg(long)]
    address: SocketAddr,
    /// SPIFFE ID of the target.
    #[arg(long)]
    peer: String,
    /// A request that was accepted: JSON with method, path, headers and body.
    #[arg(long)]
    template: PathBuf,
    /// Send fields of garbage instead.
    #[arg(long)]
    garbage: bool,
}

/// Why the attack could not be carried out; a refusal by the PEP is not among them.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] writ_identity::IdentityError),
    /// The template cannot be read.
    #[error("template: {0}")]
    Template(String),
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(String),
    /// An envelope could not be made.
    #[error("envelope: {0}")]
    Envelope(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(report) => {
            use std::io::Write as _;
            match writeln!(std::io::stdout(), "{report}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "attacker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<String, AttackError> {
    let text = std::fs::read_to_string(&args.template)
        .map_err(|error| AttackError::Template(error.to_string()))?;
    let template: cases::Template =
        serde_json::from_str(&text).map_err(|error| AttackError::Template(error.to_string()))?;
    let source: Arc<dyn SvidSource> = Arc::new(
        WorkloadApiSource::builder(&args.workload_api.to_string_lossy())
            .first_svid_within(FIRST_SVID)
            .connect()
            .await?,
    );
    let target = connection::Target {
        address: args.address,
        peer: args.peer.clone(),
        source,
    };
    let report = match args.garbage {
        true => garbage::run_all(&target, &template).await?,
        false => cases::run_all(&target, &template).await?,
    };
    serde_json::to_string_pretty(&report).map_err(|error| AttackError::Template(error.to_string()))
}
