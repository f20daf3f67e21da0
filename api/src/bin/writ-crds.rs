//! `writ-crds [FOLDER]`: writes the custom resource definitions (default: manifests/crds).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("manifests/crds"), PathBuf::from);
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(
                std::io::stderr(),
                "writ-crds: {}: {error}",
                folder.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &std::path::Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    for (name, crd) in writ_api::crds() {
        std::fs::write(folder.join(name), writ_api::to_yaml(&crd)?).map_err(|e| e.to_string())?;
    }
    Ok(())
}
