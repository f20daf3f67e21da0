//! `writ-webhook`: the admission webhook.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use writ_webhook::args::Args;
use writ_webhook::run::run;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    writ_service::run(env!("CARGO_BIN_NAME"), &args.logging, run(&args)).await
}
