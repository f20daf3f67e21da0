"""The sidecar killed under load, its disk full, its identity renewed, and its end in good order."""
import base64
import json
import os
import pathlib
import signal
import subprocess

from .. import config, paths
from ..acting import arrivals, balance, curl, envelope
from ..cast import Cast
from ..net import sh, until
from ..story import Story
from .watching import Watch, readiness, record, rows, sequence, verified

THREADS = 4
ACCOUNTS = "http://payments.bank.example/v1/accounts/{n}/balance"


def small_disk() -> None:
    """A volume of its own for the agent's record, so that it can be filled."""
    folder = record("agent")
    folder.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder))


class Load:
    """The agent asking for balances as fast as it can, until told to stop."""

    def __init__(self, cast: Cast):
        self.flag = paths.STATE / "shared" / "enough"
        self.flag.unlink(missing_ok=True)
        self.cast, self.before = cast, len(arrivals(cast.web_log))
        command = cast.pods["agent"].command(
            config.AGENT_UID, *paths.python(), str(paths.REPO / "demo/agent/loop.py"), ACCOUNTS,
            str(self.flag), str(THREADS))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")

    def reached(self) -> int:
        """How many have arrived at the target since this load began."""
        return len(arrivals(self.cast.web_log)) - self.before

    def until(self, more: int) -> None:
        enough = self.reached() + more
        until(f"{more} more requests arrive", lambda: self.reached() >= enough, 30)

    def end(self) -> dict[str, int]:
        self.flag.touch()
        said, _ = self.process.communicate(timeout=30)
        return json.loads(said)


def play(cast: Cast, story: Story) -> None:
    renewed(cast, story)
    killed(cast, story)
    full(cast, story)


def renewed(cast: Cast, story: Story) -> None:
    story.chapter("every identity renewed five times under load")
    watch, load = Watch(cast), Load(cast)
    for _ in range(5):
        load.until(30)
        os.kill(cast.issuer.pid, signal.SIGHUP)
    load.until(60)
    seen = load.end()
    keys = {key_of(request) for request in arrivals(cast.web_log)[load.before:]}
    story.say(f"  {sum(seen.values())} requests, {len(keys)} signing certificates: {seen}")
    story.judge("answers while identities are renewed", "200 only", "200 only" if set(seen) == {"200"} else str(seen))
    story.judge("signing certificates seen at the target", "6", str(len(keys)))
    story.judge("both sidecars after that", "alive, ready, no panic", watch.health())


def key_of(request: dict) -> str:
    """The kid of a request's envelope: its certificate's hash."""
    compact = {name.lower(): value for name, value in request["headers"].items()}["sae"]
    return decoded_header(compact)["kid"]


def decoded_header(compact: str) -> dict:
    part = compact.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def killed(cast: Cast, story: Story) -> None:
    story.chapter("kill -9 of the agent's sidecar under load")
    load = Load(cast)
    for round_ in range(3):
        load.until(50)
        cast.sidecars["agent"].kill()
        cast.sidecars["agent"].wait()
        # What the target had accepted before the kill it may still write down; then nothing more comes.
        settled = settle(cast)
        if round_ == 0:
            answers = {direct(cast, story) for _ in range(5)}
            story.judge("the agent, while the sidecar is down", "curl exit 7", ", ".join(sorted(answers)))
            story.judge("arrivals, while the sidecar is down", "0", str(len(arrivals(cast.web_log)) - settled))
        cast.run_sidecar("agent", config.AGENT_SIDECAR)
    load.until(50)
    seen = load.end()
    reached = arrivals(cast.web_log)[load.before:]
    story.say(f"  {sum(seen.values())} requests, {len(reached)} arrived: {seen}")
    allowed = {sequence(row) for row in rows("agent", "--kind", "allow")}
    orphans = [request for request in reached if envelope(request)["ctx"]["log"]["seq"] not in allowed]
    story.judge("arrived without a recorded allow", "0", str(len(orphans)))
    outcomes = [row["reason"] for row in rows("agent", "--all", "--kind", "outcome")]
    unknown = [row["reason"] for row in rows("agent", "--all", "--kind", "unknown")]
    story.say(f"  {len(allowed)} allows, {len(outcomes)} outcomes, {len(unknown)} unknown")
    until("every allow has its outcome", lambda: open_allows() == 0, 10)
    story.judge("allows without outcome or `unknown`", "0", str(open_allows()))
    story.judge("some were open when it was killed", "yes", "yes" if unknown else "no")
    story.judge("the record after three kills", "exit 0, OK", verified("agent"))


