#!/usr/bin/env python3
"""Measures what admission costs: the webhook itself over HTTPS, under an open loop of recorded reviews.

    benches/admission/measure.py --webhook PROGRAM --oha PROGRAM --raw FILE --page FILE

The reviews beside this file were recorded between a kube-apiserver and the webhook, in the order in
which one new pod causes them: mutation, mutation again since the API server mounted a token into the
containers that came with the first, and validation. Each is sent at the rate of pods, all three at one
time. An API server of this program's own lists as many AgentPolicies as are required.
"""
import argparse
import http.server
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.dont_write_bytecode = True
import page

HERE = pathlib.Path(__file__).resolve().parent
RATE = 50
SECONDS = 60
POLICIES = 1000
REQUIRED_MS = 50.0
REVIEWS = {"mutate": "1-mutate.json", "mutate again": "2-mutate.json", "validate": "3-validate.json"}


def policies() -> bytes:
    """The recorded pod's policy, and others of its namespace and of 99 more."""
    def policy(index: int) -> dict:
        name, app = ("buyers", "buyer") if index == 0 else (f"policy-{index}", f"app-{index}")
        namespace = "agents" if index < 10 else f"namespace-{index % 99}"
        return {"apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
                "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{index}", "resourceVersion": "1",
                             "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"selector": {"matchLabels": {"app": app}}, "tls": {"intercept": True},
                         "catalog": {"name": name, "padding": "x" * 8192}}}
    return json.dumps({"apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicyList",
                       "metadata": {"resourceVersion": "1"},
                       "items": [policy(index) for index in range(POLICIES)]}).encode()


class ApiServer(http.server.BaseHTTPRequestHandler):
    """Lists the policies, and tells a watch nothing."""
    protocol_version = "HTTP/1.1"
    listed = policies()

    def do_GET(self) -> None:
        watch = "watch=true" in self.path
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header(*(("Transfer-Encoding", "chunked") if watch else ("Content-Length", str(len(self.listed)))))
        self.end_headers()
        if watch:
            threading.Event().wait()
        self.wfile.write(self.listed)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("webhook", "oha", "raw", "page"):
        arguments.add_argument(f"--{name}", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    api.daemon_threads = True
    threading.Thread(target=api.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", scratch / "tls.key", "-out", scratch / "tls.crt", "-days", "1", "-subj",
                        "/CN=localhost"], check=True, capture_output=True)
        (scratch / "config").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}],
            "users": [{"name": "x", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]}))
        listen, admin = free_port(), free_port()
        webhook = subprocess.Popen(
            [options.webhook, "--listen", f"127.0.0.1:{listen}", "--admin-listen", f"127.0.0.1:{admin}", "--cert-dir",
             scratch, "--log", "warn"], env={**os.environ, "KUBECONFIG": str(scratch / "config")})
        try:
            raw = measure(options, webhook.pid, f"https://127.0.0.1:{listen}", f"http://127.0.0.1:{admin}")
        finally:
            webhook.terminate()
            webhook.wait(30)
    options.raw.write_text(json.dumps(raw, indent=1) + "\n")
    page.publish(options.page, "admission", "scripts/bench-webhook", section(raw))


def measure(options: argparse.Namespace, pid: int, reviews: str, admin: str) -> dict:
    wait_until_ready(f"{admin}/readyz")
    unverified = ssl._create_unverified_context()
    for body in REVIEWS.values():
        path = body.split("-")[1].removesuffix(".json")
        request = urllib.request.Request(f"{reviews}/{path}", (HERE / body).read_bytes())
        with urllib.request.urlopen(request, context=unverified) as answer:
            response = json.load(answer)["response"]
        if not response["allowed"]:
            raise SystemExit(f"bench: {body} is not allowed: {response['status']['message']}")
    before = os.getloadavg()[0]
    spent = processor_seconds(pid)
    loads = {name: subprocess.Popen(
        [options.oha, "-q", str(RATE), "--latency-correction", "-z", f"{SECONDS}s", "-c", "2", "-p", "16", "--http2",
         "--insecure", "--no-tui", "--output-format", "json", "-m", "POST", "-T", "application/json", "-D",
         HERE / body, f"{reviews}/{body.split('-')[1].removesuffix('.json')}"], stdout=subprocess.PIPE)
        for name, body in REVIEWS.items()}
    results = {}
    for name, load in loads.items():
        result = json.loads(load.communicate(timeout=SECONDS * 3)[0])
        results[name] = {key: result[key] for key in ("summary", "latencyPercentiles", "statusCodeDistribution",
                                                      "errorDistribution")}
    metrics = urllib.request.urlopen(f"{admin}/metrics").read().decode()
    refused = re.findall(r'reviews_total\{outcome="(?:refused|invalid)",path="[^"]*"\} (\d+)', metrics)
    return {"machine": page.machine(), "rate": RATE, "seconds": SECONDS, "policies": POLICIES,
            "load_before": before, "load_after": os.getloadavg()[0],
            "cpu_seconds": processor_seconds(pid) - spent, "resident_kib": resident(pid),
            "not_allowed": sum(map(int, refused)), "results": results}


def section(raw: dict) -> str:
    lines = [
        "## Admission", "",
        f"Open loop, {raw['rate']} pods/s for {raw['seconds']} s, `oha -q {raw['rate']} --latency-correction` for each of "
        "the three reviews that one new pod causes, all at one time; the webhook over HTTPS and HTTP/2, with "
        f"{raw['policies']:,} AgentPolicies; reviews as recorded from a kube-apiserver (pod of three containers). "
        f"One replica, and the load, on one machine: {page.named(raw['machine'])}; "
        f"its load average was {raw['load_before']:.1f} when the run began and "
        f"{raw['load_after']:.1f} when it ended" + (
            ", so other programs were compiling beside it and took most of the processors."
            if raw["load_before"] > raw["machine"]["threads"] else "."), "",
        "| review | reached, reviews/s | p50 ms | p90 ms | p99 ms | p99.9 ms | not 200 |", "|---|---|---|---|---|---|---|"]
    worst = 0.0
    for name, result in raw["results"].items():
        at = {p: v * 1000 for p, v in result["latencyPercentiles"].items()}
        other = sum(n for code, n in result["statusCodeDistribution"].items() if code != "200")
        # Requests that were open when the time was up are not answered, and are no errors.
        other += sum(n for why, n in result["errorDistribution"].items() if "deadline" not in why)
        worst = max(worst, at["p99"])
        lines.append(f"| {name} | {result['summary']['requestsPerSec']:.0f} | {at['p50']:.2f} | {at['p90']:.2f} | "
                     f"{at['p99']:.2f} | {at['p99.9']:.2f} | {other} |")
    reviews = raw["rate"] * raw["seconds"] * len(raw["results"])
    lines += ["", f"Required: p99 under {REQUIRED_MS:.0f} ms at {raw['rate']} pods/s: "
              f"{'kept' if worst < REQUIRED_MS else '**over**'} ({worst:.1f} ms). Not allowed: {raw['not_allowed']}. "
              f"Processor time {raw['cpu_seconds'] / reviews * 1000:.2f} ms a review; resident "
              f"{raw['resident_kib'] / 1024:.0f} MiB.", "",
              "[Raw data](benchmarks/webhook.json); made by `scripts/bench-webhook`."]
    return "\n".join(lines)


def processor_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"bench: the webhook is not ready: {error}")
            time.sleep(0.1)


if __name__ == "__main__":
    main()
