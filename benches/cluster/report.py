#!/usr/bin/env python3
"""Makes the page's section of what writ-measure measured on a cluster.

    benches/cluster/report.py --profile NAME --times FILE --raw FILE --page FILE
"""
import argparse
import datetime
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.dont_write_bytecode = True
import page

READY_S, PUSHED_S, BLOCKS = 5.0, 1.0, 2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--profile", required=True)
    for name in ("times", "raw", "page"):
        arguments.add_argument(f"--{name}", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    raw = {"machine": page.machine(), "profile": options.profile, "load": os.getloadavg()[1],
           **json.loads(options.times.read_text())}
    options.raw.write_text(json.dumps(raw, indent=1) + "\n")
    page.publish(options.page, "cluster", "scripts/bench-cluster", section(raw))


def section(raw: dict) -> str:
    programs = {"release": "as released", "bench": "optimised as released, with this machine's libraries",
                "dev": "unoptimised"}[raw["profile"]]
    lines = [
        "## Starting and revoking, on a cluster", "",
        "The cluster of `make e2e`: one node with kubelet, containerd, SPIRE, the development chain (a block a second) and "
        f"the chart, all on one machine: {page.named(raw['machine'])}; load average over the last five minutes "
        f"{raw['load']:.1f}. Programs {programs}.", "",
        "| | runs | p50 s | p90 s | p99 s | most s | required |", "|---|---|---|---|---|---|---|"]

    restarts = [seconds(start, "starting", "ready") for start in raw["restarts"]]
    known = [seconds(start, "identity", "ready") for start in raw["starts"]]
    waited = [seconds(start, "starting", "ready") for start in raw["starts"]]
    last = [max(pod["refused"] for pod in run) for run in raw["pushed"]]
    each = [pod["refused"] for run in raw["pushed"] for pod in run]
    alone = [max(pod["refused"] for pod in run["pods"]) for run in raw["alone"]]
    lines += [
        row("sidecar ready after its start, its workload known to SPIRE (killed and started again)", restarts, READY_S),
        row("sidecar of a new pod ready after its identity came", known, READY_S),
        row("sidecar of a new pod ready after its start, SPIRE's own registration included", waited, None),
        row(f"AgentRevocation created, until the last of {raw['pods']} sidecars refused", last, PUSHED_S),
        row("the same, until each refused", each, PUSHED_S),
        row("guardian's transaction sent, operator and relay stopped, until the last refused", alone, None)]
    by_push = sum(pod["code"] == "revocation-pushed" for run in raw["pushed"] for pod in run)
    over = [max(0, run["last_allowed_in"] - run["block"]) for run in raw["alone"]]
    counts = ", ".join(f"{blocks} block{'s' * (blocks != 1)} after it {over.count(blocks)} times" if blocks else
                       f"in it {over.count(0)} times" for blocks in sorted(set(over)))
    lines += [
        "", f"Required with the operator stopped: refused within {BLOCKS} blocks of the one that holds the revocation: "
        f"{'kept' if max(over) <= BLOCKS else '**over**'}; the last action that was still allowed ended {counts}.", "",
        f"Every pod acts each {raw['every']:g} s, so that a refusal is seen up to so much later than it came into force. "
        "A percentile of fewer runs than a hundred is the largest of them or near it. By push: "
        f"{by_push} of {len(each)} first refusals"
        f"{'.' if by_push == len(each) else '; the others were by the state of the chain, which was there first.'}", "",
        "[Raw data](benchmarks/cluster.json); made by `scripts/bench-cluster`."]
    return "\n".join(lines)


def row(what: str, values: list[float], required: float | None) -> str:
    values = sorted(values)
    at = [percentile(values, p) for p in (50, 90, 99, 100)]
    verdict = "" if required is None else f"{required:g}: {'kept' if at[2] < required else '**over**'}"
    return f"| {what} | {len(values)} | " + " | ".join(f"{value:.2f}" for value in at) + f" | {verdict} |"


def percentile(values: list[float], p: int) -> float:
    """The smallest value that p of a hundred do not exceed."""
    return values[max(0, -(-len(values) * p // 100) - 1)]


def seconds(start: dict, begin: str, end: str) -> float:
    return (datetime.datetime.fromisoformat(start[end]) - datetime.datetime.fromisoformat(start[begin])).total_seconds()


if __name__ == "__main__":
    main()
