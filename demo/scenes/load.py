"""The whole path under open-loop load: the same requests, at the same rate, with and without Writ.

The load generator is oha with a fixed rate and its correction for coordinated omission; the rate
that it really reached is part of the result. Raw results go to a file, `report` makes the table.
"""
import json
import os
import pathlib
import shutil

from .. import config, paths
from ..cast import Cast
from ..net import Failed, sh, stop, until
from ..story import Story

RATE, SECONDS, CONNECTIONS, ROUNDS = 1000, 20, 64, 3
DISTINCT = 100_000
PERCENTILES = ("p50", "p90", "p99", "p99.9")


def play(cast: Cast, story: Story, oha: pathlib.Path, out: pathlib.Path) -> None:
    story.chapter(f"open-loop load: {RATE} requests/s, {CONNECTIONS} connections")
    binary = paths.STATE / "shared/oha"
    shutil.copy(oha, binary)
    binary.chmod(0o755)
    serve(cast)
    with_writ = "http://payments.bank.example/v1/accounts/4711/balance"
    without = f"http://{cast.pods['outside'].v4}:8082/v1/accounts/4711/balance"
    raw: dict = {"rate": RATE, "seconds": SECONDS, "connections": CONNECTIONS, "runs": [],
                 "machine": machine(), "memory_kib": {"idle": memory(cast)}}
    # Warm: connections, witnesses, code.
    fire(cast, binary, "agent", with_writ, RATE // 4, RATE)
    sent = RATE
    for _ in range(ROUNDS):
        for name, pod, url in [("without Writ", "thief", without), ("with Writ, both sidecars", "agent", with_writ)]:
            result = fire(cast, binary, pod, url, RATE, RATE * SECONDS)
            raw["runs"].append({"path": name, "result": result})
            sent += RATE * SECONDS if pod == "agent" else 0
            story.say(f"  {name}: " + line(result))
            if pod == "agent" and sent >= RATE * 60 and "a minute" not in raw["memory_kib"]:
                raw["memory_kib"]["a minute"] = memory(cast)
    fire(cast, binary, "agent", with_writ, RATE, max(DISTINCT - sent, RATE))
    raw["memory_kib"]["100,000 distinct jti"] = memory(cast)
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
    program = [paths.node(), str(paths.REPO / "demo/services/fast.mjs")]
    cast.pods["tool"].start(config.APP_UID, paths.LOGS / "fast.log", *program, "127.0.0.1", "8080")
    cast.pods["outside"].start(0, paths.LOGS / "fast-plain.log", *program, "0.0.0.0", "8082")
    for pod, port in (("tool", 8080), ("outside", 8082)):
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
        until(f"the fast service in the {pod} pod listens",
              lambda: cast.pods[pod].run(config.APP_UID, *probe).returncode == 0)


def fire(cast: Cast, oha: pathlib.Path, pod: str, url: str, rate: int, requests: int) -> dict:
    done = cast.pods[pod].run(
        config.AGENT_UID, str(oha), "-q", str(rate), "--latency-correction", "-n", str(requests), "-c",
        str(CONNECTIONS), "--no-tui", "--output-format", "json", url, timeout=requests / rate * 3 + 30)
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
    """Resident memory of each sidecar, KiB."""
    found = {}
    for name, process in cast.sidecars.items():
        pid = process.pid
        for text in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if text.startswith("VmRSS:"):
                found[name] = int(text.split()[1])
    return found


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
