//! Checkpoints: signed, beside the log and in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Writer;
use crate::LedgerError;
use crate::checkpoint::Head;
use crate::store::{checkpoint_path, with_suffix};

/// Records between two checkpoints that are stored with the log.
const KEEP_CHECKPOINT_EVERY: u64 = 256;

impl Writer {
    pub(super) fn sign_checkpoint(&mut self) -> Result<Arc<str>, LedgerError> {
        let head = Head {
            origin: self.shared.id.origin(),
            size: self.tail.next,
            root: self
                .tail
                .tree
                .root()
                .map_err(|e| LedgerError::Storage(e.to_string()))?,
            time: self.shared.clock.unix_ms(),
        };
        let note = self.options.key.sign(&self.shared.id, &head)?;
        let text: Arc<str> = String::from_utf8_lossy(&note).into();
        if let Err(error) = replace_file(&checkpoint_path(&self.path), &note) {
            tracing::warn!(log = %self.shared.id, %error, "the checkpoint beside the log could not be written");
        }
        if head.size >= self.tail.kept + KEEP_CHECKPOINT_EVERY {
            self.note = Some((head.size, note));
        }
        self.signed = head.size;
        self.signed_at = Instant::now();
        self.shared.checkpoint.send_replace(Some(text.clone()));
        Ok(text)
    }
}

/// Replaces a small file so that readers see the old text or the new one.
fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = with_suffix(path, ".new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&new, path)
}
