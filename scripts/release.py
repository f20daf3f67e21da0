"""The list of a release's files, its signature, and what is refused.

`SHA256SUMS` names every file of a release's folder, as `sha256sum --check` reads it; `digests.txt`,
one of them, names each image's reference and digest. The signature over the list, `SHA256SUMS.sig`,
is ECDSA over P-256 with SHA-256, DER in base64: `cosign verify-blob --key` and openssl read it.
"""
import base64
import binascii
import hashlib
import json
import pathlib
import re
import subprocess
import tarfile
import tempfile

LIST, SIGNATURE, BUNDLE = "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.sigstore.json"
DIGESTS, VALUES = "digests.txt", "digests.yaml"
# Longest of our own small files; archives are read piece by piece.
MAX_TEXT = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
IMAGE = re.compile(r"([a-z0-9][a-z0-9./:-]*/(writ-[a-z]+):[A-Za-z0-9._-]+) (sha256:[0-9a-f]{64})")
# What a public key on P-256 begins with (SubjectPublicKeyInfo in DER).
P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


class Refused(Exception):
    """Why a folder is not a release, or not the signer's."""


def values(digests: str) -> str:
    """The chart's values for these images: by digest, and no other in the release's namespaces."""
    lines = ["# The images of one release: helm install --values digests.yaml", "images:", "  pinned: true"]
    for _, name, digest in images(digests).values():
        lines.append(f"  {name.removeprefix('writ-')}: {{digest: '{digest}'}}")
    return "\n".join(lines) + "\n"


def write_list(folder: pathlib.Path) -> None:
    """Writes the list of what is in the folder, whose archives must be what digests.txt says."""
    for stale in (LIST, SIGNATURE, BUNDLE):
        (folder / stale).unlink(missing_ok=True)
    sums = {path.name: of_file(path) for path in files(folder)}
    check_images(folder, sums)
    (folder / LIST).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def sign(folder: pathlib.Path, key: pathlib.Path) -> None:
    """Signs the list with a P-256 key in PEM."""
    openssl("pkey", "-in", key, "-pubout", "-outform", "DER", check=on_p256)
    made = openssl("dgst", "-sha256", "-sign", key, folder / LIST)
    (folder / SIGNATURE).write_text(base64.b64encode(made).decode() + "\n")


def verify(folder: pathlib.Path, signed) -> list[str]:
    """Returns the images of a folder in which everything is as it was signed: `signed` refuses a list's
    bytes that are not."""
    if not (folder / LIST).is_file():
        raise Refused(f"there is no {LIST}: it is not signed")
    listed = text(folder / LIST)
    signed(listed)
    sums: dict[str, str] = {}
    for line in listed.decode("ascii", "replace").splitlines():
        parts = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if not parts or not NAME.fullmatch(parts[2]) or parts[2] in sums:
            raise Refused(f"{LIST} has a line that is none of a list's: {line[:80]!r}")
        sums[parts[2]] = parts[1]
    found = {path.name: path for path in files(folder) if path.name not in (LIST, SIGNATURE, BUNDLE)}
    for name in sorted(sums.keys() - found.keys()):
        raise Refused(f"{name} is missing")
    for name in sorted(found.keys() - sums.keys()):
        raise Refused(f"{name} is in the folder, but not in the signed list")
    for name, path in sorted(found.items()):
        if of_file(path) != sums[name]:
            raise Refused(f"{name} is not the file that was signed")
    return check_images(folder, sums)


def by_key(folder: pathlib.Path, key: pathlib.Path):
    """Takes a list that the owner of this public key signed."""
    def signed(listed: bytes) -> None:
        if not (folder / SIGNATURE).is_file():
            raise Refused(f"there is no {SIGNATURE}: it is not signed")
        try:
            signature = base64.b64decode(text(folder / SIGNATURE).strip(), validate=True)
        except binascii.Error:
            raise Refused(f"{SIGNATURE} is not base64") from None
        openssl("pkey", "-pubin", "-in", key, "-outform", "DER", check=on_p256)
        with tempfile.NamedTemporaryFile() as der:
            der.write(signature)
            der.flush()
            done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", key, "-signature", der.name],
                                  input=listed, capture_output=True)
        if done.returncode != 0:
            raise Refused(f"{SIGNATURE} was not made with this key, or over another {LIST}")
    return signed


