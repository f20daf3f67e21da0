"""Allowed calls, by clients that know nothing of Writ."""
import json
import subprocess

from .. import config, paths
from ..acting import arrivals, curl, envelope, mcp, transfer, trust
from ..cast import Cast
from ..story import Story


def play(cast: Cast, story: Story) -> None:
    plain_http(cast, story)
    own_https(cast, story)
    stream(cast, story)
    tools(cast, story)


def arrived_with_envelope(cast: Cast, before: int) -> str:
    """What the target's own log says of the requests since `before`."""
    new = arrivals(cast.web_log)[before:]
    claims = [envelope(request) for request in new]
    if len(new) != 1 or claims[0] is None:
        return f"{len(new)} requests, {sum(c is not None for c in claims)} envelopes"
    return f"arrived, envelope of {claims[0]['iss'].rsplit('/', 1)[1]} for {claims[0]['act']['method']}"


def plain_http(cast: Cast, story: Story) -> None:
    story.chapter("an allowed call, by curl over plain HTTP")
    before = len(arrivals(cast.web_log))
    answer = transfer(cast, story, "25.00")
    request = arrivals(cast.web_log)[before]
    cast.captured, cast.first_decision = request, answer.headers.get("writ-decision", "")
    story.show("what the service saw", json.dumps({k: request[k] for k in ("method", "path", "body")}, indent=2))
    story.show("claims of the envelope that it came with",
               json.dumps(envelope(request), indent=2), limit=90)
    story.judge("curl over HTTP", "200", answer.summary)
    story.judge("curl over HTTP, at the target", "arrived, envelope of agent for payments.transfer",
                arrived_with_envelope(cast, before))

    story.chapter("the same by Python requests")
    before = len(arrivals(cast.web_log))
    url = "http://payments.bank.example/v1/transfers"
    body = json.dumps({"amount": "12.50", "currency": "EUR", "to": "library"})
    done = cast.pods["agent"].run(config.AGENT_UID, *paths.python(),
                                  str(paths.REPO / "demo/agent/requests-agent.py"), url, body,
                                  env=trust(cast))
    story.show(f"$ python requests-agent.py {url} '{body}'", done.stdout + done.stderr)
    story.judge("Python requests", "200", (done.stdout.splitlines() or [done.stderr[-60:]])[0])
    story.judge("Python requests, at the target", "arrived, envelope of agent for payments.transfer",
                arrived_with_envelope(cast, before))


def own_https(cast: Cast, story: Story) -> None:
    story.chapter("over the agent's own HTTPS: it trusts its pod's bundle")
    before = len(arrivals(cast.web_log))
    answer = transfer(cast, story, "10.00", scheme="https")
    story.judge("curl over HTTPS", "200", answer.summary)
    story.judge("curl over HTTPS, at the target", "arrived, envelope of agent for payments.transfer",
                arrived_with_envelope(cast, before))


def stream(cast: Cast, story: Story) -> None:
    story.chapter("server-sent events: each is sent only when the agent has seen the one before")
    command = cast.pods["agent"].command(config.AGENT_UID, "curl", "--silent", "--no-buffer", "--max-time",
                                         "40", "http://payments.bank.example/v1/stream")
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = []
    for line in client.stdout:
        if line.startswith("data: "):
            seen.append(line.strip())
            cast.web_log.with_name(f"{cast.web_log.name}.seen.{len(seen) - 1}").touch()
            # Had the server given up waiting, it would have sent the rest together.
    client.wait()
    story.show("$ curl --no-buffer http://payments.bank.example/v1/stream", "\n".join(seen))
    story.judge("event stream", "data: 0, data: 1, data: 2", ", ".join(seen))


def tools(cast: Cast, story: Story) -> None:
    story.chapter("MCP: an agent and a tool server on the official SDK")
    said = mcp(cast, story, "weather", city="Lisbon")
    story.judge("MCP tool that is allowed", "sunny in Lisbon",
                "sunny in Lisbon" if "sunny in Lisbon" in said else said.strip()[-120:])
    said = mcp(cast, story, "delete_account", account="4711")
    data = next((json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: ")), {})
    story.judge("MCP tool that is denied", "JSON-RPC error, denied-by-rule",
                "JSON-RPC error, " + str(data.get("code", "none")))
    ran = [call["tool"] for call in arrivals(cast.tools_log)]
    story.judge("tools that ran", "weather", ", ".join(ran))
