//! `writ-node`: installs the redirection in agents' pods that may not do it themselves.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use writ_node::args::Args;
use writ_node::run::run;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    writ_service::run(env!("CARGO_BIN_NAME"), &args.logging, run(&args)).await
}
