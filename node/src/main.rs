//! `writ-node`: installs the redirection in agents' pods that may not do it themselves.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use writ_node::args::{Args, LogFormat};
use writ_node::run::run;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match start_logging(&args) {
        Ok(()) => run(&args).await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "writ-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(args: &Args) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| format!("--log {}: {error}; try `info`", args.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(false).init(),
    }
    Ok(())
}
