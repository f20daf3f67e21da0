"""The same requests through Envoy with OPA `ext_authz`, as a pair of sidecars: what the load act
holds Writ against. Pods of its own, so that the other paths have none of its rules."""
import pathlib
import shutil
import string
import subprocess

from .. import config, paths
from ..net import Failed, Pod, resident, sh, until
from ..story import Story

HOST = "payments.bank.example"
OUTBOUND, INBOUND, MTLS, APP, OPA = 15001, 15006, 8443, 8080, 9191
SIDES = {"agent": config.AGENT, "tool": config.TOOL}
UIDS = {"agent": config.AGENT_SIDECAR, "tool": config.TOOL_SIDECAR}


class Mesh:
    """Two pods, in each an Envoy and the ext_authz server that it asks; a target in the second."""

    def __init__(self, envoy: pathlib.Path, ext_authz: pathlib.Path):
        self.programs = {name: self.share(source, name)
                         for name, source in (("envoy", envoy), ("ext-authz", ext_authz))}
        self.pods = {"agent": Pod("mesh-agent", 70).create(), "tool": Pod("mesh-tool", 80).create()}
        self.logs = {side: self.on_disk(side) for side in SIDES}
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, target: list[str]) -> None:
        """`target` is the program that answers, to which its address and port are added."""
        self.certify()
        self.capture()
        self.pods["tool"].start(config.APP_UID, paths.LOGS / "mesh-target.log", *target, "127.0.0.1", str(APP))
        for side in SIDES:
            self.run("ext-authz", side, "--listen", f"127.0.0.1:{OPA}",
                     "--decisions", str(self.logs[side] / "decisions.log"))
            self.run("envoy", side, "-c", str(self.configured(side)), "--disable-hot-restart",
                     "--concurrency", "2", "--log-level", "warning")
        until("a request through Envoy and OPA is answered", lambda: self.ask("GET") == "200", 30,
              self.processes["envoy agent"])

    def run(self, program: str, side: str, *arguments: str) -> None:
        log = paths.LOGS / f"mesh-{program}-{side}.log"
        self.processes[f"{program} {side}"] = self.pods[side].start(
            UIDS[side], log, str(self.programs[program]), *arguments)

    def share(self, source: pathlib.Path, name: str) -> pathlib.Path:
        at = paths.STATE / "shared" / name
        shutil.copy(source, at)
        at.chmod(0o755)
        return at

    def on_disk(self, side: str) -> pathlib.Path:
        """Access and decision logs, on the disk that also has Writ's records."""
        disk = paths.REPO / "demo/.state" / f"load-mesh-{side}"
        shutil.rmtree(disk, ignore_errors=True)
        paths.owned(disk, UIDS[side], 0o700)
        at = paths.owned(paths.STATE / "mesh" / side / "logs", UIDS[side], 0o700)
        sh("mount", "--bind", str(disk), str(at))
        return at

    def certify(self) -> None:
        """A CA, and a certificate with a SPIFFE ID for each side: the Envoys' mutual TLS."""
        ca = paths.owned(paths.STATE / "mesh/ca", 0, 0o700)
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-days", "2"]
        sh(*new, "-subj", "/CN=Mesh CA", "-keyout", str(ca / "ca.key"), "-out", str(ca / "ca.pem"),
           "-addext", "keyUsage=critical,keyCertSign")
        for side, spiffe_id in SIDES.items():
            pki = paths.owned(paths.STATE / "mesh" / side / "pki", UIDS[side], 0o700)
            shutil.copy(ca / "ca.pem", pki / "ca.pem")
            sh(*new, "-subj", f"/CN={side}", "-CA", str(ca / "ca.pem"), "-CAkey", str(ca / "ca.key"),
               "-keyout", str(pki / f"{side}.key"), "-out", str(pki / f"{side}.pem"),
               "-addext", f"subjectAltName=URI:{spiffe_id}", "-addext", "basicConstraints=critical,CA:FALSE",
               "-addext", "keyUsage=critical,digitalSignature",
               "-addext", "extendedKeyUsage=serverAuth,clientAuth")
            for file in pki.iterdir():
                shutil.chown(file, UIDS[side], UIDS[side])

    def capture(self) -> None:
        """As a mesh does: the agent's connections end at its Envoy, the target's peers at the other."""
        for pod, rule in (
                ("agent", ["OUTPUT", "-p", "tcp", "--dport", "80", "-m", "owner", "--uid-owner",
                           str(config.AGENT_UID), "-j", "REDIRECT", "--to-ports", str(OUTBOUND)]),
                ("tool", ["PREROUTING", "-p", "tcp", "--dport", str(MTLS), "-j", "REDIRECT",
                          "--to-ports", str(INBOUND)])):
            done = self.pods[pod].run(0, "iptables", "-w", "-t", "nat", "-A", *rule)
            if done.returncode != 0:
                raise Failed(f"iptables in the {self.pods[pod].name} pod: {done.stderr.strip()}")

    def configured(self, side: str) -> pathlib.Path:
        template = (paths.REPO / "benches/ext-authz/envoy" / f"{side}.yaml").read_text()
        folder = paths.STATE / "mesh" / side
        text = string.Template(template).substitute(
            logs=self.logs[side], pki=folder / "pki", target=self.pods["tool"].v4, outbound=OUTBOUND,
            inbound=INBOUND, mtls=MTLS, app=APP, opa=OPA, agent=config.AGENT, tool=config.TOOL)
        at = folder / "envoy.yaml"
        at.write_text(text)
        at.chmod(0o644)
        return at

    @property
    def connect_to(self) -> list[str]:
        """oha's options that stand for DNS, which these pods have none of."""
        return ["--connect-to", f"{HOST}:80:{self.pods['tool'].v4}:80"]

    def ask(self, method: str, path: str = "/v1/accounts/4711/balance") -> str:
        """The status of one request, as the agent sends it."""
        return self.pods["agent"].run(
            config.AGENT_UID, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "-X", method,
            "--resolve", f"{HOST}:80:{self.pods['tool'].v4}", f"http://{HOST}{path}").stdout

    def decided(self, side: str) -> int:
        with open(self.logs[side] / "decisions.log", "rb") as log:
            return sum(1 for _ in log)

    def memory(self) -> dict[str, int]:
        """Resident memory of each process, KiB."""
        return {name: resident(process) for name, process in self.processes.items()}

    def prove(self, story: Story) -> None:
        """It denies what the policy does not allow, and at the target too."""
        story.judge("Envoy + OPA: a request that the policy does not allow", "403", self.ask("DELETE"))
        bare = self.pods["agent"].run(
            0, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5",
            f"https://{self.pods['tool'].v4}:{MTLS}/v1/accounts/4711/balance").stdout
        story.judge("Envoy + OPA: a peer without a certificate", "000", bare)
        pki = paths.STATE / "mesh/tool/pki"
        other = self.pods["agent"].run(
            0, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "--cert", str(pki / "tool.pem"),
            "--key", str(pki / "tool.key"), "--resolve", f"{HOST}:{MTLS}:{self.pods['tool'].v4}", "-H", f"Host: {HOST}",
            f"https://{HOST}:{MTLS}/v1/accounts/4711/balance").stdout
        story.judge("Envoy + OPA: another peer's certificate", "403", other)
