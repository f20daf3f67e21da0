//! The sidecar's own `/etc/resolv.conf` and `/etc/hosts`.
//!
//! A container runtime gives every container of a pod the same two files, and root in any of them can
//! write them: an agent could send the sidecar to a chain, or a target, of its own making. So the
//! init container, which runs before any other, makes copies in a volume that only the sidecar mounts,
//! in the place of the shared ones.

use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Largest `resolv.conf`, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// What stands in `hosts`: not the pod's own names, of which the pod's author chooses some.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Copies `resolv_conf` into `folder`, and writes `hosts` beside it. What is there from an earlier
/// start of this pod stays: by now its containers could have written to the shared files.
///
/// # Errors
/// When a file cannot be read or written.
pub fn keep(folder: &Path, resolv_conf: &Path) -> Result<()> {
    let mut text = String::new();
    let file = std::fs::File::open(resolv_conf)?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, "more than 64 KiB"));
    }
    write_once(&folder.join("resolv.conf"), &text)?;
    write_once(&folder.join("hosts"), HOSTS)
}

/// Either the whole text or nothing is at `path` afterwards.
fn write_once(path: &Path, text: &str) -> Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let partial = path.with_extension("partial");
    // An earlier start may have broken off; root without capabilities cannot write over its file.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::write(&partial, text)?;
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o444))?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_copies_stay_what_they_were_before_any_other_container_ran() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        let own = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        std::fs::write(&shared, "nameserver 10.96.0.10\n").unwrap();
        keep(folder.path(), &shared).unwrap();
        std::fs::write(&shared, "nameserver 127.0.0.1\n").unwrap();
        keep(folder.path(), &shared).unwrap();
        assert_eq!(own("resolv.conf"), "nameserver 10.96.0.10\n");
        assert_eq!(own("hosts"), "127.0.0.1 localhost\n::1 localhost\n");
        let mode = std::fs::metadata(folder.path().join("hosts")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o444, "any uid reads it");
    }

    #[test]
    fn what_cannot_be_copied_whole_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        assert!(keep(folder.path(), &shared).is_err(), "there is none");
        std::fs::write(&shared, " ".repeat(65 << 10)).unwrap();
        assert!(keep(folder.path(), &shared).is_err(), "too large");
        assert!(!folder.path().join("resolv.conf").exists());
        std::fs::write(&shared, "nameserver 10.96.0.10\n").unwrap();
        std::fs::write(folder.path().join("resolv.partial"), "names").unwrap();
        keep(folder.path(), &shared).unwrap();
        let whole = std::fs::read_to_string(folder.path().join("resolv.conf")).unwrap();
        assert_eq!(whole, "nameserver 10.96.0.10\n", "a start broke off before");
    }
}
