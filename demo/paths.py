"""Where things lie: the checkout's programs, and the demo's own files under /run (in memory)."""
import os
import pathlib
import shutil
import sys

from .net import Failed, sh

STATE = pathlib.Path("/run/writ")
REPO, BIN, PYTHON = STATE / "checkout", STATE / "bin", STATE / "python"
LOGS = STATE / "logs"
SITE = REPO / f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def expose(binaries: pathlib.Path) -> None:
    """Shows the checkout, the programs and this Python under /run, read-only: the demo's users
    need not be able to enter the home folder where these lie."""
    checkout = pathlib.Path(__file__).resolve().parent.parent
    for source, at in [(checkout, REPO), (binaries.resolve(), BIN), (sys.base_prefix, PYTHON)]:
        at.mkdir(parents=True)
        sh("mount", "--rbind", str(source), str(at))
    for folder in (LOGS, STATE / "shared"):
        folder.mkdir()
    for name in ("writ", "writ-sidecar", "writ-dev-issuer", "writ-demo-attacker"):
        if not (BIN / name).exists():
            raise Failed(f"{name} is not built: run `make build`, or name its folder with --bin")


def program(name: str) -> str:
    return str(BIN / name)


def tool(name: str) -> str:
    return str(REPO / ".tools/bin" / name)


def python() -> list[str]:
    """This Python with the checkout's packages, for any user."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return ["env", f"LD_LIBRARY_PATH={PYTHON / 'lib'}", f"PYTHONPATH={SITE}", "PYTHONUNBUFFERED=1",
            str(PYTHON / "bin" / version)]


def node() -> str:
    found = shutil.which("node")
    if found is None:
        raise Failed("node is missing: run `make bootstrap`")
    real = pathlib.Path(os.path.realpath(found))
    if real.is_relative_to("/usr"):
        return str(real)
    at = STATE / "node"
    if not at.exists():
        at.mkdir()
        sh("mount", "--rbind", str(real.parent.parent), str(at))
    return str(at / "bin" / real.name)


def owned(path: pathlib.Path, uid: int, mode: int) -> pathlib.Path:
    """A folder for one user."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def read_log(path: pathlib.Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
