//! Reading a log while its sidecar writes it: a Unix socket beside the file.
//!
//! redb lets one process open a file at a time, so the writer answers readers from read
//! transactions of its own, which never hold up a commit. The socket has the permissions of the
//! log itself (owner only), answers reads only, and bounds what it reads and answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::db::{Stored, View};
use super::{MAX_WITNESS_BYTES, Shared, open_error};
use crate::encoding::MAX_INTEGER;
use crate::id::WitnessId;
use crate::tree::Nodes;
use crate::{Hash, LedgerError};

/// Most readers at once.
const MAX_READERS: usize = 8;
const MAX_ASK_BYTES: u64 = 64 * 1024;
const MAX_ITEMS: u32 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
const PAGE: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// A question: one line of JSON. The answer is a list of byte strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) enum Ask {
    Head,
    Page { from: u64, max: usize },
    Nodes { indexes: Vec<u64> },
    Witness { id: WitnessId },
    Checkpoints,
}

/// Answers from one state of the log.
pub(super) fn reply(view: &View, ask: Ask) -> Result<Vec<Vec<u8>>, LedgerError> {
    Ok(match ask {
        Ask::Head => vec![
            view.log()?.as_str().as_bytes().to_vec(),
            number(view.size()?),
        ],
        Ask::Page { from, max } => {
            let page = view.records(from, max.min(PAGE), PAGE_BYTES)?;
            let item = |(seq, bytes, leaf): Stored| {
                [
                    number(seq),
                    bytes,
                    leaf.map(|l| l.to_vec()).unwrap_or_default(),
                ]
            };
            page.into_iter().flat_map(item).collect()
        }
        Ask::Nodes { indexes } => {
            let nodes = view.nodes(&indexes).unwrap_or_default();
            nodes.into_iter().map(|node| node.to_vec()).collect()
        }
        Ask::Witness { id } => view.witness(&id)?.into_iter().collect(),
        Ask::Checkpoints => {
            let item = |(size, note): (u64, Vec<u8>)| [number(size), note];
            view.checkpoints()?.into_iter().flat_map(item).collect()
        }
    })
}

fn number(n: u64) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

/// Reads a number of an answer.
pub(super) fn to_number(bytes: &[u8]) -> Option<u64> {
    let n = u64::from_be_bytes(bytes.try_into().ok()?);
    (n <= MAX_INTEGER).then_some(n)
}

/// Reads a hash of an answer.
pub(super) fn to_hash(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}

/// Asks over a socket.
pub(super) fn ask(
    stream: &mut UnixStream,
    ask: &Ask,
) -> std::io::Result<Result<Vec<Vec<u8>>, String>> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let count = read_u32(stream)?;
    if count == u32::MAX {
        let message = read_item(stream)?;
        return Ok(Err(String::from_utf8_lossy(&message).into_owned()));
    }
    if count > MAX_ITEMS {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    (0..count)
        .map(|_| read_item(stream))
        .collect::<Result<_, _>>()
        .map(Ok)
}

fn read_u32(stream: &mut UnixStream) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_item(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let length = read_u32(stream)? as usize;
    if length > MAX_WITNESS_BYTES {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_items(
    out: &mut impl Write,
    items: &Result<Vec<Vec<u8>>, LedgerError>,
) -> std::io::Result<()> {
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    match items {
        Ok(items) => {
            out.write_all(&word(items.len()))?;
            for item in items {
                out.write_all(&word(item.len()))?;
                out.write_all(item)?;
            }
        }
        Err(error) => {
            let message = error.to_string();
            out.write_all(&u32::MAX.to_be_bytes())?;
            out.write_all(&word(message.len()))?;
            out.write_all(message.as_bytes())?;
        }
    }
    out.flush()
}

/// Listens until it is dropped.
pub(super) struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Listens at `path`. The caller holds the lock of the log, so a socket that is there is a
    /// leftover.
    pub(super) fn bind(path: &Path, shared: &Arc<Shared>) -> Result<Self, LedgerError> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(open_error(path, &e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|e| open_error(path, &e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| open_error(path, &e))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::downgrade(shared), stop.clone());
        std::thread::Builder::new()
            .name("writ-log-read".to_owned())
            .spawn(move || accept(&listener, &shared, &stopped))
            .map_err(|e| open_error(path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            stop,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is to stop.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, shared: &Weak<Shared>, stop: &AtomicBool) {
    let readers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of file descriptors, most likely: wait until some are free.
            std::thread::park_timeout(Duration::from_millis(100));
            continue;
        };
        if readers.fetch_add(1, Ordering::AcqRel) >= MAX_READERS {
            readers.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (shared, count) = (shared.clone(), readers.clone());
        let spawned = std::thread::Builder::new()
            .name("writ-log-read".to_owned())
            .spawn(move || {
                // A reader that goes away in the middle is no event.
                let _ = serve(stream, &shared);
                count.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            readers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve(stream: UnixStream, shared: &Weak<Shared>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut out = std::io::BufWriter::new(stream.try_clone()?);
    let mut questions = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = (&mut questions)
            .take(MAX_ASK_BYTES)
            .read_until(b'\n', &mut line)?;
        if read == 0 || !line.ends_with(b"\n") {
            return Ok(());
        }
        let ask: Ask = serde_json::from_slice(&line)?;
        let answer = match shared.upgrade() {
            Some(shared) => shared.db().and_then(|db| reply(&db.view()?, ask)),
            None => Err(LedgerError::Closed),
        };
        write_items(&mut out, &answer)?;
    }
}
