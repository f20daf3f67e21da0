"""The whole path under open-loop load: the same requests, at the same rate, without anything, with
Writ, and with Envoy and OPA `ext_authz` in its place.

The load generator is oha with a fixed rate and its correction for coordinated omission; the rate
that it really reached is part of the result. Raw results go to a file, `report` makes the table.
"""
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from .. import config, paths
from ..cast import Cast
from ..net import Failed, Pod, cpu_seconds, resident, sh, stop, until
from ..story import Story
from .mesh import HOST, Mesh

RATE, CONNECTIONS, ROUNDS = 1000, 64, 3
# A shorter run is for trying the bench out; what is published takes the default.
SECONDS = int(os.environ.get("LOAD_SECONDS", "20"))
DISTINCT = 5 * RATE * SECONDS
PERCENTILES = ("p50", "p90", "p99", "p99.9")


def play(cast: Cast, story: Story, oha: pathlib.Path, mesh: Mesh, out: pathlib.Path) -> None:
    story.chapter(f"open-loop load: {RATE} requests/s, {CONNECTIONS} connections")
    binary = paths.STATE / "shared/oha"
    shutil.copy(oha, binary)
    binary.chmod(0o755)
    serve(cast)
    mesh.start(fast())
    mesh.prove(story)
    with_writ = f"http://{HOST}/v1/accounts/4711/balance"
    without = f"http://{cast.pods['outside'].v4}:8082/v1/accounts/4711/balance"
    raw: dict = {"rate": RATE, "seconds": SECONDS, "connections": CONNECTIONS, "runs": [],
                 "machine": machine(), "memory_kib": {"idle": memory(cast)},
                 "mesh_memory_kib": {"idle": mesh.memory()}}
    # Warm: connections, witnesses, code.
    writ, envoy = cast.pods["agent"], mesh.pods["agent"]
    fire(writ, binary, with_writ, RATE // 4, RATE)
    sent = RATE
    before = {side: mesh.decided(side) for side in mesh.pods}
    fire(envoy, binary, with_writ, RATE // 4, RATE, mesh.connect_to)
    for _ in range(ROUNDS):
        for name, pod, url, more, between in [
                ("without Writ", cast.pods["thief"], without, [], {}),
                ("with Writ, both sidecars", writ, with_writ, [], cast.sidecars),
                ("with Envoy + OPA, both sidecars", envoy, with_writ, mesh.connect_to, mesh.processes)]:
            used = cpu(between)
            result = fire(pod, binary, url, RATE, RATE * SECONDS, more)
            used = {process: after - used[process] for process, after in cpu(between).items()}
            raw["runs"].append({"path": name, "result": result, "cpu_seconds": used})
            sent += RATE * SECONDS if pod is writ else 0
            story.say(f"  {name}: " + line(result))
            if pod is writ and sent >= RATE * 60 and "a minute" not in raw["memory_kib"]:
                raw["memory_kib"]["a minute"] = memory(cast)
    raw["mesh_memory_kib"][f"{ROUNDS * SECONDS} s of load"] = mesh.memory()
    for side in mesh.pods:
        story.judge(f"Envoy + OPA: requests decided at the {side}", str(RATE + ROUNDS * RATE * SECONDS),
                    str(mesh.decided(side) - before[side]))
    fire(writ, binary, with_writ, RATE, max(DISTINCT - sent, RATE))
    raw["memory_kib"][f"{DISTINCT:,} distinct jti"] = memory(cast)
    raw["stages"] = stages(cast)
    out.write_text(json.dumps(raw, indent=1) + "\n")
    story.say(f"  memory, KiB resident: {raw['memory_kib']}")
    failed = sum(n for run in raw["runs"] for code, n in run["result"]["statusCodeDistribution"].items()
                 if code != "200")
    story.judge("requests that were not answered with 200", "0", str(failed))


def real_disk() -> None:
    """Puts the records on the checkout's disk, with room: in memory an fsync would cost nothing."""
    config.RECORD_BYTES = 8 << 30
    for name, uid in (("agent", config.AGENT_SIDECAR), ("tool", config.TOOL_SIDECAR)):
        disk = paths.REPO / "demo/.state" / f"load-{name}"
        shutil.rmtree(disk, ignore_errors=True)
        paths.owned(disk, uid, 0o700)
        at = paths.owned(paths.STATE / name / "record", uid, 0o700)
        sh("mount", "--bind", str(disk), str(at))


def serve(cast: Cast) -> None:
    """A target that is not the bottleneck, behind the PEP and, the same, without one."""
    stop(next(process for what, _, process in cast.starting if what == "the HTTP service listens"))
    cast.pods["tool"].start(config.APP_UID, paths.LOGS / "fast.log", *fast(), "127.0.0.1", "8080")
    cast.pods["outside"].start(0, paths.LOGS / "fast-plain.log", *fast(), "0.0.0.0", "8082")
    for pod, port in (("tool", 8080), ("outside", 8082)):
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
        until(f"the fast service in the {pod} pod listens",
              lambda: cast.pods[pod].run(config.APP_UID, *probe).returncode == 0)


def fast() -> list[str]:
    """The program that every path's target runs; its address and port follow."""
    return [paths.node(), str(paths.REPO / "demo/services/fast.mjs")]


def fire(pod: Pod, oha: pathlib.Path, url: str, rate: int, requests: int, more: Sequence[str] = ()) -> dict:
    done = pod.run(
        config.AGENT_UID, str(oha), "-q", str(rate), "--latency-correction", "-n", str(requests), "-c",
        str(CONNECTIONS), "--no-tui", "--output-format", "json", *more, url, timeout=requests / rate * 3 + 30)
    if done.returncode != 0:
        raise Failed(f"oha: {done.stderr.strip()[-400:]}")
    result = json.loads(done.stdout)
    return {key: result[key] for key in ("summary", "latencyPercentiles", "statusCodeDistribution",
                                         "errorDistribution")}


def line(result: dict) -> str:
    percentiles = result["latencyPercentiles"]
    shown = ", ".join(f"{p} {percentiles[p] * 1000:.2f} ms" for p in PERCENTILES)
    return f"{result['summary']['requestsPerSec']:.0f} requests/s reached; {shown}"


def memory(cast: Cast) -> dict[str, int]:
    """Resident memory of each sidecar, KiB: all of it, and what is not its program's file."""
    found = {name: resident(process) for name, process in cast.sidecars.items()}
    return found | {f"{name}, own": resident(process, "RssAnon") for name, process in cast.sidecars.items()}


def cpu(processes: dict[str, subprocess.Popen]) -> dict[str, float]:
    return {name: cpu_seconds(process) for name, process in processes.items()}


def stages(cast: Cast) -> dict[str, dict[str, float]]:
    """Each stage's own histogram, as the sidecars' metrics have it."""
    found: dict[str, dict[str, float]] = {}
    for name in cast.sidecars:
        for text in (cast.admin(name, "/metrics") or "").splitlines():
            if text.startswith("writ_stage_seconds"):
                key, value = text.rsplit(" ", 1)
                found.setdefault(name, {})[key.removeprefix("writ_stage_seconds")] = float(value)
    return found


def machine() -> dict[str, str]:
    model = next((text.split(":", 1)[1].strip() for text in
                  pathlib.Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")), "unknown")
    return {"cpu": model, "threads": str(os.cpu_count()), "kernel": os.uname().release}
