"""`make demo`: the main job, end to end, on one machine. See demo/run for how it is started."""
import argparse
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback

from . import config, keeping, net, paths
from .cast import Cast
from .scenes import (attacks, bypass, calls, crash, hostile, limits, load, observing, parties, record,
                     reloading, state, tracing)
from .scenes.mesh import Mesh
from .story import Story


def set_up(story: Story, prepare=lambda cast: None) -> Cast:
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
    prepare(cast)
    cast.start_sidecar("tool", config.TOOL_SIDECAR)
    cast.start_sidecar("agent", config.AGENT_SIDECAR)
    story.say("  both sidecars are ready: state proved, traffic captured")
    return cast


def play(story: Story) -> Cast:
    cast = set_up(story)
    for scene in (calls, limits, parties, attacks, bypass, state, record):
        scene.play(cast, story)
    return cast


def play_hard(story: Story) -> Cast:
    """The hard cases, on the same stage."""
    def prepare(cast: Cast) -> None:
        crash.small_disk()
        tracing.collect(cast)

    cast = set_up(story, prepare)
    reloading.hasten(cast)
    for scene in (hostile.play, reloading.play, observing.play, tracing.play, crash.play, reloading.keys,
                  crash.drained):
        scene(cast, story)
    return cast


def play_load(story: Story) -> Cast:
    """The whole path under load; where the programs for it lie and the raw data goes, the environment
    says: scripts/bench sets it."""
    oha, envoy, ext_authz, out = (
        pathlib.Path(os.environ[name]) for name in ("OHA", "ENVOY", "EXT_AUTHZ", "LOAD_RESULT"))
    cast = set_up(story, lambda cast: load.real_disk())
    load.play(cast, story, oha, Mesh(envoy, ext_authz), out)
    return cast


ACTS = {"main": play, "hard": play_hard, "load": play_load}


def keep(cast: Cast) -> None:
    """Leaves everything running, and says how to look around."""
    cast.run_sidecar("agent", config.AGENT_SIDECAR)
    cast.chain.reinstate()
    state.follow(cast)
    print(keeping.invitation(cast), flush=True)
    while True:
        time.sleep(3600)


def blame(problem: BaseException | None) -> None:
    """Says what went wrong, and where to look."""
    if problem is not None:
        print(f"\ndemo: {problem}", file=sys.stderr)
        if not isinstance(problem, net.Failed):
            traceback.print_exception(problem)
    if not paths.LOGS.exists():
        return
    for log in sorted(paths.LOGS.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        notable = [line for line in lines if '"ERROR"' in line or '"WARN"' in line or "panicked" in line]
        for line in (notable or lines)[-3:]:
            print(f"  {log.name}: {line[:240]}", file=sys.stderr)
    # What lies under /run is gone with this process.
    kept = paths.REPO / "demo" / ".state" / "logs"
    try:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(paths.LOGS, kept)
        print("  all of it: demo/.state/logs", file=sys.stderr)
    except OSError as error:
        print(f"  the logs could not be kept: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--act", choices=ACTS, default="main")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    # The first process of a PID namespace gets only the signals that it handles.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    story = Story()
    try:
        net.world()
        paths.expose(arguments.bin)
        cast = ACTS[arguments.act](story)
        good = story.table()
        if not good:
            blame(None)
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
