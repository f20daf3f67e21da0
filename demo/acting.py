"""What the agent does, with unmodified clients, and what came back."""
import base64
import dataclasses
import json
import pathlib
import shlex

from . import config, paths
from .cast import Cast
from .story import Story


@dataclasses.dataclass
class Answer:
    """An HTTP answer, or what the client said instead of one."""

    status: int
    headers: dict[str, str]
    body: str
    error: str

    @property
    def problem(self) -> dict:
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def summary(self) -> str:
        """Status, and the refusal's stable code if it is one: what a step is judged by."""
        if not self.status:
            return self.error
        return f"{self.status} {self.problem.get('code', '')}".strip()


def curl(cast: Cast, story: Story, *arguments: str, show: bool = True, pod: str = "agent",
         uid: int = config.AGENT_UID, env: dict | None = None) -> Answer:
    """Runs curl as the agent, shows the command line and the answer."""
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "10", *arguments]
    done = cast.pods[pod].run(uid, *command, env=env)
    text = done.stdout.replace("\r\n", "\n")
    head, _, body = text.partition("\n\n")
    lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1]) if lines and lines[0].startswith("HTTP/") else 0
    answer = Answer(status, headers, body, f"curl exit {done.returncode}")
    if show:
        story.show("$ " + shlex.join(["curl", *arguments]), pretty(text if status else done.stderr))
    return answer


def transfer(cast: Cast, story: Story, amount: str, scheme: str = "http", show: bool = True) -> Answer:
    body = json.dumps({"amount": amount, "currency": "EUR", "to": "rent-and-power"})
    return curl(cast, story, f"{scheme}://payments.bank.example/v1/transfers", "--json", body, show=show,
                env=trust(cast) if scheme == "https" else None)


def balance(cast: Cast, story: Story, account: str, show: bool = True) -> Answer:
    return curl(cast, story, f"http://payments.bank.example/v1/accounts/{account}/balance", show=show)


def trust(cast: Cast) -> dict[str, str]:
    """What the pod's trust bundle is given to clients by: nothing but their usual variables."""
    bundle = str(paths.STATE / "agent/trust/bundle.pem")
    return {"CURL_CA_BUNDLE": bundle, "REQUESTS_CA_BUNDLE": bundle, "NODE_EXTRA_CA_CERTS": bundle}


def mcp(cast: Cast, story: Story, tool: str, **arguments: str) -> str:
    """An agent on the official MCP SDK calls one tool; returns what it printed."""
    line = ["http://tools.bank.example/mcp", tool, json.dumps(arguments)]
    done = cast.pods["agent"].run(
        config.AGENT_UID, paths.node(), str(paths.REPO / "demo/agent/mcp-agent.mjs"), *line,
        env={"MCP_SDK_FROM": str(paths.REPO / "tools/package.json"), **trust(cast)})
    story.show("$ " + shlex.join(["node", "mcp-agent.mjs", *line]), done.stdout + done.stderr)
    return done.stdout


def arrivals(log: pathlib.Path) -> list[dict]:
    """What reached a service, by its own account."""
    return [json.loads(line) for line in paths.read_log(log).splitlines()]


def envelope(request: dict) -> dict | None:
    """The claims of the envelope that a request arrived with."""
    compact = {name.lower(): value for name, value in request["headers"].items()}.get("sae")
    return decode(compact) if compact else None


def decode(compact: str) -> dict:
    payload = compact.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def pretty(text: str) -> str:
    """JSON bodies on lines of their own, as a person reads them."""
    head, separator, body = text.partition("\n\n")
    try:
        return head + separator + json.dumps(json.loads(body), indent=2)
    except ValueError:
        return text
