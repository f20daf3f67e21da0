"""What the hard cases are judged by: the programs themselves, their records, and the targets."""
import json
import pathlib
import subprocess
import urllib.error
import urllib.request

from .. import paths
from ..acting import arrivals
from ..cast import ADMIN, Cast
from ..net import ENVIRONMENT, Failed
from ..story import Story

TARGETS = ("web_log", "tools_log", "partner_log", "outside_log")


class Watch:
    """Remembers how things stood; `judge` holds what is against it."""

    def __init__(self, cast: Cast):
        self.cast = cast
        self.pids = {name: process.pid for name, process in cast.sidecars.items()}
        self.arrived = self.count()
        self.denials = {name: refusals(name) for name in cast.sidecars}

    def count(self) -> dict[str, int]:
        return {target: len(arrivals(getattr(self.cast, target))) for target in TARGETS}

    def new_denials(self, name: str) -> int:
        return refusals(name) - self.denials[name]

    def judge(self, story: Story, what: str) -> None:
        new = {t: n - self.arrived[t] for t, n in self.count().items() if n != self.arrived[t]}
        story.judge(f"{what}: at the targets", "nothing arrived",
                    f"arrived: {new}" if new else "nothing arrived")
        story.judge(f"{what}: both sidecars", "alive, ready, no panic", self.health())

    def health(self) -> str:
        said = []
        for name, process in self.cast.sidecars.items():
            if process.poll() is not None or process.pid != self.pids[name]:
                said.append(f"{name} ended")
            elif readiness(self.cast, name) != "ready":
                said.append(f"{name}: {readiness(self.cast, name)}")
        panics = [log.name for log in paths.LOGS.glob("*.log") if "panicked" in paths.read_log(log)]
        return "; ".join(said + [f"panicked: {name}" for name in panics]) or "alive, ready, no panic"


def readiness(cast: Cast, name: str) -> str:
    """What /readyz says, in one line; empty where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{cast.pods[name].v4}:{ADMIN}/readyz", timeout=2) as answer:
            return answer.read().decode().strip()
    except urllib.error.HTTPError as answer:
        return answer.read().decode().strip().replace("\n", "; ")
    except OSError:
        return ""


def metric(cast: Cast, name: str, metric_name: str) -> int:
    for line in (cast.admin(name, "/metrics") or "").splitlines():
        if line.startswith(metric_name + " "):
            return int(float(line.split()[1]))
    return -1


def record(name: str) -> pathlib.Path:
    return paths.STATE / name / "record"


def writ_log(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([paths.program("writ"), "log", *arguments], capture_output=True, text=True,
                          timeout=60, env=ENVIRONMENT)


def rows(name: str, *filters: str) -> list[dict]:
    """Records of one sidecar, oldest first, as `writ log list` has them."""
    done = writ_log("list", "--log", str(record(name)), "-n", "1000000", "--output", "json", *filters)
    if done.returncode != 0:
        raise Failed(f"writ log list: {done.stderr.strip()}")
    return json.loads(done.stdout)


def refusals(name: str) -> int:
    return len(rows(name, "--kind", "denial"))


def verified(name: str) -> str:
    done = writ_log("verify", str(record(name)))
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return f"exit {done.returncode}, {lines[-1].strip()}"


def sequence(row: dict) -> int:
    """A record's number, which its envelope names too."""
    return int(row["id"].rsplit("-", 1)[1])
