//! `writ-operator`: carries out what Writ's custom resources say.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use writ_operator::args::Args;
use writ_operator::run::run;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    writ_service::run(env!("CARGO_BIN_NAME"), &args.logging, run(&args)).await
}
