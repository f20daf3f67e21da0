//! The interception CA: what stock clients accept of it, and where its key may be (T-040).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use writ_identity::IdentityError;
use writ_identity::ca::{KeyStore, LEAF_LIFETIME, Permitted, PodCa};
use writ_identity::tls;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn permitted(names: &[&str], addresses: &[&str]) -> Permitted {
    Permitted {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn pod_ca() -> PodCa {
    PodCa::load_or_create(
        &KeyStore::Ephemeral,
        permitted(&["api.example.com", "localhost"], &[]),
        now(),
    )
    .unwrap()
}

fn pem(der: &[u8]) -> String {
    use x509_cert::der::pem::{LineEnding, encode_string};
    encode_string("CERTIFICATE", LineEnding::LF, der).unwrap()
}

fn openssl_verify(root: &str, leaf: &str, name_check: &[&str]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let output = Command::new("openssl")
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-no-CApath",
            "-no-CAstore",
        ])
        .args(name_check)
        .arg("-CAfile")
        .arg(path("root.pem", root))
        .arg(path("leaf.pem", leaf))
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn openssl_accepts_leaves_for_permitted_names_and_subdomains() {
    let ca = pod_ca();
    for name in ["api.example.com", "v1.api.example.com"] {
        let leaf = ca.leaf_for(name, now()).unwrap();
        let (root, leaf) = (pem(ca.certificate()), pem(&leaf.cert[0]));
        assert!(
            openssl_verify(&root, &leaf, &["-verify_hostname", name]),
            "{name}"
        );
        assert!(!openssl_verify(
            &root,
            &leaf,
            &["-verify_hostname", "other.example.com"]
        ));
    }
}

/// A leaf that the stolen key of the CA might sign.
fn stolen(sans: Vec<SanType>, permitted_names: Permitted) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let store = KeyStore::Development(directory.path().to_owned());
    let ca = PodCa::load_or_create(&store, permitted_names, now()).unwrap();
    let text = fs::read_to_string(directory.path().join("pod-ca.pem")).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).unwrap();
    let key = KeyPair::try_from(key.secret_pkcs8_der()).unwrap();
    let issuer = Issuer::from_ca_cert_der(ca.certificate(), key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = sans;
    params.use_authority_key_identifier_extension = true;
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::HOUR;
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::HOUR;
    let leaf = params.signed_by(&common::key(), &issuer).unwrap();
    (pem(ca.certificate()), leaf.pem())
}

#[test]
fn openssl_refuses_what_a_stolen_key_signs_outside_the_constraints() {
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let ip = |address: &str| SanType::IpAddress(address.parse::<IpAddr>().unwrap());
    let names = || permitted(&["api.example.com"], &["192.0.2.7"]);
    let plain = || permitted(&["api.example.com"], &[]);
    for (sans, allowed, accepted) in [
        (vec![dns("api.example.com")], plain(), true),
        (vec![dns("bank.example.org")], plain(), false),
        (vec![dns("example.com")], plain(), false),
        (vec![dns("notapi.example.com")], plain(), false),
        (
            vec![dns("api.example.com"), dns("bank.example.org")],
            plain(),
            false,
        ),
        (vec![ip("192.0.2.7")], plain(), false),
        (vec![ip("2001:db8::7")], plain(), false),
        (vec![ip("192.0.2.7")], names(), true),
        (vec![ip("192.0.2.8")], names(), false),
        (vec![ip("2001:db8::7")], names(), false),
    ] {
        let (root, leaf) = stolen(sans.clone(), allowed);
        assert_eq!(openssl_verify(&root, &leaf, &[]), accepted, "{sans:?}");
    }
}

/// One handshake of Python's `ssl` with a server that shows this leaf.
fn python_connects(bundle: &Path, leaf: Arc<rustls::sign::CertifiedKey>, name: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = tls::intercept_server_config(leaf).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        // A client that refuses the certificate ends the connection, which is an error here.
        while connection.is_handshaking() {
            if connection.complete_io(&mut stream).is_err() {
                return;
            }
        }
    });
    let script = "import socket, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[1])\n\
        with socket.create_connection(('127.0.0.1', int(sys.argv[2])), timeout=30) as s:\n\
        \x20   context.wrap_socket(s, server_hostname=sys.argv[3]).close()\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(bundle)
        .args([&port.to_string(), name])
        .output()
        .unwrap();
    server.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() || said.contains("CERTIFICATE_VERIFY_FAILED"),
        "{said}"
    );
    output.status.success()
}

#[test]
fn python_trusts_the_written_bundle_for_the_name_and_nothing_else() {
    let ca = pod_ca();
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.pem");
    let other_root = CertificateDer::from(common::Ca::new("a system root").der());
    ca.write_trust_bundle(&bundle, &[other_root]).unwrap();
    assert_eq!(
        fs::read_to_string(&bundle)
            .unwrap()
            .matches("BEGIN CERT")
            .count(),
        2
    );
    assert_eq!(
        fs::metadata(&bundle).unwrap().permissions().mode() & 0o777,
        0o644
    );

    let leaf = |ca: &PodCa| ca.leaf_for("api.example.com", now()).unwrap();
    assert!(python_connects(&bundle, leaf(&ca), "api.example.com"));
    assert!(!python_connects(&bundle, leaf(&ca), "other.example.com"));
    assert!(!python_connects(
        &bundle,
        leaf(&pod_ca()),
        "api.example.com"
    ));
}