def direct(cast: Cast, story: Story) -> str:
    """One request with its address given, since names come from the sidecar too."""
    at = f"payments.bank.example:80:{cast.pods['tool'].v4}"
    return curl(cast, story, "--resolve", at, ACCOUNTS.replace("{n}", "1"), show=False).summary


def open_allows() -> int:
    released = len(rows("agent", "--kind", "allow"))
    released += sum(row["enforced"] == "none" for row in rows("agent", "--kind", "denial"))
    return (released - len(rows("agent", "--all", "--kind", "outcome"))
            - len(rows("agent", "--all", "--kind", "unknown")))


def settle(cast: Cast) -> int:
    """Waits until the target writes nothing more down; returns how much it did."""
    last = [-1]

    def quiet() -> bool:
        before, last[0] = last[0], len(arrivals(cast.web_log))
        return before == last[0]

    until("the target is quiet", quiet, 10)
    return last[0]


def full(cast: Cast, story: Story) -> None:
    story.chapter("the disk under the agent's record is full")
    watch, filler = Watch(cast), record("agent") / "filler"
    fill(filler)
    # What the record's file has room for already still goes in.
    answers = []
    while len(answers) < 400 and (not answers or answers[-1] == "200"):
        answers.append(balance(cast, story, "4711", show=False).summary)
    let = answers.count("200")
    arrived = watch.count()["web_log"] - watch.arrived["web_log"]
    story.say(f"  {let} more fitted in")
    story.judge("arrived while it filled up", f"the {let} that were answered",
                f"the {let} that were answered" if arrived == let else f"{arrived}, {let} answered")
    settled = len(arrivals(cast.web_log))
    answer = balance(cast, story, "4711")
    story.judge("an action, disk full", "503 record-unavailable", answer.summary)
    many = {balance(cast, story, str(n), show=False).summary for n in range(20)}
    story.judge("twenty more", "503 record-unavailable", ", ".join(sorted(many)))
    story.judge("arrived, disk full", "0", str(len(arrivals(cast.web_log)) - settled))
    said = readiness(cast, "agent")
    story.judge("readiness, disk full", "says why", "says why" if "record" in said else said)
    filler.unlink()
    until("actions work again", lambda: balance(cast, story, "4711", show=False).summary == "200", 20)
    story.judge("an action, space again", "200", balance(cast, story, "4711", show=False).summary)
    story.judge("both sidecars after that", "alive, ready, no panic", watch.health())
    story.judge("the record after a full disk", "exit 0, OK", verified("agent"))


def fill(filler: pathlib.Path) -> None:
    """Writes until nothing more fits."""
    with open(filler, "wb", buffering=0) as out:
        for size in (1 << 20, 4096):
            try:
                while True:
                    out.write(b"\0" * size)
            except OSError:
                pass


def drained(cast: Cast, story: Story) -> None:
    """SIGTERM to the agent's sidecar, then the tool's, each while an event stream is open."""
    for name in ("agent", "tool"):
        story.chapter(f"SIGTERM to the {name}'s sidecar while an event stream is open")
        seen = [cast.web_log.with_name(f"{cast.web_log.name}.seen.{n}") for n in range(3)]
        for flag in seen:
            flag.unlink(missing_ok=True)
        command = cast.pods["agent"].command(config.AGENT_UID, "curl", "--silent", "--no-buffer", "--max-time",
                                             "40", "http://payments.bank.example/v1/stream")
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        events = (line.strip() for line in client.stdout if line.startswith("data: "))
        got = [next(events, "nothing")]
        process = cast.sidecars[name]
        process.send_signal(signal.SIGTERM)
        until("readiness says no", lambda: readiness(cast, name) != "ready", 5)
        story.judge(f"readiness of the {name}'s sidecar", "draining", readiness(cast, name))
        if name == "agent":
            story.judge("a new connection, draining", "curl exit 7", direct(cast, story))
        for n, flag in enumerate(seen):
            flag.touch()
            if n < 2:
                got.append(next(events, "nothing"))
        client.wait()
        story.judge("the open stream", "data: 0, data: 1, data: 2", ", ".join(got))
        until("it ends", lambda: process.poll() is not None, 15)
        story.judge(f"the {name}'s sidecar ended with", "0", str(process.returncode))
        story.judge(f"the {name}'s record after that", "exit 0, OK", verified(name))
        if name == "agent":
            cast.run_sidecar("agent", config.AGENT_SIDECAR)
            balance(cast, story, "4711", show=False)
