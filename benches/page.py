"""What the benchmarks' pages share: sections that are replaced by their makers, and the machine."""
import os
import pathlib
import platform
import re


def publish(page: pathlib.Path, name: str, maker: str, text: str) -> None:
    """Puts the section into the page, in the place of the one before."""
    begin, end = f"<!-- {name}: made by {maker} -->", f"<!-- end of {name} -->"
    whole = page.read_text() if page.exists() else (
        "# Benchmarks on Kubernetes\n\nWhat is bad stands here too.\n")
    section = f"{begin}\n{text}\n{end}\n"
    if begin in whole:
        head, rest = whole.split(begin, 1)
        whole = head + section + rest.split(end + "\n", 1)[1]
    else:
        whole += "\n" + section
    page.write_text(whole)


def machine() -> dict:
    info = pathlib.Path("/proc/cpuinfo").read_text()
    return {"cpu": re.search(r"model name\s*: (.*)", info).group(1), "threads": os.cpu_count(),
            "kernel": platform.release()}


def named(machine: dict) -> str:
    return f"{machine['cpu']}, {machine['threads']} threads, Linux {machine['kernel']}"
