//! The mounts themselves.
//!
//! This program's pod has the folder with SPIRE's socket as a volume, and confines that mount once. To
//! publish, a thread takes a copy of the mount that is attached nowhere, enters the node's mount namespace,
//! and attaches the copy there: at no moment can the volume be written through, and no folder of the node
//! needs mount propagation into this program's pod. Nothing below the kubelet's folder is reached through a
//! link, or by a path that the kubelet gave.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Statx, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::Target;
use super::target::MOUNT;
use crate::NodeError;

/// What the volume's mount is, and must be read back as.
const CONFINED: MountFlags = MountFlags::BIND
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const READ_BACK: StatVfsMountFlags = StatVfsMountFlags::RDONLY
    .union(StatVfsMountFlags::NOSUID)
    .union(StatVfsMountFlags::NODEV)
    .union(StatVfsMountFlags::NOEXEC);
/// Most mounts upon each other that are taken away. There is one, unless somebody else mounted there.
const MAX_LAYERS: usize = 8;

/// Carries requests out. It may block, and it leaves its thread in another namespace.
pub trait Mount: Send + Sync + 'static {
    /// Mounts the folder with SPIRE's socket at `target`, unless it is there already.
    ///
    /// # Errors
    /// [`NodeError`]; it may be tried again.
    fn publish(&self, target: &Target) -> Result<Published, NodeError>;

    /// Unmounts what is at `target`, if anything is, and removes the folder that was mounted on.
    ///
    /// # Errors
    /// [`NodeError`]; it may be tried again.
    fn unpublish(&self, target: &Target) -> Result<(), NodeError>;
}

/// How a volume came to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// By this request.
    Now,
    /// By one before.
    Before,
}

/// Mounts in the node's mount namespace.
#[derive(Debug)]
pub struct InNode {
    namespace: PathBuf,
    sockets: PathBuf,
    pods: PathBuf,
}

impl InNode {
    /// Confines the mount `sockets` of this program, and mounts copies of it in `namespace`
    /// (`/proc/1/ns/mnt`), where `kubelet` is the kubelet's own folder.
    ///
    /// # Errors
    /// When `sockets` is no mount.
    pub fn new(namespace: PathBuf, sockets: PathBuf, kubelet: PathBuf) -> Result<Self, NodeError> {
        let flags = CONFINED;
        rustix::mount::mount_remount(&sockets, flags, "").map_err(failed(
            "confining the mount with SPIRE's socket, which must be a volume of this program's",
        ))?;
        let pods = kubelet.join("pods");
        Ok(Self {
            namespace,
            sockets,
            pods,
        })
    }

    /// A copy of the mount with SPIRE's socket, attached nowhere.
    fn copy(&self) -> Result<OwnedFd, NodeError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = rustix::mount::open_tree(CWD, &self.sockets, flags)
            .map_err(failed("copying the mount with SPIRE's socket"))?;
        if !is_confined(&copy)? {
            return Err(NodeError::SocketFolder(
                "is not mounted read-only, nosuid, nodev, noexec",
            ));
        }
        if look(&copy)?.stx_nlink == 0 {
            return Err(NodeError::SocketFolder(
                "was removed, and perhaps made anew: restart this node's pod of writ-node",
            ));
        }
        Ok(copy)
    }

    /// The calling thread is in the node's mount namespace from here on, with a working folder and root of
    /// its own.
    fn enter(&self) -> Result<(), NodeError> {
        let path = &self.namespace;
        let namespace = File::open(path).map_err(|source| NodeError::System {
            what: path.display().to_string(),
            source,
        })?;
        let own = |errno: nix::Error| NodeError::System {
            what: "entering the node's mount namespace".to_owned(),
            source: errno.into(),
        };
        unshare(CloneFlags::CLONE_FS).map_err(own)?;
        setns(namespace, CloneFlags::CLONE_NEWNS).map_err(own)
    }

    /// The volume's folder, as the working folder; `None` when there is none.
    fn go_to(&self, target: &Target) -> Result<Option<OwnedFd>, NodeError> {
        let pods = rustix::fs::open(&self.pods, FOLDER, Mode::empty())
            .map_err(failed("opening the kubelet's folder of pods"))?;
        let folder = beneath(&pods, target.folder().as_path())?;
        if let Some(folder) = &folder {
            rustix::process::fchdir(folder).map_err(failed("changing to the volume's folder"))?;
        }
        Ok(folder)
    }
}

impl Mount for InNode {
    fn publish(&self, target: &Target) -> Result<Published, NodeError> {
        let copy = self.copy()?;
        let wanted = look(&copy)?;
        self.enter()?;
        let gone = || failed("opening the volume's folder")(Errno::NOENT);
        let folder = self.go_to(target)?.ok_or_else(gone)?;
        match rustix::fs::mkdirat(&folder, MOUNT, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making the folder to mount on")(errno)),
        }
        for _ in 0..MAX_LAYERS {
            let at = beneath(&folder, MOUNT)?.ok_or_else(gone)?;
            let found = look(&at)?;
            if !is_mounted(&found)? {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                    | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                rustix::mount::move_mount(&copy, "", &at, "", flags).map_err(failed("mounting"))?;
                return Ok(Published::Now);
            }
            if same(&found, &wanted) && is_confined(&at)? {
                return Ok(Published::Before);
            }
            // An older folder with SPIRE's socket, where nobody listens any more; or not as it must be.
            drop(at);
            unmount()?;
        }
        Err(failed("unmounting what is mounted there")(Errno::BUSY))
    }

    fn unpublish(&self, target: &Target) -> Result<(), NodeError> {
        self.enter()?;
        let Some(folder) = self.go_to(target)? else {
            return Ok(());
        };
        for _ in 0..MAX_LAYERS {
            let Some(at) = beneath(&folder, MOUNT)? else {
                return Ok(());
            };
            let found = look(&at)?;
            // What is held open cannot be unmounted.
            drop(at);
            if is_mounted(&found)? {
                unmount()?;
                continue;
            }
            return match rustix::fs::unlinkat(&folder, MOUNT, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(failed("removing the folder that was mounted on")(errno)),
            };
        }
        Err(failed("unmounting what is mounted there")(Errno::BUSY))
    }
}

const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder below another one, reached through no link; `None` when there is none.
fn beneath(folder: impl AsFd, path: impl rustix::path::Arg) -> Result<Option<OwnedFd>, NodeError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, path, FOLDER, Mode::empty(), resolve) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("opening the volume's folder")(errno)),
    }
}

/// Unmounts `mount` in the working folder.
fn unmount() -> Result<(), NodeError> {
    rustix::mount::unmount(MOUNT, UnmountFlags::NOFOLLOW).map_err(failed("unmounting"))
}

fn look(file: impl AsFd) -> Result<Statx, NodeError> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(failed("looking at a folder"))
}

fn is_mounted(found: &Statx) -> Result<bool, NodeError> {
    let known = found
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT);
    let told = known.then(|| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    told.ok_or_else(|| failed("telling mounts apart, which takes Linux 5.8")(Errno::NOSYS))
}

fn is_confined(mount: impl AsFd) -> Result<bool, NodeError> {
    let read = rustix::fs::fstatvfs(mount).map_err(failed("reading a mount back"))?;
    Ok(read.f_flag.contains(READ_BACK))
}

fn same(one: &Statx, other: &Statx) -> bool {
    let key = |found: &Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
    key(one) == key(other)
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> NodeError {
    move |errno| NodeError::System {
        what: what.to_owned(),
        source: errno.into(),
    }
}
