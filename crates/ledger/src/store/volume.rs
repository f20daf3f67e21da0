//! The file and the volume that it stands on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::open_error;
use crate::LedgerError;

/// Where a log is stored. Tests put one in its place that fails.
pub(super) trait Volume: Send {
    /// Opens the storage, or makes a new one.
    fn open(&self) -> Result<Box<dyn StorageBackend>, LedgerError>;
    /// Bytes that the log occupies.
    fn used(&self) -> io::Result<u64>;
    /// Bytes that are free for it.
    fn free(&self) -> io::Result<u64>;
}

/// A file on a disk.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }
}

impl Volume for Disk {
    fn open(&self) -> Result<Box<dyn StorageBackend>, LedgerError> {
        let new = !self.path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(|e| open_error(&self.path, &e))?;
        if new {
            // The name of a new file is durable only with its folder.
            let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))
                .and_then(|folder| folder.sync_all())
                .map_err(|e| open_error(&self.path, &e))?;
        }
        let backend = FileBackend::new(file).map_err(|e| open_error(&self.path, &e))?;
        Ok(Box::new(backend))
    }

    fn used(&self) -> io::Result<u64> {
        // The file grows by doubling and is sparse: count what it occupies, not how long it is.
        Ok(std::fs::metadata(&self.path)?.blocks().saturating_mul(512))
    }

    fn free(&self) -> io::Result<u64> {
        let volume = nix::sys::statvfs::statvfs(&self.path).map_err(io::Error::from)?;
        Ok(volume
            .blocks_available()
            .saturating_mul(volume.fragment_size()))
    }
}

/// Lets a boxed backend stand where redb wants one of a type.
#[derive(Debug)]
pub(super) struct Boxed(pub(super) Box<dyn StorageBackend>);

type Bound = std::ops::Bound<u64>;

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, start: Bound, end: Bound) -> Result<bool, redb::BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound, end: Bound) -> Result<bool, redb::BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound, end: Bound) -> Result<(), redb::BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound, end: Bound) -> Result<(), redb::BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound, end: Bound) -> Result<(), redb::BackendError> {
        self.0.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound, end: Bound) -> Result<bool, redb::BackendError> {
        self.0.query_lock_range(start, end)
    }
}
