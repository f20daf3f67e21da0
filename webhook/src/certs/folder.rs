//! Certificates that somebody else keeps, such as cert-manager: `tls.crt` and `tls.key` in a folder
//! that the kubelet changes by swapping a symlink.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use rustls::sign::CertifiedKey;

use super::{CertError, Current, certified};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The folder is looked at this often even when no change was told.
const EVERY: Duration = Duration::from_secs(30);

/// A folder with `tls.crt` and `tls.key`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    seen: Option<(Vec<u8>, Vec<u8>)>,
}

impl Folder {
    /// The folder at `path`; nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// The certificate, when it is another than last time.
    ///
    /// # Errors
    /// When it cannot be read, or certificate and key do not belong together.
    pub fn changed(&mut self) -> Result<Option<CertifiedKey>, CertError> {
        // Both files through one resolution of the symlink, or they may be of different times.
        let data = self.path.join("..data");
        let folder = data.canonicalize().unwrap_or_else(|_| self.path.clone());
        let read = (
            read(&folder.join("tls.crt"))?,
            read(&folder.join("tls.key"))?,
        );
        if self.seen.as_ref() == Some(&read) {
            return Ok(None);
        }
        let certified = certified(&read.0, &read.1)?;
        self.seen = Some(read);
        Ok(Some(certified))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    use std::io::Read as _;
    let failed = |reason: String| CertError::File {
        path: path.to_owned(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed("larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}

/// Serves what the folder holds, and each change of it, until dropped.
///
/// # Errors
/// When the folder holds no certificate at the start, or cannot be watched.
pub async fn follow(mut folder: Folder, current: Arc<Current>) -> Result<(), CertError> {
    let path = folder.path.clone();
    let unwatched = |error: notify::Error| CertError::File {
        path: path.clone(),
        reason: error.to_string(),
    };
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full means that a look is due already.
            let _ = tell.try_send(());
        }
    })
    .map_err(unwatched)?;
    watcher
        .watch(&path, notify::RecursiveMode::NonRecursive)
        .map_err(unwatched)?;
    if let Some(certified) = folder.changed()? {
        current.set(certified);
    }
    loop {
        // A failed watch costs promptness alone.
        let _ = tokio::time::timeout(EVERY, told.recv()).await;
        match folder.changed() {
            Ok(None) => {}
            Ok(Some(certified)) => {
                current.set(certified);
                tracing::info!("serving certificate reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "the certificate before stays in use");
            }
        }
    }
}
