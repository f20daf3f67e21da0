#!/usr/bin/env python3
"""Makes the whole-path section of docs/benchmarks.md from the raw data of a run."""
import json
import statistics
import sys

BUDGETS = {"required": 8.0, "ours": 2.0}
raw = json.load(open(sys.argv[1], encoding="utf-8"))
machine = raw["machine"]
print(f"## The whole path\n\nOpen loop, {raw['rate']} requests/s, {raw['connections']} connections, "
      f"{raw['seconds']} s a run, `oha -q {raw['rate']} --latency-correction`; runs without Writ, with Writ, and "
      "with Envoy and OPA `ext_authz` in its place, in turn; everything (load, both sidecars, EVM node, target) "
      f"on one machine: {machine['cpu']}, "
      f"{machine['threads']} threads, Linux {machine['kernel']}.\n")
print("| path | run | reached, requests/s | p50 ms | p90 ms | p99 ms | p99.9 ms | not 200 |")
print("|---|---|---|---|---|---|---|---|")
p99: dict[str, list[float]] = {}
p50: dict[str, list[float]] = {}
reached: dict[str, list[float]] = {}
spent: dict[str, list[float]] = {}
for number, run in enumerate(raw["runs"], 1):
    at = {p: v * 1000 for p, v in run["result"]["latencyPercentiles"].items()}
    failed = sum(n for code, n in run["result"]["statusCodeDistribution"].items() if code != "200")
    p99.setdefault(run["path"], []).append(at["p99"])
    p50.setdefault(run["path"], []).append(at["p50"])
    print(f"| {run['path']} | {number} | {run['result']['summary']['requestsPerSec']:.0f} "
          f"| {at['p50']:.2f} | {at['p90']:.2f} | {at['p99']:.2f} | {at['p99.9']:.2f} | {failed} |")
    reached.setdefault(run["path"], []).append(run["result"]["summary"]["requestsPerSec"])
    spent.setdefault(run["path"], []).append(
        sum(run["cpu_seconds"].values()) / sum(run["result"]["statusCodeDistribution"].values()) * 1000)
bare, writ, mesh = p99


def added(by: str, figures: dict[str, list[float]]) -> float:
    return statistics.median(figures[by]) - statistics.median(figures[bare])


def verdict(limit: float) -> str:
    return "within" if added(writ, p99) <= limit else "**over**"


print("\n| added, median of the runs | p50 ms | p99 ms | CPU of the processes in between, ms a request |\n|---|---|---|---|")
for path in (writ, mesh):
    print(f"| {path} | {added(path, p50):.2f} | {added(path, p99):.2f} | {statistics.median(spent[path]):.2f} |")
under = "under" if added(writ, p99) < added(mesh, p99) else "**over**"
print(f"\nWrit's p99 against what is required, {BUDGETS['required']} ms: {verdict(BUDGETS['required'])}; against our "
      f"own budget, {BUDGETS['ours']} ms: {verdict(BUDGETS['ours'])}; against Envoy + OPA in the same run: {under}.")
for path in (writ, mesh):
    if min(reached[path]) < 0.98 * raw["rate"]:
        print(f"\n{path[0].upper()}{path[1:]}, at least one run did not reach the rate: its latency is that of "
              "a queue on a machine that is full, and says little else.")
print("""
Envoy + OPA is a pair of sidecars too: HTTP/1.1 from the load, HTTP/2 over mutual TLS between the two Envoys,
and both ask an OPA beside them, which evaluates a prepared rego query and writes its decision log. The policy
means the same for these requests: the agent's identity, capability by host, method and path, deny by default.
What it does not do: nothing is signed, so nothing is verified at the target and no replay is noticed; its logs are
never fsynced, while Writ answers only after its record is durable; policy is a local file, not proved state.
[All that is and is not equal](../benches/ext-authz/README.md).
""")
print("## Memory of a sidecar, resident\n\nBudget: 20 MiB. `own` is what no file backs; the rest is the program's "
      "text, which all sidecars of a node share.\n\n"
      "| when | agent's, MiB | own | target's, MiB | own |\n|---|---|---|---|---|")
for when, kib in raw["memory_kib"].items():
    figures = (kib[name] / 1024 for name in ("agent", "agent, own", "tool", "tool, own"))
    print(f"| {when} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
when, kib = list(raw["mesh_memory_kib"].items())[-1]
sides = {side: sum(n for name, n in kib.items() if name.endswith(side)) / 1024 for side in ("agent", "tool")}
print(f"\nEnvoy and OPA together, after {when}: {sides['agent']:.1f} MiB at the agent, {sides['tool']:.1f} MiB at the "
      "target.")
print("\nWhere the time goes, by the sidecars' own histograms (`path.json`): policy and signing take a "
      "tenth of a millisecond each; a durable commit waits for the disk for 0.4 ms, but takes some 2 ms here, and a "
      "request waits for two (the allow, the PEP's verdict): the two sidecars, the load, the node and the target "
      "together want most of two cores, and whoever wakes up waits for its turn. CPU a request, above, is the "
      "figure that carries over to another machine.")
print("\nNot measured here: a key in an HSM or KMS; OPA inside Envoy as Wasm.")