#[test]
fn a_leaf_has_exactly_one_san_and_a_short_life() {
    use x509_cert::der::Decode;
    use x509_cert::ext::pkix::SubjectAltName;
    let ca = pod_ca();
    let leaf = ca.leaf_for("API.example.com.", now()).unwrap();
    let parsed = x509_cert::Certificate::from_der(&leaf.cert[0]).unwrap();
    let tbs = parsed.tbs_certificate();
    let (_, names) = tbs.get_extension::<SubjectAltName>().unwrap().unwrap();
    assert_eq!(names.0.len(), 1);
    let end = tbs.validity().not_after.to_unix_duration().as_secs();
    assert!(end <= now() + LEAF_LIFETIME);
}

#[test]
fn leaves_are_kept_and_renewed_after_half_of_their_life() {
    let (ca, start) = (pod_ca(), now());
    let first = ca.leaf_for("api.example.com", start).unwrap();
    let again = ca
        .leaf_for("api.example.com", start + LEAF_LIFETIME / 2 - 1)
        .unwrap();
    let renewed = ca
        .leaf_for("api.example.com", start + LEAF_LIFETIME / 2)
        .unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &renewed));
}

#[test]
fn names_outside_the_constraints_get_no_leaf() {
    let ca = pod_ca();
    for name in [
        "example.com",
        "notapi.example.com",
        "api.example.com.evil.org",
        "127.0.0.1",
        "::1",
        "*.api.example.com",
        "",
        ".",
        "api.example.com\0",
        "a b.api.example.com",
    ] {
        let refused = ca.leaf_for(name, now()).map(|_| ());
        assert!(
            matches!(refused, Err(IdentityError::NameNotPermitted(_))),
            "{name:?} {refused:?}"
        );
    }
}

#[test]
fn a_ca_for_nothing_or_for_patterns_is_refused() {
    for names in [&[][..], &["*.example.com"], &["192.0.2.7"], &["bad name"]] {
        let made = PodCa::load_or_create(&KeyStore::Ephemeral, permitted(names, &[]), now());
        assert!(matches!(made, Err(IdentityError::Ca(_))), "{names:?}");
    }
}

/// A directory on tmpfs, which every Linux mounts at /dev/shm.
fn memory_backed() -> (TempDir, KeyStore) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = KeyStore::MemoryBacked(directory.path().to_owned());
    (directory, store)
}

#[test]
fn a_restart_finds_the_same_ca_with_the_constraints_it_started_with() {
    let (directory, store) = memory_backed();
    let first = PodCa::load_or_create(&store, permitted(&["a.example"], &[]), now()).unwrap();
    let more = permitted(&["a.example", "b.example"], &[]);
    let second = PodCa::load_or_create(&store, more, now()).unwrap();
    assert_eq!(first.certificate(), second.certificate());
    assert_eq!(
        second.permitted().names,
        BTreeSet::from(["a.example".to_owned()])
    );
    assert!(second.leaf_for("b.example", now()).is_err());
    let file = directory.path().join("pod-ca.pem");
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_on_a_disk_is_refused_unless_it_is_for_development() {
    // The build directory stands on the disk.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().to_owned();
    let made = |store| PodCa::load_or_create(&store, permitted(&["a.example"], &[]), now());
    let refused = made(KeyStore::MemoryBacked(path.clone())).map(|_| ());
    assert_eq!(
        refused,
        Err(IdentityError::NotMemoryBacked { path: path.clone() })
    );
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert!(made(KeyStore::Development(path)).is_ok());
}

#[test]
fn a_key_file_that_others_can_read_or_that_is_a_link_is_refused() {
    let (directory, store) = memory_backed();
    let made = || PodCa::load_or_create(&store, permitted(&["a.example"], &[]), now()).map(|_| ());
    made().unwrap();
    let file = directory.path().join("pod-ca.pem");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        made(),
        Err(IdentityError::InsecureKeyFile { mode: 0o640, .. })
    ));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(matches!(made(), Err(IdentityError::Io { .. })));
}

#[test]
fn a_damaged_key_file_is_an_error_and_is_not_replaced() {
    let (directory, store) = memory_backed();
    let made = || PodCa::load_or_create(&store, permitted(&["a.example"], &[]), now()).map(|_| ());
    made().unwrap();
    let file = directory.path().join("pod-ca.pem");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(matches!(made(), Err(IdentityError::Ca(_))));
    assert_eq!(fs::read_to_string(&file).unwrap(), text[..text.len() / 2]);
}

#[test]
fn debug_output_shows_no_key() {
    let printed = format!("{:?}", pod_ca());
    assert!(printed.contains("api.example.com"));
    assert!(!printed.contains("key"));
}
