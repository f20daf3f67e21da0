"""The record: verified, shown, and caught when it is tampered with."""
import re
import shlex
import shutil
import subprocess

from .. import paths
from ..cast import Cast
from ..net import ENVIRONMENT, Failed, stop
from ..story import Story


def play(cast: Cast, story: Story) -> None:
    story.chapter("the agent's record")
    folder = paths.STATE / "agent" / "record"
    listed = writ(story, "list", "--log", str(folder), show=False)
    story.show(f"$ writ log list --log {folder}", listed.stdout, limit=60)

    shown = writ(story, "show", cast.first_decision, "--log", str(folder))
    story.judge("first transfer, enforced by", "pep", field(shown.stdout, "enforced"))
    shown = writ(story, "show", cast.third_party_decision, "--log", str(folder))
    story.judge("third party, enforced by", "redirect", field(shown.stdout, "enforced"))

    # What somebody else keeps of it: without that nobody can tell a rewritten log from the true one.
    kept = paths.STATE / "shared" / "kept-checkpoint.txt"
    kept.write_text(writ(story, "checkpoint", "--log", str(folder), show=False).stdout)
    verified = writ(story, "verify", str(folder), "--checkpoint", str(kept))
    story.judge("the record, verified", "exit 0, OK", verdict(verified))

    story.chapter("a copy of the record, tampered with")
    stop(cast.sidecars["agent"])
    copy = paths.STATE / "shared" / "copy.redb"
    shutil.copy(folder / "log.redb", copy)
    true = copy.read_bytes()
    before, after = b'"class-over-ceiling"', b'"amount-over-limits"'
    copy.write_bytes(true.replace(before, after))
    seq = cast.secret_decision.rsplit("-", 1)[1]
    story.say(f"  In record {seq}, the refused note, the reason is changed to another.")
    caught = writ(story, "verify", str(copy), "--checkpoint", str(kept))
    findings = caught.stdout.partition("NOT OK")[2]
    named = re.findall(r"^  record (\d+): ", findings, re.MULTILINE)
    story.judge("the copy, verified", f"exit 1, names record {seq}",
                f"exit {caught.returncode}, names record {named[0] if named else 'none'}")


def writ(story: Story, *arguments: str, show: bool = True) -> subprocess.CompletedProcess:
    line = ["writ", "log", *arguments]
    done = subprocess.run([paths.program("writ"), *line[1:]], capture_output=True, text=True,
                          timeout=60, env=ENVIRONMENT)
    if done.returncode not in (0, 1):
        raise Failed(f"{shlex.join(line)}: {done.stderr.strip()}")
    if show:
        story.show("$ " + shlex.join(line), done.stdout + done.stderr, limit=40)
    return done


def verdict(done: subprocess.CompletedProcess) -> str:
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return f"exit {done.returncode}, {lines[-1].strip()}"


def field(page: str, name: str) -> str:
    """One row of what `writ log show` prints."""
    for line in page.splitlines():
        label, _, value = line.strip().partition(" ")
        if label == name:
            return value.strip()
    return "not said"
