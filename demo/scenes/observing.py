"""Denials that are only observed: recorded, and everything but the guardian's stop goes on."""
from .. import config, paths
from ..acting import arrivals, balance, curl, envelope, transfer
from ..cast import Cast
from ..net import until
from ..story import Story
from . import bypass
from .reloading import take_by
from .state import follow
from .watching import metric, rows, verified

# As a database client starts: neither HTTP nor TLS.
OTHER = "import socket; socket.create_connection(({address!r}, 4444), 5).sendall(b'\\0\\0\\0\\x08secret')"
LEGACY = "https://legacy.partner.example/v1/rates"


def play(cast: Cast, story: Story) -> None:
    story.chapter("denials that are only observed")
    set_mode(cast, "agent", "observe")
    the_target_enforces(cast, story)
    set_mode(cast, "tool", "observe")
    everything_goes_on(cast, story)
    what_never_does(cast, story)
    set_mode(cast, "agent", "enforce")
    set_mode(cast, "tool", "enforce")
    answer = transfer(cast, story, "5000.00", show=False)
    story.judge("the same transfer, enforced again", "403 amount-over-limit", answer.summary)
    story.judge("a right one, enforced again", "200", transfer(cast, story, "1.00", show=False).summary)
    for name in ("agent", "tool"):
        story.judge(f"the {name}'s record after observing", "exit 0, OK", verified(name))


def set_mode(cast: Cast, name: str, mode: str) -> None:
    path = paths.STATE / name / "config/sidecar.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("mode:")]
    take_by(name, path, "\n".join([f"mode: {mode}", *lines, ""]))
    until(f"the {name} sidecar says so", lambda: metric(cast, name, "writ_observing") == (mode == "observe"), 5)


def the_target_enforces(cast: Cast, story: Story) -> None:
    before = len(arrivals(cast.web_log))
    answer = transfer(cast, story, "5000.00")
    story.judge("over the limit, observed here, enforced at the target", "403 envelope-missing", answer.summary)
    story.judge("arrived", "0", str(len(arrivals(cast.web_log)) - before))
    row = rows("agent", "--kind", "denial")[-1]
    story.judge("in the agent's record", "amount-over-limit, enforced none",
                f"{row['reason']}, enforced {row['enforced']}")


def everything_goes_on(cast: Cast, story: Story) -> None:
    answer = transfer(cast, story, "5000.00")
    story.judge("over the limit, observed on both sides", "200", answer.summary)
    story.judge("it carried no envelope", "none", "one" if envelope(arrivals(cast.web_log)[-1]) else "none")
    row = rows("tool", "--kind", "verdict")[-1]
    story.judge("in the tool's record", "envelope-missing, enforced none",
                f"{row['reason']}, enforced {row['enforced']}")
    answer = transfer(cast, story, "1.00", show=False)
    story.judge("what the policy allows", "200", answer.summary)
    story.judge("it carried its envelope", "one", "one" if envelope(arrivals(cast.web_log)[-1]) else "none")

    before = len(arrivals(cast.partner_log))
    env = {"CURL_CA_BUNDLE": str(cast.pki / "ca.pem")}
    answer = curl(cast, story, LEGACY, env=env, show=False)
    story.judge("TLS that the catalog refuses, end to end", "200", answer.summary)
    story.judge("arrived at the third party", "1", str(len(arrivals(cast.partner_log)) - before))
    outside = cast.pods["outside"]
    heard = len(bypass.noted(cast, cast.pods["agent"].v4))
    code = OTHER.format(address=outside.v4)
    cast.pods["agent"].run(config.AGENT_UID, *paths.python(), "-c", code)
    until("what is neither HTTP nor TLS arrives outside",
          lambda: len(bypass.noted(cast, cast.pods["agent"].v4)) > heard, 5)
    row = rows("agent", "--kind", "denial")[-1]
    story.judge("neither HTTP nor TLS, in the record", f"unreadable-connection tcp://{outside.v4}:4444",
                f"{row['reason']} {row['target']}")
    answer = curl(cast, story, f"http://{cast.pods['outside'].v4}:4444/", show=False)
    story.judge("HTTP to an unlisted listener that hangs up", "502 target-broke", answer.summary)
    answer = curl(cast, story, f"http://{cast.pods['tool'].v4}:8443/v1/accounts/1/balance", show=False,
                  pod="thief")
    story.judge("a caller without Writ", "200", answer.summary)


def what_never_does(cast: Cast, story: Story) -> None:
    answer = curl(cast, story, "http://127.0.0.1:15801/", show=False)
    story.judge("the sidecar's own port", "no answer", answer.summary if answer.status else "no answer")
    cast.chain.revoke()
    follow(cast)
    before = len(arrivals(cast.partner_log))
    story.judge("revoked, though only observed", "403 agent-revoked", balance(cast, story, "4711").summary)
    answer = curl(cast, story, LEGACY, show=False, env={"CURL_CA_BUNDLE": str(cast.pki / "ca.pem")})
    story.judge("revoked, to where no rule leads", "curl exit 35", answer.summary)
    story.judge("arrived, revoked", "0", str(len(arrivals(cast.partner_log)) - before))
    cast.chain.reinstate()
    follow(cast)
