//! `writ-bench-report`: what the benches measured, as a Markdown table against the budgets.
//!
//! Reads criterion's raw data and the distributions beside it from the target folder, and writes
//! the table to standard output; `--raw FILE` also gathers the raw numbers in one JSON file.
#![forbid(unsafe_code)]

mod machine;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing more can be said if this fails.
            let _ = writeln!(std::io::stderr(), "writ-bench-report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut args = std::env::args_os().skip(1);
    let raw = match args.next() {
        None => None,
        Some(flag) if flag == "--raw" => {
            Some(PathBuf::from(args.next().ok_or("--raw needs a file")?))
        }
        Some(other) => return Err(format!("{}: only --raw FILE is known", other.display())),
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    let measured = report::read(&target.join("criterion"))?;
    let machine = machine::describe();
    if let Some(path) = raw {
        let all = serde_json::json!({"machine": machine, "stages": measured});
        let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
        std::fs::write(&path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let text = report::markdown(&measured, &machine);
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| e.to_string())
}
