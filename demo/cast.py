"""Who plays: the pods, and the programs in them, started as in a cluster."""
import pathlib
import shutil
import subprocess
import urllib.request

from . import config, paths
from .chain import Chain
from .net import Failed, Pod, listening, sh, until

AGENT_HOSTS = {"payments.bank.example": "tool", "tools.bank.example": "tool",
               "api.partner.example": "partner", "mirror.partner.example": "partner",
               "legacy.partner.example": "partner"}
ADMIN = 15820


class Cast:
    def __init__(self):
        self.pods = {name: Pod(name, host).create() for name, host in [
            ("chain", 5), ("agent", 10), ("tool", 20), ("partner", 30), ("outside", 40), ("thief", 60)]}
        self.chain = Chain(self.pods["chain"])
        self.socket = paths.STATE / "issuer" / "workload.sock"
        self.sidecars: dict[str, subprocess.Popen] = {}
        # What sidecars find in their environment besides.
        self.environment: dict[str, str] = {}
        model = paths.STATE / "shared" / "model.bin"
        model.write_bytes(b"a model's weights\n")
        self.salts = config.Salts(sh("sha256sum", str(model)).split()[0])
        self.web_log = paths.owned(paths.STATE / "web", config.APP_UID, 0o755) / "requests.jsonl"
        self.tools_log = self.web_log.with_name("tools.jsonl")
        self.partner_log = self.web_log.with_name("partner.jsonl")
        self.outside_log = paths.STATE / "outside.jsonl"

    def start_issuer(self) -> None:
        folder = paths.owned(self.socket.parent, 0, 0o755)
        settings = folder / "issuer.yaml"
        settings.write_text(config.issuer(self.socket))
        # Any pod will do: it listens on a Unix socket only.
        self.issuer = self.pods["chain"].start(0, paths.LOGS / "issuer.log",
                                               paths.program("writ-dev-issuer"), "--config", str(settings))
        until("the identity issuer listens", self.socket.exists, 20, self.issuer)

    def start_services(self) -> None:
        """The targets: a plain HTTP service, a tool server, an HTTPS third party, and a listener
        outside that writes down everything that reaches it."""
        service = paths.python()
        here = paths.REPO / "demo/services"
        tool, partner, outside = (self.pods[name] for name in ("tool", "partner", "outside"))
        self.pki = self.make_pki()
        web = tool.start(config.APP_UID, paths.LOGS / "web.log", *service, str(here / "web.py"),
                         "127.0.0.1", "8080", str(self.web_log))
        tools = tool.start(config.APP_UID, paths.LOGS / "tools.log", *service, str(here / "tools.py"),
                           "8081", str(self.tools_log))
        third = partner.start(0, paths.LOGS / "partner.log", *service, str(here / "web.py"),
                              "0.0.0.0", "443", str(self.partner_log), str(self.pki / "partner.pem"))
        listener = outside.start(0, paths.LOGS / "outside.log", *service, str(here / "listener.py"),
                                 str(self.outside_log))
        in_tool = lambda port: lambda: tool.run(
            config.APP_UID, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}").returncode == 0
        self.starting = [
            ("the HTTP service listens", in_tool(8080), web),
            ("the tool server listens", in_tool(8081), tools),
            ("the HTTPS third party listens", lambda: listening(partner.v4, 443), third),
            ("the listener outside listens", lambda: listening(outside.v4, 4444), listener)]

    def await_services(self) -> None:
        for what, condition, process in self.starting:
            until(what, condition, 60, process)

    def make_pki(self) -> pathlib.Path:
        """The third party's own CA and certificate, in memory."""
        pki = paths.owned(paths.STATE / "pki", 0, 0o755)
        names = ",".join(f"DNS:{name}" for name, pod in AGENT_HOSTS.items() if pod == "partner")
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-days", "2"]
        sh(*new, "-subj", "/CN=Partner CA", "-keyout", str(pki / "ca.key"), "-out", str(pki / "ca.pem"),
           "-addext", "keyUsage=critical,keyCertSign")
        sh(*new, "-subj", "/CN=api.partner.example", "-keyout", str(pki / "server.key"),
           "-out", str(pki / "server.pem"), "-CA", str(pki / "ca.pem"), "-CAkey", str(pki / "ca.key"),
           "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE",
           "-addext", "extendedKeyUsage=serverAuth")
        both = (pki / "server.pem").read_text() + (pki / "server.key").read_text()
        (pki / "partner.pem").write_text(both)
        for key in pki.glob("*.key"):
            key.chmod(0o600)
        (pki / "partner.pem").chmod(0o600)
        return pki

    def start_sidecar(self, name: str, uid: int) -> None:
        """As Kubernetes would: the init container's command first, then the sidecar as its own user."""
        pod, folder = self.pods[name], paths.STATE / name
        paths.owned(folder, 0, 0o755)
        for private in ("record", "ca"):
            paths.owned(folder / private, uid, 0o700)
        paths.owned(folder / "trust", uid, 0o755)
        configured = paths.owned(folder / "config", uid, 0o700)
        section = config.chain(self.chain.rpc, self.chain.manifest)
        if name == "agent":
            hosts = {host: [self.pods[at].v4, self.pods[at].v6] for host, at in AGENT_HOSTS.items()}
            text = config.agent(self.socket, folder, section, self.salts, hosts, self.pki / "ca.pem")
        else:
            text = config.tools(self.socket, folder, section)
        shutil.copy(paths.REPO / "demo/config/catalog.yaml", configured / "catalog.yaml")
        (configured / "sidecar.yaml").write_text(text)
        installed = pod.run(0, paths.program("writ-sidecar"), "init", "--sidecar-uid", str(uid))
        if installed.returncode != 0:
            raise Failed(f"writ-sidecar init in the {name} pod: {installed.stderr.strip()}")
        self.run_sidecar(name, uid)

    def run_sidecar(self, name: str, uid: int) -> None:
        pod, log = self.pods[name], paths.LOGS / f"sidecar-{name}.log"
        process = pod.start(uid, log, paths.program("writ-sidecar"), "run", "--config",
                            str(paths.STATE / name / "config" / "sidecar.yaml"), env=self.environment)
        self.sidecars[name] = process
        until(f"the sidecar of the {name} pod is ready", lambda: self.ready(name), 30, process)

    def admin(self, name: str, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{self.pods[name].v4}:{ADMIN}{path}", timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def ready(self, name: str) -> bool:
        return self.admin(name, "/readyz") is not None

    def state_age(self, name: str) -> int:
        """How old the sidecar's newest proved head is, in seconds, as its metrics say."""
        for line in (self.admin(name, "/metrics") or "").splitlines():
            if line.startswith("writ_state_age_seconds "):
                return int(float(line.split()[1]))
        return -1

    def head(self, name: str) -> int:
        for line in (self.admin(name, "/metrics") or "").splitlines():
            if line.startswith("writ_head_block "):
                return int(float(line.split()[1]))
        return 0
