//! The CA's file: certificate and key in one PEM text, so that there is never one without the other.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_cert::Certificate;
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::ext::pkix::NameConstraints as ReadConstraints;
use x509_cert::ext::pkix::name::GeneralName;
use zeroize::Zeroizing;

use super::{KeyStore, Permitted, ca_error};
use crate::{IdentityError, leaf};

const FILE: &str = "pod-ca.pem";
/// `RAMFS_MAGIC` of linux/magic.h, which nix does not name.
const RAMFS_MAGIC: i128 = 0x8584_58f6;
/// Largest file that is read: names for [`super::MAX_NAMES`], and more.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Whose CA the file holds after saving: two sidecars may have started at once.
pub(super) enum Saved {
    Ours,
    Theirs(Zeroizing<String>),
}

fn directory(store: &KeyStore) -> Option<&Path> {
    match store {
        KeyStore::Ephemeral => None,
        KeyStore::MemoryBacked(path) | KeyStore::Development(path) => Some(path),
    }
}

/// Reads the stored CA, if there is one.
pub(super) fn load(store: &KeyStore) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let Some(directory) = directory(store) else {
        return Ok(None);
    };
    if matches!(store, KeyStore::MemoryBacked(_)) {
        require_memory_backed(directory)?;
    }
    read(&directory.join(FILE))
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IdentityError::io(path, &error)),
    };
    let metadata = file.metadata().map_err(|e| IdentityError::io(path, &e))?;
    let mode = metadata.permissions().mode() & 0o7777;
    let owner = metadata.uid();
    if !metadata.is_file() || mode & 0o077 != 0 || owner != nix::unistd::geteuid().as_raw() {
        return Err(IdentityError::InsecureKeyFile {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(
        usize::try_from(metadata.len().min(MAX_FILE_BYTES)).unwrap_or_default() + 1,
    ));
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| IdentityError::io(path, &e))?;
    Ok(Some(text))
}

/// Writes the CA under its name in one step, unless another process was first.
pub(super) fn save(store: &KeyStore, text: &Zeroizing<String>) -> Result<Saved, IdentityError> {
    let Some(directory) = directory(store) else {
        return Ok(Saved::Ours);
    };
    let path = directory.join(FILE);
    let temporary = temporary(&path);
    write_new(&temporary, text.as_bytes(), 0o600)?;
    let linked = fs::hard_link(&temporary, &path);
    fs::remove_file(&temporary).map_err(|e| IdentityError::io(&temporary, &e))?;
    match linked {
        Ok(()) => Ok(Saved::Ours),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(&path)?
            .map(Saved::Theirs)
            .ok_or_else(|| IdentityError::Ca(format!("{} vanished", path.display()))),
        Err(error) => Err(IdentityError::io(&path, &error)),
    }
}

/// Replaces a file that holds no secret.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), IdentityError> {
    let temporary = temporary(path);
    write_new(&temporary, text.as_bytes(), 0o644)?;
    fs::rename(&temporary, path).map_err(|e| IdentityError::io(path, &e))
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let failed = |error: std::io::Error| IdentityError::io(path, &error);
    // A leftover of a process that died here and had this process id.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    // The umask may have taken bits away that readers need.
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Makes the directory if needed; its file system must live in memory.
fn require_memory_backed(directory: &Path) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| File::open(directory))
        .map_err(|e| IdentityError::io(directory, &e))
        .and_then(|opened| {
            let status = fstatfs(&opened).map_err(|e| IdentityError::io(directory, &e.into()))?;
            let kind = status.filesystem_type();
            if kind == TMPFS_MAGIC || i128::from(kind.0) == RAMFS_MAGIC {
                Ok(())
            } else {
                Err(IdentityError::NotMemoryBacked {
                    path: directory.to_owned(),
                })
            }
        })
}

pub(super) fn encode(
    certificate: &CertificateDer<'_>,
    pkcs8: &Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<String>, IdentityError> {
    let key = encode_string("PRIVATE KEY", LineEnding::LF, pkcs8).map_err(ca_error)?;
    let mut text = Zeroizing::new(key);
    text.push_str(&encode_string("CERTIFICATE", LineEnding::LF, certificate).map_err(ca_error)?);
    Ok(text)
}

pub(super) fn decode(
    text: &Zeroizing<String>,
) -> Result<(CertificateDer<'static>, Zeroizing<Vec<u8>>), IdentityError> {
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(ca_error)?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(ca_error)?;
    Ok((certificate, Zeroizing::new(key.secret_pkcs8_der().to_vec())))
}

/// Reads the permitted names and addresses back from the CA's certificate.
pub(super) fn permitted(certificate: &Certificate) -> Result<Permitted, IdentityError> {
    let constraints = leaf::extension::<ReadConstraints>(certificate)?
        .and_then(|constraints| constraints.permitted_subtrees)
        .ok_or_else(|| IdentityError::Ca("the stored CA has no name constraints".into()))?;
    let mut permitted = Permitted::default();
    for subtree in constraints {
        match subtree.base {
            GeneralName::DnsName(name) => {
                permitted.names.insert(name.as_str().to_owned());
            }
            GeneralName::IpAddress(bytes) => {
                permitted.addresses.insert(address(bytes.as_bytes())?);
            }
            _ => {
                return Err(IdentityError::Ca(
                    "the stored CA permits other names".into(),
                ));
            }
        }
    }
    Ok(permitted)
}

/// An address with a full mask, as this CA writes it.
fn address(bytes: &[u8]) -> Result<IpAddr, IdentityError> {
    let (address, mask) = bytes.split_at(bytes.len() / 2);
    if mask.iter().any(|byte| *byte != 0xff) {
        return Err(IdentityError::Ca(
            "the stored CA permits address ranges".into(),
        ));
    }
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(address)
        .map(|v6| Ipv6Addr::from(v6).into())
        .map_err(|_| IdentityError::Ca("the stored CA's address constraint is malformed".into()))
}
