"""Telling the demo: each step says what it does, shows what really happened, and is judged."""
import dataclasses
import os
import sys
import time

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


@dataclasses.dataclass
class Result:
    name: str
    expected: str
    happened: str

    @property
    def ok(self) -> bool:
        return self.expected == self.happened


class Story:
    def __init__(self):
        self.results: list[Result] = []
        self.began = time.monotonic()

    def chapter(self, title: str) -> None:
        print("\n" + paint("1", f"── {title} " + "─" * max(0, 88 - len(title))), flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def show(self, label: str, text: str, limit: int = 24) -> None:
        """Shows real output, indented; what is cut is said."""
        lines = text.rstrip().splitlines() or ["(nothing)"]
        print(paint("2", f"  {label}"))
        for line in lines[:limit]:
            print("    " + (line if len(line) <= 240 else line[:240] + " …"))
        if len(lines) > limit:
            print(paint("2", f"    … {len(lines) - limit} more lines"))
        sys.stdout.flush()

    def judge(self, name: str, expected: str, happened: str) -> None:
        """Holds what happened against what had to."""
        result = Result(name, expected, happened)
        self.results.append(result)
        mark = paint("32", "✓") if result.ok else paint("31", "✗")
        print(f"  {mark} {name}: {happened}"
              + ("" if result.ok else paint("31", f"   (expected: {expected})")), flush=True)

    def table(self) -> bool:
        """Prints every expectation against what happened; true when all agree."""
        self.chapter("expected against happened")
        widths = [max(len(getattr(r, f)) for r in self.results) for f in ("name", "expected")]
        print(f"  {'step':<{widths[0]}}  {'expected':<{widths[1]}}  happened")
        for r in self.results:
            mark = paint("32", "✓") if r.ok else paint("31", "✗")
            print(f"{mark} {r.name:<{widths[0]}}  {r.expected:<{widths[1]}}  {r.happened}")
        failed = sum(not r.ok for r in self.results)
        took = time.monotonic() - self.began
        print(f"\n{len(self.results) - failed} passed, {failed} failed")
        print(f"took {took:.0f} s")
        return failed == 0
