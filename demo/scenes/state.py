"""The chain: endpoints that fall silent, a new policy version, a revocation."""
import os
import signal

from .. import config
from ..acting import arrivals, balance, envelope, transfer
from ..cast import Cast
from ..net import until
from ..story import Story
from . import attacks


def play(cast: Cast, story: Story) -> None:
    silence(cast, story)
    new_version(cast, story)
    revocation(cast, story)


def silence(cast: Cast, story: Story) -> None:
    story.chapter("the RPC endpoint falls silent")
    story.say(f"  In this demo chain state is fresh for {config.FRESH} s and usable for {config.MAX_STALE} s (the defaults are\n"
              "  60 s and 300 s). Transfers want state of at most 10 s, reading takes any that is usable.")
    os.kill(cast.chain.node.pid, signal.SIGSTOP)
    try:
        for name in ("agent", "tool"):
            until(f"the {name} sidecar's state is no longer fresh",
                  lambda: cast.state_age(name) > config.FRESH, 20)
        before = len(arrivals(cast.web_log))
        answer = balance(cast, story, "4711")
        claims = envelope(arrivals(cast.web_log)[before]) if answer.status == 200 else None
        story.judge("reading, endpoint silent", "200, state cached",
                    f"{answer.summary}, state {claims['pol']['state']}" if claims else answer.summary)
        until("the state is older than transfers take", lambda: cast.state_age("agent") > 10, 20)
        answer = transfer(cast, story, "1.00")
        story.judge("transfer, state older than its rule takes", "403 state-too-old", answer.summary)
        until("the state is too old", lambda: cast.state_age("agent") > config.MAX_STALE, 20)
        answer = balance(cast, story, "4711")
        story.judge("reading, state too old for anything", "503 state-too-old", answer.summary)
    finally:
        os.kill(cast.chain.node.pid, signal.SIGCONT)
    for name in ("agent", "tool"):
        until(f"the {name} sidecar follows the chain again",
              lambda: 0 <= cast.state_age(name) <= config.FRESH, 20)
    answer = balance(cast, story, "4711", show=False)
    story.judge("reading, endpoint back", "200", answer.summary)


def new_version(cast: Cast, story: Story) -> None:
    story.chapter("a new version of the policy, without a restart")
    answer = transfer(cast, story, "120.00", show=False)
    story.judge("120.00 under the first version", "403 amount-over-limit", answer.summary)
    line, out = cast.chain.publish("rules-2.yaml")
    story.show(f"$ {line}", out)
    follow(cast)
    answer = transfer(cast, story, "120.00")
    story.judge("120.00 under the second version", "200", answer.summary)


def revocation(cast: Cast, story: Story) -> None:
    story.chapter("the guardian revokes the agent")
    line, out = cast.chain.revoke()
    story.show(f"$ {line}", out)
    revoked_at = cast.chain.height()
    before = len(arrivals(cast.web_log))
    follow(cast)
    blocks = cast.head("agent") - revoked_at
    answer = balance(cast, story, "4711")
    story.judge("the agent, revoked", "403 agent-revoked", answer.summary)
    story.judge("in force after", "2 blocks or fewer",
                "2 blocks or fewer" if blocks <= 2 else f"{blocks} blocks")
    report = attacks.attack(cast, story)
    story.judge("a right envelope, at the PEP", "403 agent-revoked", attacks.told(report, "fresh envelope"))
    story.judge("requests of the thief, revoked", "0", str(len(arrivals(cast.web_log)) - before))


def follow(cast: Cast) -> None:
    """Waits until both sidecars have proved the newest block there is now."""
    height = cast.chain.height()
    for name in ("agent", "tool"):
        until(f"the {name} sidecar reaches block {height}", lambda: cast.head(name) >= height, 20)
