//! Sockets in the kubelet's folders.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The file of a socket, which goes with this. The kubelet takes that for the driver's end.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    /// A later program's of the same name is not this one's.
    inode: u64,
}

/// Listens at `path`, for root alone. A socket that an earlier process left there is replaced.
pub fn bind(path: &Path) -> io::Result<(UnixListener, Bound)> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let bound = Bound {
        path: path.to_owned(),
        inode: fs::symlink_metadata(path)?.ino(),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((listener, bound))
}

impl Drop for Bound {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_another_programs_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        // As after SIGKILL: the listener is gone, the file is not.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, of_first) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (_second, of_second) = bind(&path).unwrap();
        drop((first, of_first));
        assert!(path.exists(), "it is the second's");
        drop(of_second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        fs::write(&path, "kept").unwrap();
        let refused = bind(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }
}
