//! `writ-dev-issuer`: gives workloads on one machine SPIFFE identities. For development only.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use writ_dev_issuer::{Config, IssuerError, serve};

/// SPIFFE Workload API server with an in-memory CA, FOR DEVELOPMENT ON ONE MACHINE ONLY.
///
/// It identifies callers by uid or by socket alone; use SPIRE in production. SIGHUP renews all
/// SVIDs.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Configuration file (YAML): trust domains, sockets, and who is who.
    #[arg(long, env = "WRIT_DEV_ISSUER_CONFIG")]
    config: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "writ-dev-issuer ended");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), IssuerError> {
    let yaml = std::fs::read_to_string(&args.config)
        .map_err(|e| IssuerError::Config(format!("{}: {e}", args.config.display())))?;
    let config = Config::from_yaml(&yaml)?;
    let on = |kind| signal(kind).map_err(|e| IssuerError::Serve(e.to_string()));
    let (mut hangup, mut terminate) = (on(SignalKind::hangup())?, on(SignalKind::terminate())?);
    let sockets: Vec<_> = config.sockets.iter().map(|s| s.path.clone()).collect();
    let mut issuer = serve(config).await?;
    tracing::warn!(
        ?sockets,
        "development issuer is serving; its CA key is in memory only"
    );
    loop {
        tokio::select! {
            ended = issuer.finished() => return ended,
            _ = hangup.recv() => issuer.rotate(),
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    issuer.shutdown().await;
    for path in sockets {
        // Best effort: a leftover socket is replaced at the next start.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
