//! Which network namespace a container has, from /proc.
//!
//! A process is held by its folder in /proc: what is read through that folder is this process's or an
//! error, also when its number was given to another one in between.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::NodeError;
use crate::cgroup::{ContainerId, MAX_BYTES, Place, PodUid, place};

/// What /proc shows; another folder in tests.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
}

/// A network namespace, held open, so that it cannot become another one.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    key: Key,
}

/// Device and inode: what tells namespaces apart while one of them is held open (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(u64, u64);

impl From<FileStat> for Key {
    fn from(stat: FileStat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

impl Namespace {
    /// The file to enter it by.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the calling thread is in it.
    ///
    /// # Errors
    /// [`NodeError::System`].
    pub fn is_entered(&self) -> Result<bool, NodeError> {
        let path = "/proc/thread-self/ns/net";
        let here = File::open(path).map_err(|source| system(path, source))?;
        Ok(key(&here)? == self.key)
    }
}

/// One process, by its folder.
struct Process {
    number: u32,
    folder: OwnedFd,
}

impl Processes {
    /// Those that `folder` shows: `/proc`.
    #[must_use]
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The network namespace of `container` of the pod `pod`.
    ///
    /// # Errors
    /// When it has none of its own: it is the node's, another pod's too, or there are several.
    pub fn namespace(&self, pod: &PodUid, container: &ContainerId) -> Result<Namespace, NodeError> {
        let wanted = Place::Pod(pod.clone(), Some(container.clone()));
        let mut found: Option<Namespace> = None;
        for process in self.all()? {
            if process.place()? != Some(wanted.clone()) {
                continue;
            }
            let Some(namespace) = process.namespace()? else {
                continue;
            };
            // It may have moved while its namespace was opened.
            if process.place()? != Some(wanted.clone()) {
                continue;
            }
            match &found {
                Some(first) if first.key != namespace.key => return Err(NodeError::Several),
                Some(_) => {}
                None => found = Some(namespace),
            }
        }
        let found = found.ok_or(NodeError::NotFound)?;
        self.is_this_pods_alone(&found, pod)?;
        Ok(found)
    }

    /// The node's own is that of its first process; this program has one of its own, or the node's.
    fn is_this_pods_alone(&self, namespace: &Namespace, pod: &PodUid) -> Result<(), NodeError> {
        let first = self.one(1)?.map(|first| first.key()).transpose()?.flatten();
        let first = first.ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            system("the network namespace of process 1", gone)
        })?;
        if first == namespace.key || namespace.is_entered()? {
            return Err(NodeError::OfTheNode);
        }
        for process in self.all()? {
            // Those of no pod are the node's: whatever they do there, they do not need us for it.
            let other = match process.place()? {
                Some(Place::Pod(other, _)) if other != *pod => Some(other),
                Some(Place::Contradictory) => None,
                _ => continue,
            };
            if process.key()? == Some(namespace.key) {
                return Err(other.map_or(NodeError::Several, NodeError::Shared));
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<Vec<Process>, NodeError> {
        let failed = |source| system(&self.folder.display().to_string(), source);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            all.extend(self.one(number)?);
        }
        Ok(all)
    }

    fn one(&self, number: u32) -> Result<Option<Process>, NodeError> {
        let path = self.folder.join(number.to_string());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = there(nix::fcntl::open(&path, flags, Mode::empty()), number)?;
        Ok(opened.map(|folder| Process { number, folder }))
    }
}

impl Process {
    /// Where it belongs; `None` when it ended.
    fn place(&self) -> Result<Option<Place>, NodeError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = openat(&self.folder, "cgroup", flags, Mode::empty());
        let Some(file) = there(opened, self.number)? else {
            return Ok(None);
        };
        let mut text = String::new();
        let read = File::from(file).take(MAX_BYTES).read_to_string(&mut text);
        match read {
            Ok(_) => Ok(Some(place(&text))),
            Err(error) if ended(&error) => Ok(None),
            Err(source) => Err(system(&format!("process {}: cgroup", self.number), source)),
        }
    }

    /// Its network namespace; `None` when it ended.
    fn namespace(&self) -> Result<Option<Namespace>, NodeError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = openat(&self.folder, "ns/net", flags, Mode::empty());
        let Some(file) = there(opened, self.number)?.map(File::from) else {
            return Ok(None);
        };
        let key = key(&file)?;
        Ok(Some(Namespace { file, key }))
    }

    /// Which network namespace it has; `None` when it ended.
    fn key(&self) -> Result<Option<Key>, NodeError> {
        let stat = fstatat(&self.folder, "ns/net", nix::fcntl::AtFlags::empty());
        Ok(there(stat, self.number)?.map(Key::from))
    }
}

fn key(file: &File) -> Result<Key, NodeError> {
    let failed = |error: io::Error| system("a network namespace", error);
    let stat = fstat(file).map_err(|errno| failed(errno.into()))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(failed(io::Error::other("it is none")));
    }
    Ok(stat.into())
}

/// A process may end at any moment; nothing else that fails is passed over.
fn there<T>(result: nix::Result<T>, number: u32) -> Result<Option<T>, NodeError> {
    match result.map_err(io::Error::from) {
        Ok(value) => Ok(Some(value)),
        Err(error) if ended(&error) => Ok(None),
        Err(source) => Err(system(&format!("process {number}"), source)),
    }
}

fn ended(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ESRCH))
}

fn system(what: &str, source: io::Error) -> NodeError {
    NodeError::System {
        what: what.to_owned(),
        source,
    }
}
