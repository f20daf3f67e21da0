//! A folder of images is loaded only as its signer listed it (M-51): `scripts/sign-images` and `scripts/verify-images`,
//! which `scripts/kind-load` and `e2e/run` call before they load anything.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Makes two small images as `scripts/images` does, with what it writes beside them.
const MAKE: &str = r#"
import pathlib, sys
sys.path.insert(0, "scripts")
import oci, release
out, content = pathlib.Path(sys.argv[1]), sys.argv[2]
lines = []
for name in ["writ-init", "writ-sidecar"]:
    image = oci.Image(name, "1.2.3")
    image.text("/usr/bin/program", content)
    lines.append(f"{image.reference} {image.write(out)}\n")
(out / "digests.txt").write_text("".join(lines))
(out / "digests.yaml").write_text(release.values("".join(lines)))
(out / "writ-sidecar.cdx.json").write_text('{"bomFormat": "CycloneDX"}')
"#;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run scripts/bootstrap"))
}

fn done(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {told} (run scripts/bootstrap?)"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a release, and its signer's keys beside it.
struct Release(tempfile::TempDir);

impl Release {
    fn new() -> Self {
        let release = Self(tempfile::tempdir().unwrap());
        release.make("the program");
        release.keys("signer", "prime256v1");
        release.sign().unwrap();
        release
    }

    fn make(&self, content: &str) {
        let folder = self.at("release");
        done("python3", &["-B", "-c", MAKE, &folder, content]);
    }

    fn keys(&self, name: &str, curve: &str) {
        let (key, public) = (self.at(name), self.at(&format!("{name}.pub")));
        done(
            "openssl",
            &["ecparam", "-genkey", "-name", curve, "-noout", "-out", &key],
        );
        done(
            "openssl",
            &["pkey", "-in", &key, "-pubout", "-out", &public],
        );
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A file of the release.
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("release").join(name)
    }

    fn sign(&self) -> Result<String, String> {
        let key = self.at("signer");
        told(run(
            "scripts/sign-images",
            &[&self.at("release"), "--key", &key],
        ))
    }

    fn verify_with(&self, who: &[&str]) -> Result<String, String> {
        let folder = self.at("release");
        let arguments = [&[folder.as_str()], who].concat();
        told(run("scripts/verify-images", &arguments))
    }

    fn verify(&self) -> Result<String, String> {
        self.verify_with(&["--key", &self.at("signer.pub")])
    }

    fn refused(&self, why: &str) {
        let told = self.verify().expect_err(why);
        assert!(told.contains("REFUSED") && told.contains(why), "{told}");
    }
}

fn told(output: Output) -> Result<String, String> {
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_signed_release_is_taken_and_its_images_named() {
    let release = Release::new();
    let digests = fs::read_to_string(release.file("digests.txt")).unwrap();
    assert_eq!(release.verify(), Ok(digests.clone()));
    assert_eq!(digests.lines().count(), 2);
    // The chart's values name the same digests.
    let values = fs::read_to_string(release.file("digests.yaml")).unwrap();
    let values: serde_json::Value = serde_saphyr::from_str(&values).unwrap();
    assert_eq!(values["images"]["pinned"], true);
    for (name, line) in ["init", "sidecar"].iter().zip(digests.lines()) {
        let digest = line.rsplit_once(' ').unwrap().1;
        assert_eq!(values["images"][name]["digest"], digest);
    }
}

#[test]
fn stock_tools_verify_list_and_signature() {
    let release = Release::new();
    let (list, signature) = (release.file("SHA256SUMS"), release.at("der"));
    let base64 = release.file("SHA256SUMS.sig");
    done(
        "openssl",
        &[
            "base64",
            "-d",
            "-A",
            "-in",
            base64.to_str().unwrap(),
            "-out",
            &signature,
        ],
    );
    let public = release.at("signer.pub");
    done(
        "openssl",
        &[
            "dgst",
            "-sha256",
            "-verify",
            &public,
            "-signature",
            &signature,
            list.to_str().unwrap(),
        ],
    );
    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(release.at("release"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn an_unsigned_image_is_refused() {
    let release = Release::new();
    fs::remove_file(release.file("SHA256SUMS.sig")).unwrap();
    release.refused("there is no SHA256SUMS.sig");
    fs::remove_file(release.file("SHA256SUMS")).unwrap();
    release.refused("there is no SHA256SUMS: it is not signed");
}

#[test]
fn what_another_key_signed_is_refused() {
    let release = Release::new();
    release.keys("other", "prime256v1");
    let other = release.verify_with(&["--key", &release.at("other.pub")]);
    assert!(other.unwrap_err().contains("was not made with this key"));
    // A key of another kind says nothing, whatever openssl would make of it.
    release.keys("weak", "secp224r1");
    let weak = release.verify_with(&["--key", &release.at("weak.pub")]);
    assert!(weak.unwrap_err().contains("ECDSA over P-256"));
    for rubbish in ["", "AAAA", "not base64!"] {
        fs::write(release.file("SHA256SUMS.sig"), rubbish).unwrap();
        release.refused("SHA256SUMS.sig");
    }
}

#[test]
fn a_list_that_was_changed_after_it_was_signed_is_refused() {
    let release = Release::new();
    release.make("another program");
    let signature = fs::read(release.file("SHA256SUMS.sig")).unwrap();
    release.sign().unwrap();
    fs::write(release.file("SHA256SUMS.sig"), signature).unwrap();
    release.refused("over another SHA256SUMS");
}

#[test]
fn a_changed_file_is_refused_whichever_it_is() {
    let release = Release::new();
    for name in [
        "writ-init.tar",
        "writ-sidecar.tar",
        "writ-sidecar.cdx.json",
        "digests.txt",
        "digests.yaml",
    ] {
        let kept = fs::read(release.file(name)).unwrap();
        let mut changed = kept.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(release.file(name), changed).unwrap();
        release.refused(&format!("{name} is not the file that was signed"));
        fs::write(release.file(name), kept).unwrap();
    }
    assert!(release.verify().is_ok());
    // Another build under the old list.
    release.make("another program");
    release.refused("is not the file that was signed");
}

#[test]
fn a_missing_image_and_one_that_nobody_listed_are_refused() {
    let release = Release::new();
    let (init, another) = (
        release.file("writ-init.tar"),
        release.file("writ-other.tar"),
    );
    fs::rename(&init, &another).unwrap();
    release.refused("writ-init.tar is missing");
    fs::copy(&another, &init).unwrap();
    release.refused("writ-other.tar is in the folder, but not in the signed list");
    // Nor is such a folder signed.
    let told = release.sign().unwrap_err();
    assert!(
        told.contains("writ-other.tar is named by no line"),
        "{told}"
    );
    fs::remove_file(&another).unwrap();
    release.sign().unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &another).unwrap();
    release.refused("is no file of a release");
}

#[test]
fn an_archive_that_is_not_the_image_of_its_name_is_not_signed_and_not_taken() {
    let release = Release::new();
    // One image under the name of the other.
    fs::copy(
        release.file("writ-sidecar.tar"),
        release.file("writ-init.tar"),
    )
    .unwrap();
    let told = release.sign().unwrap_err();
    assert!(told.contains("writ-init.tar does not hold"), "{told}");

    // A layer that is not what its digest says, under a list that its signer wrote without looking.
    release.make("the program");
    let mut archive = fs::read(release.file("writ-init.tar")).unwrap();
    // The first blob's bytes begin after oci-layout's header and block, and its own header.
    archive[512 * 3] ^= 1;
    fs::write(release.file("writ-init.tar"), archive).unwrap();
    let told = release.sign().unwrap_err();
    assert!(told.contains("is not what its name says"), "{told}");
    let list = done(
        "sh",
        &[
            "-c",
            &format!(
                "cd {} && sha256sum *.tar *.txt *.yaml *.json",
                release.at("release")
            ),
        ],
    );
    fs::write(release.file("SHA256SUMS"), list).unwrap();
    let script = "import pathlib, sys; sys.path.insert(0, 'scripts'); import release; \
        release.sign(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))";
    let (folder, key) = (release.at("release"), release.at("signer"));
    done("python3", &["-B", "-c", script, &folder, &key]);
    release.refused("is not what its name says");
}

#[test]
fn without_a_key_cosign_says_whose_the_signature_is() {
    let release = Release::new();
    let who = ["--identity", "https://ci.example/release"];
    let unsigned = release.verify_with(&who).unwrap_err();
    assert!(unsigned.contains("there is no SHA256SUMS.sigstore.json"));
    fs::write(release.file("SHA256SUMS.sigstore.json"), "{}").unwrap();
    // In cosign's place: takes the list that it is given, of this signer alone.
    let bin = release.0.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("cosign");
    let said = release.at("said");
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$@\" >{said}\ncmp -s - {}/SHA256SUMS && [ \"$5\" = https://ci.example/release ]\n", release.at("release")),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let verify = |identity: &str| {
        let output = Command::new("scripts/verify-images")
            .args([&release.at("release"), "--identity", identity])
            .env("PATH", &path)
            .current_dir(repository())
            .output();
        told(output.unwrap())
    };
    assert!(verify("https://ci.example/release").is_ok());
    let line = fs::read_to_string(&said).unwrap();
    assert!(line.starts_with("verify-blob --bundle "), "{line}");
    assert!(
        line.contains("--certificate-oidc-issuer https://token.actions.githubusercontent.com -")
    );
    assert!(verify("https://ci.example/other").is_err());
    // Who signed the list does not matter once a file is another one.
    fs::write(release.file("writ-sidecar.cdx.json"), "{}").unwrap();
    assert!(verify("https://ci.example/release").is_err());
}

#[test]
fn nothing_of_a_release_that_is_not_its_signers_is_loaded_into_a_cluster() {
    let release = Release::new();
    let bin = release.0.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let (kind, loaded) = (bin.join("kind"), release.0.path().join("loaded"));
    fs::write(
        &kind,
        format!("#!/bin/sh\necho \"$@\" >>{}\n", loaded.display()),
    )
    .unwrap();
    fs::set_permissions(&kind, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let load = |who: &[&str]| {
        let output = Command::new("scripts/kind-load")
            .args(["agents", "--from", &release.at("release")])
            .args(who)
            .env("PATH", &path)
            .current_dir(repository())
            .output();
        told(output.unwrap())
    };
    let public = release.at("signer.pub");
    release.keys("other", "prime256v1");
    assert!(load(&[]).is_err());
    assert!(load(&["--key", &release.at("other.pub")]).is_err());
    assert!(!loaded.exists());
    load(&["--key", &public]).unwrap();
    let lines = fs::read_to_string(&loaded).unwrap();
    assert_eq!(lines.matches("load image-archive --name agents").count(), 2);
    fs::remove_file(&loaded).unwrap();
    fs::remove_file(release.file("SHA256SUMS.sig")).unwrap();
    assert!(load(&["--key", &public]).unwrap_err().contains("REFUSED"));
    assert!(!loaded.exists());
}

#[test]
fn the_bill_of_materials_of_an_image_names_the_origin_of_every_file_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(folder.path().join("node_modules/node/bin")).unwrap();
    for (name, text) in [
        (
            "node_modules/node/package.json",
            r#"{"name": "@a/node", "version": "1.2.3"}"#,
        ),
        ("node_modules/node/bin/node", "node"),
        ("writ-init", "ours"),
        ("made-here", "abc"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let script = r#"
import json, pathlib, sys
sys.path.insert(0, "scripts")
import bom
ours, npm, loose, system = map(pathlib.Path, sys.argv[1:])
crates = {"metadata": {"component": {"bom-ref": "ours", "name": "writ-sidecar"}},
          "components": [{"bom-ref": "serde", "name": "serde"}], "dependencies": [{"ref": "ours"}]}
print(json.dumps(bom.of_image("localhost/writ/writ-init:1.2.3", "sha256:" + "1" * 64, crates, {ours, npm, loose, system}, {ours})))
"#;
    let system = fs::canonicalize("/bin/sh").unwrap();
    let made = done(
        "python3",
        &[
            "-B",
            "-c",
            script,
            &at("writ-init"),
            &at("node_modules/node/bin/node"),
            &at("made-here"),
            system.to_str().unwrap(),
        ],
    );
    let bill: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let about = &bill["metadata"]["component"];
    assert_eq!(about["type"], "container");
    assert_eq!(about["hashes"][0]["content"], "1".repeat(64));
    assert_eq!(bill["dependencies"][0]["ref"], "ours");
    let parts: Vec<String> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["bom-ref"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(parts.len(), 5, "{parts:?}");
    let has = |start: &str| parts.iter().any(|part| part.starts_with(start));
    assert!(
        has("ours") && has("serde") && has("pkg:npm/%40a/node@1.2.3"),
        "{parts:?}"
    );
    // Of the system, by the package that it is from; what is from none, by its content.
    assert!(
        has("pkg:deb/") || has(&format!("file:{}@", system.display())),
        "{parts:?}"
    );
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(has(&format!("file:{}@{abc}", at("made-here"))), "{parts:?}");
}

#[test]
fn a_release_is_made_by_actions_that_are_pinned_by_commit() {
    let workflow = repository().join(".github/workflows/release.yaml");
    let workflow = fs::read_to_string(workflow).unwrap();
    let uses: Vec<&str> = workflow
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "))
        .collect();
    assert!(uses.len() > 3);
    for action in uses {
        let commit = action.split_once('@').unwrap().1;
        let commit = commit.split(' ').next().unwrap();
        let is_hash = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(is_hash, "{action}");
    }
}
