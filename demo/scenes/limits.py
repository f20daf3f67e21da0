"""What the policy says no to."""
import json

from ..acting import Answer, arrivals, balance, curl, transfer
from ..cast import Cast
from ..story import Story


def play(cast: Cast, story: Story) -> None:
    story.chapter("what the policy refuses")
    story.say("  Up to 100.00 a transfer, 250.00 in 30 days; notes up to class internal.")

    refused(cast, story, "amount over the limit", "403 amount-over-limit",
            lambda: transfer(cast, story, "100.01"))
    for amount in ("100.00", "100.00"):
        answer = transfer(cast, story, amount, show=False)
        story.judge(f"transfer of {amount}", "200", answer.summary)
    refused(cast, story, "budget used up", "403 budget-spent",
            lambda: transfer(cast, story, "2.51"))
    # 25.00 + 12.50 + 10.00 + 200.00 of 250.00: the last 2.50 are still there.
    answer = transfer(cast, story, "2.50", show=False)
    story.judge("the rest of the budget", "200", answer.summary)

    # AWS's own example key, which opens nothing.
    secret = json.dumps({"text": "use AKIA" + "IOSFODNN7EXAMPLE for the upload"})
    answer = refused(cast, story, "secret in a body", "403 class-over-ceiling",
                     lambda: curl(cast, story, "http://payments.bank.example/v1/notes", "--json", secret))
    cast.secret_decision = answer.problem.get("decision_id", "")
    harmless = json.dumps({"text": "use the shared folder for the upload"})
    answer = curl(cast, story, "http://payments.bank.example/v1/notes", "--json", harmless, show=False)
    story.judge("the note without it", "200", answer.summary)
    refused(cast, story, "path that no entry names", "403 unlisted",
            lambda: curl(cast, story, "http://payments.bank.example/v1/admin", show=False))
    refused(cast, story, "host that no entry names", "curl exit 6",
            lambda: curl(cast, story, "http://elsewhere.example/", show=False))
    answer = balance(cast, story, "4711", show=False)
    story.judge("reading a balance", "200", answer.summary)


def refused(cast: Cast, story: Story, name: str, expected: str, act) -> Answer:
    """Judges the answer, and that nothing arrived."""
    before = len(arrivals(cast.web_log))
    answer = act()
    arrived = len(arrivals(cast.web_log)) - before
    story.judge(name, f"{expected}, nothing arrived",
                f"{answer.summary}, " + (f"{arrived} arrived" if arrived else "nothing arrived"))
    return answer
