"""A stolen identity before the PEP: same SVID, same network, and an envelope that once was valid."""
import json

from .. import config, paths
from ..acting import arrivals
from ..cast import Cast
from ..net import Failed
from ..story import Story

# What each attack changes, and what the PEP must answer.
EXPECTED = {
    "fresh envelope": "200",
    "no envelope": "403 envelope-missing",
    "forged signature": "403 signature-invalid",
    "altered envelope": "403 signature-invalid",
    "expired envelope": "403 expired",
    "replayed envelope": "403 replayed",
    "envelope under another policy": "409 policy-changed",
    "envelope for another audience": "403 audience-mismatch",
    "captured envelope": "403 unknown-key",
    "envelope of another connection": "403 channel-binding-mismatch",
    "altered body": "403 body-mismatch",
    "altered path": "403 path-mismatch",
}


def play(cast: Cast, story: Story) -> None:
    story.chapter("a thief with the agent's identity, before the tool's PEP")
    story.say("  Another pod holds a valid SVID of the agent and a captured request. It makes envelopes of\n"
              "  its own from it; the first one is right in everything, to show that the others fail for\n"
              "  the one thing that is wrong with them.")
    before = len(arrivals(cast.web_log))
    report = attack(cast, story)
    for name, expected in EXPECTED.items():
        story.judge(name, expected, told(report, name))
    # The right one, and the first use of the replayed one.
    story.judge("requests of the thief that arrived", "2", str(len(arrivals(cast.web_log)) - before))


def attack(cast: Cast, story: Story, *flags: str) -> dict:
    """Runs every attack and shows what the PEP answered."""
    template = paths.STATE / "shared" / "captured.json"
    template.write_text(json.dumps(cast.captured))
    template.chmod(0o644)
    line = ["writ-demo-attacker", "--workload-api", str(cast.socket), "--address",
            f"{cast.pods['tool'].v4}:8443", "--peer", config.TOOL, "--template", str(template), *flags]
    done = cast.pods["thief"].run(config.THIEF, paths.program(line[0]), *line[1:], timeout=60)
    if done.returncode != 0:
        raise Failed(f"the attacks could not be carried out: {done.stderr.strip()}")
    story.show("$ " + " ".join(line), done.stdout, limit=60)
    return json.loads(done.stdout)


def told(report: dict, name: str) -> str:
    answer = report[name]
    return f"{answer['status']} {answer['code']}".strip()
