"""Configuration that changes while the sidecar runs, and a search for private keys on disk."""
import os
import pathlib

from .. import config, paths
from ..acting import arrivals, balance
from ..cast import Cast
from ..net import until
from ..story import Story
from .watching import Watch, metric

RELOADED = '"configuration reloaded"'

# Private keys as files hold them: PEM of any kind, PKCS#8 and SEC 1 of P-256, PKCS#8 of Ed25519
# (both versions), and a JSON Web Key.
KEYS = {
    "PEM": b"PRIVATE KEY-----",
    "PKCS#8 P-256": bytes.fromhex("020100301306072a8648ce3d020106082a8648ce3d030107"),
    "SEC 1 P-256": bytes.fromhex("30770201010420"),
    "PKCS#8 Ed25519": bytes.fromhex("300506032b6570042204 20".replace(" ", "")),
    "JWK": b'"d":"',
}


def put(path: pathlib.Path, text: str) -> None:
    """Replaces a file in one step, as the kubelet does."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.rename(new, path)


def reloads(name: str) -> int:
    return paths.read_log(paths.LOGS / f"sidecar-{name}.log").count(RELOADED)


def take_by(name: str, path: pathlib.Path, text: str) -> None:
    before = reloads(name)
    put(path, text)
    until("the configuration is taken", lambda: reloads(name) > before, 10)


def take(cast: Cast, path: pathlib.Path, text: str) -> None:
    take_by("agent", path, text)


def hasten(cast: Cast) -> None:
    """A short header timeout, so that slow clients end within this play."""
    path = paths.STATE / "agent/config/sidecar.yaml"
    take(cast, path, path.read_text().replace("outbound:\n", "outbound:\n  headerTimeout: 2s\n", 1))


def play(cast: Cast, story: Story) -> None:
    story.chapter("a configuration that changes while the sidecar runs")
    folder = paths.STATE / "agent/config"
    settings, catalog = folder / "sidecar.yaml", folder / "catalog.yaml"
    true_settings, true_catalog = settings.read_text(), catalog.read_text()
    watch = Watch(cast)
    for name, path, text in [
        ("a configuration that is no YAML", settings, "identity: [\n"),
        ("a configuration with an unknown field", settings, true_settings + "unheardOf: 1\n"),
        ("another chain", settings, true_settings.replace(f"chainId: {config.CHAIN_ID}", "chainId: 1")),
        ("a catalog that is no YAML", catalog, "version: [\n"),
        ("a catalog cut in half", catalog, true_catalog[:len(true_catalog) // 2] + "\n  - {"),
        ("a catalog with an entry twice", catalog, true_catalog.replace("name: note", "name: balance")),
    ]:
        refused = metric(cast, "agent", "writ_reload_refused_total")
        put(path, text)
        until("the reload is refused", lambda: metric(cast, "agent", "writ_reload_refused_total") > refused, 10)
        answer = balance(cast, story, "4711", show=False)
        story.judge(name, "refused; the old one: 200", f"refused; the old one: {answer.summary}")
        take(cast, path, true_settings if path == settings else true_catalog)
    story.judge("both sidecars after that", "alive, ready, no panic", watch.health())

    take(cast, catalog, true_catalog.replace("name: demo-agent", "name: not-pinned", 1))
    before = len(arrivals(cast.web_log))
    answer = balance(cast, story, "4711")
    story.judge("a catalog that is not the pinned one", "403 catalog-mismatch", answer.summary)
    story.judge("arrived under it", "0", str(len(arrivals(cast.web_log)) - before))
    take(cast, catalog, true_catalog)
    story.judge("the pinned one again", "200", balance(cast, story, "4711", show=False).summary)


def keys(cast: Cast, story: Story) -> None:
    story.chapter("private keys on disk")
    found = [hit for name in ("agent", "tool") for part in ("record", "config", "trust")
             for hit in search(paths.STATE / name / part)]
    found += search(paths.LOGS)
    uids = {config.AGENT_SIDECAR, config.TOOL_SIDECAR, config.AGENT_UID}
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/home"):
        found += search(pathlib.Path(folder), uids)
    story.judge("in records, settings, logs and temporary folders", "none", ", ".join(found) or "none")
    control = search(paths.STATE / "agent/ca")
    story.judge("in the memory-backed folder (control)", "found", "found" if control else "none")


def search(folder: pathlib.Path, uids: set[int] | None = None) -> list[str]:
    """Files under `folder` that hold what looks like a private key; with `uids`, of these owners."""
    hits = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(parent, name)
            try:
                if path.is_symlink() or not path.is_file() or (uids and path.stat().st_uid not in uids):
                    continue
                data = path.read_bytes()
            except OSError:
                continue
            hits += [f"{kind} in {path}" for kind, mark in KEYS.items() if mark in data]
    return hits
