#!/usr/bin/env python3
"""Makes the whole-path section of docs/benchmarks.md from the raw data of a run."""
import json
import statistics
import sys

BUDGETS = {"required": 8.0, "ours": 2.0}
raw = json.load(open(sys.argv[1], encoding="utf-8"))
machine = raw["machine"]
print(f"## The whole path\n\nOpen loop, {raw['rate']} requests/s, {raw['connections']} connections, "
      f"{raw['seconds']} s a run, `oha -q {raw['rate']} --latency-correction`; runs with and without "
      f"Writ in turn, everything (load, both sidecars, EVM node, target) on one machine: {machine['cpu']}, "
      f"{machine['threads']} threads, Linux {machine['kernel']}.\n")
print("| path | run | reached, requests/s | p50 ms | p90 ms | p99 ms | p99.9 ms |")
print("|---|---|---|---|---|---|---|")
p99: dict[str, list[float]] = {}
p50: dict[str, list[float]] = {}
for number, run in enumerate(raw["runs"], 1):
    at = {p: v * 1000 for p, v in run["result"]["latencyPercentiles"].items()}
    p99.setdefault(run["path"], []).append(at["p99"])
    p50.setdefault(run["path"], []).append(at["p50"])
    print(f"| {run['path']} | {number} | {run['result']['summary']['requestsPerSec']:.0f} "
          f"| {at['p50']:.2f} | {at['p90']:.2f} | {at['p99']:.2f} | {at['p99.9']:.2f} |")
(bare, writ) = p99
added = statistics.median(p99[writ]) - statistics.median(p99[bare])
added50 = statistics.median(p50[writ]) - statistics.median(p50[bare])
verdict = lambda limit: "within" if added <= limit else "**over**"
print(f"\nAdded by Writ, median of the runs: p50 {added50:.2f} ms, p99 {added:.2f} ms. "
      f"Required: {BUDGETS['required']} ms at p99 ({verdict(BUDGETS['required'])}); "
      f"our own budget: {BUDGETS['ours']} ms ({verdict(BUDGETS['ours'])}).\n")
print("## Memory of a sidecar, resident\n\nBudget: 20 MiB.\n\n| when | agent's, MiB | target's, MiB |\n|---|---|---|")
for when, kib in raw["memory_kib"].items():
    print(f"| {when} | {kib['agent'] / 1024:.1f} | {kib['tool'] / 1024:.1f} |")
print("\nWhere the time goes, by the sidecars' own histograms (`path.json`): policy and signing take a "
      "tenth of a millisecond each; what is left is three durable commits one after the other (the allow, the "
      "PEP's replay store, the PEP's verdict) on two cores that also run the load, the node and the target.")
print("\nNot measured here: a comparison under Envoy with OPA `ext_authz`, and a key in an HSM or KMS.")
