"""The software bill of materials of an image, in CycloneDX: the crates of its programs, as cargo-cyclonedx found them,
and the system's packages that its other files are from."""
import hashlib
import json
import pathlib
import subprocess
import urllib.parse

# Made when its package is installed, so that no package lists it.
MADE_BY = {"/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}


def of_image(reference: str, digest: str, crates: dict | None, sources: set[pathlib.Path], ours: set[pathlib.Path]) -> dict:
    """`sources` are the files that were copied into the image, `ours` those among them that `crates` is about."""
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, **(crates or {})}
    name, _, version = reference.rpartition(":")
    program = bill.get("metadata", {}).get("component")
    bill["metadata"] = {**bill.get("metadata", {}), "component": {
        "type": "container", "bom-ref": f"{name}@{digest}", "name": name, "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]}}
    others = [part for source in sorted(sources - ours) for part in [npm(source) or deb(source) or file(source)]]
    unique = {part["bom-ref"]: part for part in [*([program] if program else []), *bill.get("components", []), *others]}
    bill["components"] = list(unique.values())
    return bill


def deb(source: pathlib.Path) -> dict | None:
    """The Debian package that a file is from."""
    package = MADE_BY.get(str(source)) or owner(source) or owner(source.resolve())
    if not package:
        return None
    fields = ["${Package}", "${Version}", "${Architecture}"]
    shown = dpkg("--show", "--showformat", "\t".join(fields), package)
    if not shown:
        return None
    name, version, architecture = shown.split("\t")
    url = f"pkg:deb/debian/{name}@{urllib.parse.quote(version, safe='')}?arch={architecture}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def owner(path: pathlib.Path) -> str | None:
    # The merged /usr: packages list a file at the one place or the other.
    text = str(path)
    for place in (text, text.removeprefix("/usr") if text.startswith("/usr/") else f"/usr{text}"):
        found = dpkg("--search", place)
        if found:
            return found.splitlines()[0].partition(": ")[0].partition(",")[0]
    return None


def dpkg(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def npm(source: pathlib.Path) -> dict | None:
    """The npm package that a file is from."""
    path = source.resolve()
    if "node_modules" not in path.parts:
        return None
    manifest = next((folder / "package.json" for folder in path.parents if (folder / "package.json").is_file()), None)
    if manifest is None:
        return None
    package = json.loads(manifest.read_text())
    url = f"pkg:npm/{urllib.parse.quote(package['name'], safe='/')}@{package['version']}"
    return {"type": "application", "bom-ref": url, "name": package["name"], "version": package["version"], "purl": url}


def file(source: pathlib.Path) -> dict:
    """A file that is from no package: by its digest."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return {"type": "file", "bom-ref": f"file:{source}@{digest}", "name": str(source),
            "hashes": [{"alg": "SHA-256", "content": digest}]}
