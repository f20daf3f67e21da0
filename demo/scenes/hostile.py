"""Hostile input, from the agent's side and before the PEP: refused, recorded, and survived."""
import json

from .. import config, paths
from ..acting import balance, transfer
from ..cast import Cast
from ..net import Failed, until
from ..story import Story
from . import attacks
from .hostile_input import BAD_DNS, BAD_TLS, BANK, DNS, HTTP, MCP, TLS, TOOLS, get
from .watching import Watch, metric, rows

# What an envelope of rubbish must be answered, by the name of the attack.
GARBAGE = {
    "envelope of rubbish": "403 malformed",
    "envelope of 8 KiB": "403 too-large",
    "envelope of 60 KiB": "403 too-large",
    "two envelopes": "400 sae-field-repeated",
    "certificate of rubbish": "403 certificate-header-invalid",
    "certificate of 60 KiB": "400 request-not-canonical",
}


def play(cast: Cast, story: Story) -> None:
    from_the_agent(cast, story)
    slow(cast, story)
    other_protocols(cast, story)
    before_the_pep(cast, story)
    answer = transfer(cast, story, "1.00", show=False)
    story.judge("after all that, a right transfer", "200", answer.summary)


def ask(cast: Cast, cases: dict[str, dict], pod: str = "agent") -> dict[str, str]:
    sent = json.dumps({name: {**case, "send": [part.hex() for part in case["send"]]}
                       for name, case in cases.items()})
    uid = config.AGENT_UID if pod == "agent" else config.THIEF
    done = cast.pods[pod].run(uid, *paths.python(), str(paths.REPO / "demo/agent/raw.py"),
                              stdin=sent, timeout=60)
    if done.returncode != 0:
        raise Failed(f"the cases could not be sent: {done.stderr.strip()}")
    return json.loads(done.stdout)


def from_the_agent(cast: Cast, story: Story) -> None:
    story.chapter("hostile HTTP, JSON and MCP from the agent")
    watch = Watch(cast)
    cases = {name: {"to": BANK, "send": [data]} for name, (data, _) in HTTP.items()}
    cases |= {name: {"to": TOOLS, "send": [data]} for name, (data, _) in MCP.items()}
    answers = ask(cast, cases)
    for name, (_, expected) in {**HTTP, **MCP}.items():
        story.judge(name, expected, answers[name])
    watch.judge(story, "hostile requests")
    story.judge("hostile requests: refusals recorded", str(len(cases)), str(watch.new_denials("agent")))
    reasons = {row["reason"] for row in rows("agent", "--kind", "denial")}
    story.show("reasons recorded", ", ".join(sorted(reasons)))
    status, code = answers["a body over the limit"].split()
    story.judge("a body over the limit, in the record", "413, recorded",
                f"{status}, " + ("recorded" if code in reasons else "not recorded"))


def slow(cast: Cast, story: Story) -> None:
    story.chapter("a hundred connections that never finish their request")
    watch = Watch(cast)
    half = {"nothing at all": [b""], "half a request": [get()[:40]], "half a ClientHello": [b"\x16\3\1\2\0\1"],
            "a header line at a time": [get()[:40]] + [b"X: 1\r\n"] * 12}
    cases = {f"{name} {n}": {"to": TLS if "Hello" in name else BANK, "send": parts}
             for n in range(25) for name, parts in half.items()}
    answers = ask(cast, cases)
    for name in half:
        ended = sum(answer != "silence" for case, answer in answers.items() if case.startswith(name))
        story.judge(f"{name}, ended by the sidecar", "25 of 25", f"{ended} of 25")
    until("the connections are gone", lambda: open_connections(cast) == 0, 5)
    watch.judge(story, "slow clients")


def open_connections(cast: Cast) -> int:
    return metric(cast, "agent", 'writ_connections{direction="outbound"}')


def other_protocols(cast: Cast, story: Story) -> None:
    story.chapter("hostile TLS and DNS from the agent")
    watch = Watch(cast)
    answers = ask(cast, {name: {"to": TLS, "send": [data], "tls": True} for name, (data, _) in BAD_TLS.items()})
    for name, (_, expected) in BAD_TLS.items():
        either = " or ".join(expected)
        story.judge(name, either, either if answers[name] in expected else answers[name])
    story.judge("hostile TLS: refusals recorded", str(len(BAD_TLS)), str(watch.new_denials("agent")))
    udp = {name: {"to": DNS, "send": [data], "udp": True} for name, data in BAD_DNS.items()}
    tcp = {f"{name}, TCP": {"to": DNS, "send": [len(data).to_bytes(2, "big") + data], "tls": True}
           for name, data in BAD_DNS.items()}
    tcp["a TCP length that lies"] = {"to": DNS, "send": [b"\xff\xffabc"], "tls": True}
    answers = ask(cast, {**udp, **tcp})
    story.show("answers", json.dumps(answers, indent=2))
    resolved = [name for name, answer in answers.items() if answer == "rcode 0"]
    story.judge("hostile DNS: names resolved", "none", ", ".join(resolved) or "none")
    done = cast.pods["agent"].run(config.AGENT_UID, "getent", "hosts", "payments.bank.example")
    story.judge("a right name after that", "resolved",
                "resolved" if done.returncode == 0 else f"exit {done.returncode}")
    watch.judge(story, "hostile TLS and DNS")


def before_the_pep(cast: Cast, story: Story) -> None:
    story.chapter("hostile input before the tool's PEP")
    watch, pep = Watch(cast), [cast.pods["tool"].v4, 8443]
    counted = unauthenticated()
    cases = {"plain HTTP": get(), "TLS rubbish": BAD_TLS["TLS, rubbish for a ClientHello"][0],
             "nothing but zeros": b"\0" * 4096}
    answers = ask(cast, {name: {"to": pep, "send": [data], "tls": True} for name, data in cases.items()}, "thief")
    for name in cases:
        story.judge(f"{name}, before the PEP", "refused",
                    "refused" if answers[name] in ("alert", "closed") else answers[name])
    url = "https://payments.bank.example:8443/v1/accounts/1/balance"
    done = cast.pods["thief"].run(config.THIEF, "curl", "-sk", "--max-time", "5", "--connect-to",
                                  f"::{pep[0]}:8443", url)
    story.judge("TLS without a certificate", "no answer",
                "no answer" if done.returncode and not done.stdout else done.stdout)
    until("the refused connections are in the tool's record", lambda: unauthenticated() >= counted + 4, 10)
    story.judge("refused connections counted in the record", "4", str(unauthenticated() - counted))
    watch.judge(story, "nobody known, before the PEP")

    before = transfer(cast, story, "1.00", show=False)
    story.judge("a right transfer, for the thief to copy", "200", before.summary)
    cast.captured = attacks.arrivals(cast.web_log)[-1]
    watch = Watch(cast)
    report = attacks.attack(cast, story, "--garbage")
    for name, expected in GARBAGE.items():
        story.judge(name, expected, attacks.told(report, name))
    watch.judge(story, "rubbish from a known caller")


def unauthenticated() -> int:
    return sum(int(row["reason"].split()[0]) for row in rows("tool", "--all", "--kind", "refused"))
