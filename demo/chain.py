"""The EVM node, and the real `writ chain` commands against it."""
import json
import subprocess
import urllib.request

from . import config, paths
from .net import ENVIRONMENT, Failed, Pod, until

# Keys of the node's well-known development mnemonic: they hold funds on development chains only.
KEYS = {
    "owner": ("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
              "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
    "guardian": ("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
                 "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    "anchorer": ("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
                 "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    "approver": ("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
                 "0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
}


class Chain:
    def __init__(self, pod: Pod):
        self.pod, self.rpc = pod, f"http://{pod.v4}:8545"
        self.folder = paths.owned(paths.STATE / "chain", 0, 0o700)
        self.manifest_path = self.folder / "manifest.json"
        for role, (key, _) in KEYS.items():
            (self.folder / f"{role}.key").write_text(key + "\n")

    def start(self) -> None:
        self.node = self.pod.start(
            0, paths.LOGS / "node.log", paths.tool("anvil"), "--host", self.pod.v4, "--port", "8545",
            "--chain-id", str(config.CHAIN_ID), "--block-time", "1", "--silent")
        until("the EVM node answers", self.answers, 30, self.node)

    def call(self, method: str, *params):
        """One JSON-RPC call, or None where the node does not answer."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.rpc, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return json.load(answer).get("result")
        except OSError:
            return None

    def answers(self) -> bool:
        return self.call("eth_chainId") == hex(config.CHAIN_ID)

    def height(self) -> int:
        return int(self.call("eth_blockNumber") or "0x0", 16)

    def writ(self, *arguments: str, key: str | None = None) -> tuple[str, str]:
        """Runs `writ chain ...`; returns the command line as a person would write it, and its output."""
        line = ["writ", "chain", *arguments, "--rpc", self.rpc]
        if arguments[0] != "deploy":
            line += ["--manifest", str(self.manifest_path)]
        if key:
            line += ["--key", f"file:{self.folder}/{key}.key"]
        done = subprocess.run([paths.program("writ"), *line[1:]], capture_output=True, text=True,
                              timeout=90, env=ENVIRONMENT)
        if done.returncode != 0:
            raise Failed(f"{' '.join(line)}: {done.stderr.strip()}")
        return " ".join(line), done.stdout

    def deploy(self) -> tuple[str, str]:
        roles = [f for role in ("guardian", "anchorer", "approver") for f in (f"--{role}", KEYS[role][1])]
        done = self.writ("deploy", "--development", *roles, "--out", str(self.manifest_path), key="owner")
        self.manifest = json.loads(self.manifest_path.read_text())
        return done

    def name(self, salts: config.Salts) -> None:
        self.names = self.folder / "names.yaml"
        self.names.write_text(salts.names())

    def publish(self, rules: str) -> tuple[str, str]:
        source = paths.REPO / "demo/config"
        return self.writ("policy", "publish", "--policy", config.POLICY, "--rules", str(source / rules),
                         "--catalog", str(source / "catalog.yaml"), "--names", str(self.names), key="owner")

    def register(self, model: str) -> tuple[str, str]:
        return self.writ("agent", "register", "--agent", config.AGENT, "--names", str(self.names),
                         "--policy", config.POLICY, "--model", f"0x{model}", key="owner")

    def revoke(self) -> tuple[str, str]:
        return self.writ("revoke", "--agent", config.AGENT, "--names", str(self.names),
                         "--reason", "stolen-identity", key="guardian")

    def reinstate(self) -> tuple[str, str]:
        return self.writ("resume", "--agent", config.AGENT, "--names", str(self.names), key="owner")