def by_identity(folder: pathlib.Path, identity: str, issuer: str):
    """Takes a list that cosign says this identity signed, without a key of its own."""
    def signed(listed: bytes) -> None:
        if not (folder / BUNDLE).is_file():
            raise Refused(f"there is no {BUNDLE}: it is not signed")
        try:
            done = subprocess.run(["cosign", "verify-blob", "--bundle", folder / BUNDLE, "--certificate-identity", identity,
                                   "--certificate-oidc-issuer", issuer, "-"], input=listed, capture_output=True)
        except FileNotFoundError:
            raise Refused("cosign is missing, which verifies identities; or use --key") from None
        if done.returncode != 0:
            raise Refused(f"cosign: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return signed


def images(digests: str) -> dict[str, tuple[str, str, str]]:
    """Archive -> reference, name and digest, as digests.txt says."""
    found: dict[str, tuple[str, str, str]] = {}
    for line in digests.splitlines():
        parts = IMAGE.fullmatch(line)
        if not parts or f"{parts[2]}.tar" in found:
            raise Refused(f"{DIGESTS} has a line that names no image, or one again: {line[:80]!r}")
        found[f"{parts[2]}.tar"] = (parts[1], parts[2], parts[3])
    return found


def check_images(folder: pathlib.Path, sums: dict[str, str]) -> list[str]:
    """Holds archives against digests.txt, and digests.yaml too."""
    if DIGESTS not in sums:
        raise Refused(f"{DIGESTS} is missing: which images are these?")
    digests = text(folder / DIGESTS).decode("ascii", "replace")
    named = images(digests)
    archives = {name for name in sums if name.endswith(".tar")}
    for name in sorted(archives ^ named.keys()):
        what = "is named by no line of" if name in archives else "is missing, but named by"
        raise Refused(f"{name} {what} {DIGESTS}")
    for name, (reference, _, digest) in sorted(named.items()):
        if contents(folder / name) != (reference, digest):
            raise Refused(f"{name} does not hold {reference} {digest}, as {DIGESTS} says")
    if VALUES in sums and text(folder / VALUES).decode("ascii", "replace") != values(digests):
        raise Refused(f"{VALUES} does not say what {DIGESTS} says")
    return digests.splitlines()


def contents(archive: pathlib.Path) -> tuple[str, str]:
    """The reference and the digest of the one image in an archive, every part of which was hashed; also as
    `docker load` would read it."""
    try:
        with tarfile.open(archive, "r:") as opened:
            parts: dict[str, bytes | None] = {}
            for member in opened:
                read = opened.extractfile(member) if member.isreg() and member.name not in parts else None
                if read is None:
                    raise Refused(f"{archive.name} has a part that no image has: {member.name!r}")
                if member.name.startswith("blobs/sha256/"):
                    if hashlib.file_digest(read, "sha256").hexdigest() != member.name.removeprefix("blobs/sha256/"):
                        raise Refused(f"{archive.name} has a part that is not what its name says: {member.name}")
                    read.seek(0)
                parts[member.name] = read.read() if member.size <= MAX_TEXT else None
            blob = lambda descriptor: "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")
            [only] = json.loads(parts["index.json"])["manifests"]
            manifest = json.loads(parts[blob(only)])
            [docker] = json.loads(parts["manifest.json"])
            config, layers = blob(manifest["config"]), [blob(layer) for layer in manifest["layers"]]
            reference = only["annotations"]["io.containerd.image.name"]
            same = docker == {"Config": config, "RepoTags": [reference], "Layers": layers}
            expected = {"oci-layout", "index.json", "manifest.json", blob(only), config, *layers}
            if not same or parts.keys() != expected:
                raise Refused(f"{archive.name} holds more than one image, or is another one to docker")
            return reference, only["digest"]
    except (tarfile.TarError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"{archive.name} is no archive of an image: {error}") from None


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(folder.iterdir())
    for path in found:
        if not NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise Refused(f"{path.name!r} is no file of a release; remove it")
    return found


def of_file(path: pathlib.Path) -> str:
    with path.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()


def text(path: pathlib.Path) -> bytes:
    with path.open("rb") as read:
        data = read.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise Refused(f"{path.name} is too long")
    return data


def on_p256(der: bytes) -> None:
    if not der.startswith(P256):
        raise Refused("the key is not one for ECDSA over P-256")


def openssl(*arguments, check=lambda made: None) -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True)
    if done.returncode != 0:
        raise Refused(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    check(done.stdout)
    return done.stdout
