"""Somewhere outside, where data would be taken to: writes down everything that reaches it.

    listener.py LOGFILE

It listens on TCP 4444, UDP 443 (as QUIC does), UDP and TCP 53 and for ICMP echo requests, on IPv4
and IPv6, and appends one JSON line for each arrival.
"""
import json
import selectors
import socket
import sys
import threading

LOG = sys.argv[1]
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
chosen = selectors.DefaultSelector()


def arrived(what: str, sender: str) -> None:
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps({"what": what, "from": sender}) + "\n")


def watch(kind: str, family: int, port: int) -> None:
    types = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0),
             "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP if family == socket.AF_INET
                      else socket.IPPROTO_ICMPV6)}
    at = socket.socket(family, *types[kind])
    if family == socket.AF_INET6 and kind != "icmp":
        at.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind != "icmp":
        at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        at.bind(("0.0.0.0" if family == socket.AF_INET else "::", port))
    if kind == "tcp":
        at.listen(16)
    at.setblocking(False)
    chosen.register(at, selectors.EVENT_READ, (kind, family, port))


def hang_up(connection: socket.socket) -> None:
    """Once something was said: who is hung up on before that cannot tell it from not being let in."""
    connection.settimeout(5)
    try:
        connection.recv(65536)
    except OSError:
        pass
    connection.close()


def handle(at: socket.socket, kind: str, family: int, port: int) -> None:
    if kind == "tcp":
        connection, sender = at.accept()
        threading.Thread(target=hang_up, args=(connection,), daemon=True).start()
    else:
        packet, sender = at.recvfrom(2048)
        if kind == "icmp":
            # A raw IPv4 socket delivers the IP header too.
            start = (packet[0] & 15) * 4 if family == socket.AF_INET else 0
            if packet[start] != ECHO_REQUEST[family]:
                return
    version = "4" if family == socket.AF_INET else "6"
    arrived(f"{kind}{version}" + (f":{port}" if port else ""), sender[0])


for family in (socket.AF_INET, socket.AF_INET6):
    for kind, port in (("udp", 443), ("udp", 53), ("tcp", 53), ("icmp", 0), ("tcp", 4444)):
        watch(kind, family, port)
while True:
    for key, _ in chosen.select():
        handle(key.fileobj, *key.data)
