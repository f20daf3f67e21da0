"""An agent that follows a script and says what came back, one JSON object a line. It knows nothing of
Writ: plain urllib, sockets, and the MCP SDK.

    agent.py STEPS     STEPS: a JSON array of steps, each an object with `do` and what that needs.

Every step may have `until`, the result's field values to wait for (each at most 120 s).
"""
import asyncio
import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

GIVE_UP = 120


def say(**fields) -> None:
    print(json.dumps(fields), flush=True)


def request(url, method="GET", body=None, headers=None, timeout=15) -> dict:
    data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = {**({"content-type": "application/json"} if data else {}), **(headers or {})}
    asked = urllib.request.Request(url, data, headers, method=method)
    started = time.monotonic()
    try:
        with urllib.request.urlopen(asked, timeout=timeout) as answer:
            result = {"status": answer.status, "headers": dict(answer.headers), "body": answer.read().decode()}
    except urllib.error.HTTPError as refused:
        result = {"status": refused.code, "headers": dict(refused.headers), "body": refused.read().decode()}
    except (OSError, http.client.HTTPException) as error:  # the latter when it breaks off halfway
        return {"status": 0, "error": str(error)}
    result["seconds"] = round(time.monotonic() - started, 4)
    try:
        result["json"] = json.loads(result["body"])
        result["code"] = result["json"].get("code")
    except (ValueError, AttributeError):
        pass
    return result


def stream(url, seen, events) -> dict:
    """Reads server-sent events, and says of each that it was seen before the next is read."""
    read = []
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    read.append(line[5:].strip().decode())
                    while request(f"{seen}/{read[-1]}")["status"] == 503:  # told to send it again
                        time.sleep(0.2)
        return {"status": answer.status, "events": read, "complete": len(read) == events}
    except OSError as error:
        return {"status": 0, "error": str(error), "events": read}


def connect(address, port, family="v4", send="", timeout=3) -> dict:
    """A bare TCP connection: what happened, and the first bytes that came back."""
    kind = socket.AF_INET6 if family == "v6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as plain:
        plain.settimeout(timeout)
        try:
            plain.connect((address, port))
            plain.sendall(send.encode() or b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
            return {"connected": True, "received": plain.recv(2048).decode("utf-8", "replace")}
        except OSError as error:
            return {"connected": False, "error": str(error)}


def datagram(address, port, family="v4", text="hello", timeout=2) -> dict:
    """One UDP packet, and whether an answer came."""
    kind = socket.AF_INET6 if family == "v6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as plain:
        plain.settimeout(timeout)
        try:
            plain.sendto(text.encode(), (address, port))
            return {"answered": True, "received": plain.recv(2048).decode("utf-8", "replace")}
        except OSError as error:
            return {"answered": False, "error": str(error)}


def resolve(host) -> dict:
    try:
        return {"addresses": sorted({found[4][0] for found in socket.getaddrinfo(host, 80)})}
    except OSError as error:
        return {"addresses": [], "error": str(error)}


def mcp(url, tool, arguments) -> dict:
    """One tool call through the official SDK."""
    from mcp import Client

    async def call():
        async with Client(url) as client:
            return await client.call_tool(tool, arguments)
    try:
        answer = asyncio.run(call())
        return {"text": "".join(getattr(part, "text", "") for part in answer.content)}
    except BaseException as error:  # the SDK raises groups
        return {"error": describe(error)}


def describe(error) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def environment(names) -> dict:
    return {"values": {name: os.environ.get(name) for name in names}}


def read(path) -> dict:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return {"text": file.read(65536)}
    except OSError as error:
        return {"error": str(error)}


def load(every, **asked) -> None:
    """Asks again and again until the pod ends; tells every answer."""
    number = 0
    while True:
        started = time.monotonic()
        answer = request(**asked)
        say(step="load", number=number, at=time.time(),
            **{field: answer[field] for field in ("status", "code", "error", "seconds") if field in answer})
        number += 1
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def wait(seconds) -> dict:
    threading.Event().wait(seconds)
    return {}


ACTIONS = {"request": request, "stream": stream, "connect": connect, "datagram": datagram, "resolve": resolve,
           "mcp": mcp, "environment": environment, "read": read, "load": load, "wait": wait}


def follow(steps) -> None:
    for step in steps:
        step = dict(step)
        name, action, until = step.pop("name"), ACTIONS[step.pop("do")], step.pop("until", None)
        end = time.monotonic() + GIVE_UP
        while True:
            result = action(**step)
            if not until or all(result.get(field) == value for field, value in until.items()):
                break
            if time.monotonic() > end:
                result["gaveUp"] = f"not {until} within {GIVE_UP} s"
                break
            time.sleep(0.2)
        say(step=name, **result)
    say(step="end")


follow(json.loads(sys.argv[1]))
if "--stay" in sys.argv:
    wait(3600)
