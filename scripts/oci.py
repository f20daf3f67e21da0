"""Writes container images as archives, from files of this machine, without a registry or a daemon.

An archive is an OCI image layout that also holds what `docker load` reads. It depends on the files
alone, not on when or where it is written: the same files give the same digest.
"""
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import stat
import subprocess
import tarfile

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
NONROOT = 65532


class Image:
    """The files and the settings of one image."""

    def __init__(self, name: str, version: str):
        self.reference = f"localhost/writ/{name}:{version}"
        self.name = name
        self.files: dict[str, tuple[int, bytes | str]] = {}
        # Files of this machine that are in it.
        self.sources: set[pathlib.Path] = set()
        self.config: dict = {"User": f"{NONROOT}:{NONROOT}", "WorkingDir": "/",
                             "Env": ["PATH=/usr/sbin:/usr/bin:/bin"],
                             "Labels": {"org.opencontainers.image.title": name,
                                        "org.opencontainers.image.version": version}}
        self.folder("/tmp", 0o1777)
        self.text("/etc/passwd", f"root:x:0:0::/:/none\nwrit:x:{NONROOT}:{NONROOT}::/tmp:/none\n")
        self.text("/etc/group", f"root:x:0:\nwrit:x:{NONROOT}:\n")

    def folder(self, path: str, mode: int = 0o755) -> None:
        self.files[path] = (stat.S_IFDIR | mode, b"")

    def text(self, path: str, text: str) -> None:
        self.files[path] = (stat.S_IFREG | 0o644, text.encode())

    def copy(self, source: str | os.PathLike, path: str | None = None, mode: int | None = None) -> None:
        """Copies a file, what a link to it leads to included, to the same place or another."""
        source = pathlib.Path(source)
        mode = mode or (0o755 if os.access(source, os.X_OK) else 0o644)
        self.files[path or str(source)] = (stat.S_IFREG | mode, source.read_bytes())
        self.sources.add(source)

    def link(self, path: str, to: str) -> None:
        self.files[path] = (stat.S_IFLNK | 0o777, to)

    def copy_dynamic(self, source: str | os.PathLike, path: str | None = None) -> None:
        """Copies a program or a library together with the libraries that it needs."""
        self.copy(source, path)
        for library in libraries(source):
            if library not in self.files:
                self.copy(library)

    def copy_tree(self, source: pathlib.Path, path: str, leave_out: re.Pattern) -> None:
        """Copies a folder, without what `leave_out` finds in the path relative to it."""
        for entry in sorted(source.rglob("*")):
            relative = str(entry.relative_to(source))
            if leave_out.search(relative) or not entry.is_file():
                continue
            if ".so" in entry.name:
                self.copy_dynamic(entry, f"{path}/{relative}")
            else:
                self.copy(entry, f"{path}/{relative}")

    def write(self, folder: pathlib.Path) -> str:
        """Writes `folder`/NAME.tar and returns the manifest's digest."""
        layer = self._layer()
        packed = gzip.compress(layer, compresslevel=6, mtime=0)
        config = compact({"architecture": "amd64", "os": "linux", "config": self.config,
                          "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
                          "history": [{"created_by": "scripts/oci.py"}]})
        manifest = compact({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)]})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {**descriptor("application/vnd.oci.image.manifest.v1+json", manifest),
             "platform": {"architecture": "amd64", "os": "linux"},
             "annotations": {"io.containerd.image.name": self.reference,
                             "org.opencontainers.image.ref.name": self.reference.rpartition(":")[2]}}]}
        blob = lambda data: "blobs/sha256/" + digest(data).removeprefix("sha256:")
        docker = [{"Config": blob(config), "RepoTags": [self.reference], "Layers": [blob(packed)]}]
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{self.name}.tar"
        with tarfile.open(half, "w", format=tarfile.GNU_FORMAT) as out:
            for name, data in [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
                               *((blob(data), data) for data in (config, packed, manifest)),
                               ("index.json", compact(index)), ("manifest.json", compact(docker))]:
                add(out, name, stat.S_IFREG | 0o644, data)
        half.rename(folder / f"{self.name}.tar")
        return digest(manifest)

    def _layer(self) -> bytes:
        files = dict(self.files)
        for path in self.files:
            for parent in pathlib.PurePosixPath(path).parents:
                if str(parent) != "/":
                    files.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as out:
            for path, (mode, data) in sorted(files.items()):
                add(out, path.lstrip("/"), mode, data)
        return packed.getvalue()


def add(out: tarfile.TarFile, name: str, mode: int, data: bytes | str) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        entry.type = tarfile.DIRTYPE
        out.addfile(entry)
    elif stat.S_ISLNK(mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, data
        out.addfile(entry)
    else:
        entry.size = len(data)
        out.addfile(entry, io.BytesIO(data))


def libraries(program: str | os.PathLike) -> list[str]:
    """Paths of the shared libraries that a program or library needs; none for a static one."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    if "not found" in done.stdout:
        raise SystemExit(f"images: {program} lacks a library: {done.stdout}")
    return re.findall(r"(/\S+) \(0x", done.stdout)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind: str, data: bytes) -> dict:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def compact(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
