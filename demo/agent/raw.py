"""Sends bytes as they are, one connection a case, and says what came back.

Cases come on stdin as JSON: {name: {"to": [host, port], "send": [hex, ...], "udp": bool}}. Between
two parts of `send` it waits for a moment. Answers go to stdout as JSON: {name: answer}; an answer is
an HTTP status and refusal code, "silence", "closed", "alert" (TLS), or "refused".
"""
import concurrent.futures
import http.client
import json
import socket
import sys
import time

WAIT = 8


def ask(case: dict) -> str:
    host, port = case["to"]
    if case.get("udp"):
        return datagram(host, port, case["send"])
    try:
        stream = socket.create_connection((host, port), WAIT)
    except OSError as error:
        return type(error).__name__
    with stream:
        sent = send(stream, case["send"])
        return (tls if case.get("tls") else answer)(stream) if sent else "closed"


def send(stream: socket.socket, parts: list[str]) -> bool:
    try:
        for number, part in enumerate(parts):
            if number:
                time.sleep(0.4)
            stream.sendall(bytes.fromhex(part))
    except OSError:
        # The peer may have answered and closed before it had read all of it.
        return answer_waits(stream)
    return True


def answer_waits(stream: socket.socket) -> bool:
    try:
        return bool(stream.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def datagram(host: str, port: int, parts: list[str]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0.5)
        sender.connect((host, port))
        for part in parts:
            sender.send(bytes.fromhex(part))
        try:
            return rcode(sender.recv(4096))
        except OSError:
            return "silence"


def rcode(message: bytes) -> str:
    return f"rcode {message[3] & 15}" if len(message) >= 4 else "unreadable"


def answer(stream: socket.socket) -> str:
    try:
        response = http.client.HTTPResponse(stream)
        response.begin()
        body = response.read(65536)
    except TimeoutError:
        return "silence"
    except (OSError, http.client.HTTPException):
        return "closed"
    try:
        parsed = json.loads(body)
        code = parsed.get("code") or parsed.get("error", {}).get("data", {}).get("code", "")
    except (ValueError, AttributeError):
        code = ""
    return f"{response.status} {code}".strip()


def tls(stream: socket.socket) -> str:
    try:
        got = stream.recv(64)
    except TimeoutError:
        return "silence"
    except OSError:
        return "closed"
    return "alert" if got[:1] == b"\x15" else "closed" if not got else f"{len(got)} bytes"


cases = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(cases, pool.map(ask, cases.values())))))
