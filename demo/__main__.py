"""`make demo`: the main job, end to end, on one machine. See demo/run for how it is started."""
import argparse
import pathlib
import signal
import sys
import time

from . import config, keeping, net, paths
from .cast import Cast
from .scenes import attacks, bypass, calls, limits, parties, record, state
from .story import Story


def set_up(story: Story) -> Cast:
    story.chapter("setting the stage")
    cast = Cast()
    story.say("  six network namespaces stand for pods; nothing outside them is touched")
    cast.start_services()
    cast.start_issuer()
    cast.chain.start()
    story.say("  an EVM node with a block every second, and an issuer of SPIFFE identities")
    line, out = cast.chain.deploy()
    story.show(f"$ {line}", out)
    cast.chain.name(cast.salts)
    for line, out in (cast.chain.publish("rules.yaml"), cast.chain.register(cast.salts.model)):
        story.show(f"$ {line}", out)
    cast.await_services()
    cast.start_sidecar("tool", config.TOOL_SIDECAR)
    cast.start_sidecar("agent", config.AGENT_SIDECAR)
    story.say("  both sidecars are ready: state proved, traffic captured")
    return cast


def play(story: Story) -> Cast:
    cast = set_up(story)
    for scene in (calls, limits, parties, attacks, bypass, state, record):
        scene.play(cast, story)
    return cast


def keep(cast: Cast) -> None:
    """Leaves everything running, and says how to look around."""
    cast.run_sidecar("agent", config.AGENT_SIDECAR)
    cast.chain.reinstate()
    state.follow(cast)
    print(keeping.invitation(cast), flush=True)
    while True:
        time.sleep(3600)


def blame(problem: BaseException) -> None:
    """Says what went wrong, and where to look."""
    print(f"\ndemo: {problem}", file=sys.stderr)
    for log in sorted(paths.LOGS.glob("*.log")) if paths.LOGS.exists() else []:
        lines = log.read_text(errors="replace").splitlines()
        notable = [line for line in lines if "ERROR" in line or "WARN" in line or "panicked" in line][-3:]
        if notable or (lines and not isinstance(problem, net.Failed)):
            print(f"  {log.name}:", file=sys.stderr)
            for line in notable or lines[-3:]:
                print("    " + line[:300], file=sys.stderr)
    print("  `make demo KEEP=1` keeps the logs, under /run/writ/logs in the demo's namespaces",
          file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    # The first process of a PID namespace gets only the signals that it handles.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    story = Story()
    try:
        net.world()
        paths.expose(arguments.bin)
        cast = play(story)
        good = story.table()
        if arguments.keep:
            keep(cast)
        return 0 if good else 1
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    except Exception as problem:
        blame(problem)
        if story.results:
            story.table()
        return 1


sys.exit(main())
