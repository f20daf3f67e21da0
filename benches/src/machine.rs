//! The machine that was measured.

use std::process::Command;

use serde::Serialize;

/// What a reader needs to know to compare.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// Threads that the system offers.
    pub threads: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// Kernel.
    pub kernel: String,
    /// Compiler.
    pub rustc: String,
}

/// Describes this machine, "unknown" where it does not say.
pub fn describe() -> Machine {
    let proc = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let said = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let memory = proc("/proc/meminfo", "MemTotal").and_then(|kib| {
        let kib: u64 = kib.split(' ').next()?.parse().ok()?;
        Some(kib.div_ceil(1024 * 1024))
    });
    Machine {
        cpu: proc("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        threads: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: memory.unwrap_or(0),
        kernel: said("uname", "-r").unwrap_or_else(unknown),
        rustc: said("rustc", "--version").unwrap_or_else(unknown),
    }
}
