"""Traces: one span for each stage, in the agent's own trace, at a collector that is not ours."""
import json
import secrets

from .. import net, paths
from ..acting import Answer, arrivals, curl
from ..cast import Cast
from ..net import listening, until
from ..story import Story
from .watching import rows

PORT = 4317
ACTION = ["action", "append", "classify", "connect", "evaluate", "send", "sign"]
ARRIVAL = ["application", "arrival", "record", "verify"]


def collect(cast: Cast) -> None:
    """Starts the collector, and has sidecars that start from now on send it what agents ask to be
    traced, at once."""
    at = cast.pods["chain"]
    cast.spans = paths.STATE / "spans.jsonl"
    cast.collector = at.start(0, paths.LOGS / "collector.log", *paths.python(),
                              str(paths.REPO / "demo/services/collector.py"), f"{at.v4}:{PORT}", str(cast.spans))
    until("the collector listens", lambda: listening(at.v4, PORT), 30, cast.collector)
    cast.environment = {"WRIT_OTLP_ENDPOINT": f"http://{at.v4}:{PORT}", "WRIT_TRACE_RATIO": "0",
                        "OTEL_BSP_SCHEDULE_DELAY": "100"}


def play(cast: Cast, story: Story) -> None:
    story.chapter("traces")
    allowed(cast, story)
    denied(cast, story)
    untraced = context("00")
    answer = act(cast, story, "1.00", untraced)
    story.judge("one whose agent says that it is not to be traced", "200", answer.summary)
    story.judge("its trace goes on all the same", trace_of(untraced), trace_of(arrived(cast)))
    # What is traced later has come, so that it would have come too.
    allowed(cast, story, quiet=True)
    story.judge("spans of it", "0", str(len(spans(cast, untraced))))
    without_collector(cast, story)


def allowed(cast: Cast, story: Story, quiet: bool = False) -> None:
    parent = context("01")
    answer = act(cast, story, "1.00", parent, show=not quiet)
    complete = sorted(ACTION + ARRIVAL)
    until("every stage's span is collected", lambda: names(cast, parent) == complete, 20, cast.collector)
    if quiet:
        return
    story.judge("an allowed action, traced by its agent", "200", answer.summary)
    of = {span["name"]: span for span in spans(cast, parent)}
    story.judge("stages of it at the collector", " ".join(complete), " ".join(names(cast, parent)))
    story.judge("the action continues the agent's span", parent.split("-")[2], of["action"]["parent"])
    story.judge("its stages are below it", of["action"]["id"],
                " ".join({of[name]["parent"] for name in ACTION[1:]}))
    story.judge("the arrival continues the action's last stage", of["send"]["id"], of["arrival"]["parent"])
    story.judge("the target continues the arrival's", of["application"]["id"], arrived(cast).split("-")[2])
    decided = of["action"]["attributes"]
    story.judge("the decision's id in it is that of the record", rows("agent", "--kind", "allow")[-1]["id"],
                decided.get("decision.id", "none"))
    story.judge("what was decided", "allow", decided.get("decision.effect", "none"))


def denied(cast: Cast, story: Story) -> None:
    parent = context("01")
    answer = act(cast, story, "5000.00", parent)
    until("its span is collected", lambda: "action" in names(cast, parent), 20, cast.collector)
    story.judge("a denied action, traced", "403 amount-over-limit", answer.summary)
    story.judge("stages of it", "action append classify evaluate sign", " ".join(names(cast, parent)))
    of = {span["name"]: span for span in spans(cast, parent)}
    told = of["action"]["attributes"]
    story.judge("what was decided, and why", "deny amount-over-limit",
                f"{told.get('decision.effect')} {told.get('decision.reason')}")
    everything = json.dumps(spans(cast, parent))
    story.judge("what the agent sent is not in it", "absent", "present" if "5000" in everything else "absent")


def without_collector(cast: Cast, story: Story) -> None:
    net.stop(cast.collector)
    answers = {act(cast, story, "1.00", context("01"), show=False).summary for _ in range(5)}
    story.judge("with the collector away", "200", " ".join(sorted(answers)))


def act(cast: Cast, story: Story, amount: str, parent: str, show: bool = True) -> Answer:
    body = json.dumps({"amount": amount, "currency": "EUR", "to": "rent-and-power"})
    return curl(cast, story, "http://payments.bank.example/v1/transfers", "--json", body, "--header",
                f"traceparent: {parent}", "--header", "tracestate: vendor=anything", show=show)


def context(flags: str) -> str:
    """A W3C trace context, as an agent's own tracing makes it."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"


def trace_of(parent: str) -> str:
    return parent.split("-")[1]


def arrived(cast: Cast) -> str:
    """The trace context that the newest request reached the target with."""
    fields = {name.lower(): value for name, value in arrivals(cast.web_log)[-1]["headers"].items()}
    return "none-none-none" if "tracestate" in fields else fields.get("traceparent", "none-none-none")


def spans(cast: Cast, parent: str) -> list[dict]:
    lines = map(json.loads, paths.read_log(cast.spans).splitlines())
    return [span for span in lines if span["trace"] == trace_of(parent)]


def names(cast: Cast, parent: str) -> list[str]:
    return sorted(span["name"] for span in spans(cast, parent))
