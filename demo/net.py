"""Network namespaces that stand for pods, and processes in them.

Everything here runs inside the mount, network and process namespaces that demo/run made, so
nothing is left behind: when the first process ends, the kernel ends and removes all the rest.
"""
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import time

BRIDGE4, BRIDGE6 = "10.55.0.1", "fd55::1"

# What programs in pods find in their environment: nothing of the person who started the demo.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "HOME": "/run/home", "TMPDIR": "/run/home", "LANG": "C.UTF-8", "NO_COLOR": "1"}


class Failed(Exception):
    """Something of the demo itself did not work, with what to look at."""


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def world() -> None:
    """Makes the private mounts and the bridge that joins the pods."""
    resolv = pathlib.Path(os.path.realpath("/etc/resolv.conf"))
    sh("mount", "--make-rprivate", "/")
    # Everything that the demo writes lies in memory, and is gone with the mount.
    sh("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    os.makedirs("/run/netns")
    os.makedirs("/run/home")
    os.chmod("/run/home", 0o1777)
    if not resolv.exists():
        resolv.parent.mkdir(parents=True, exist_ok=True)
        resolv.touch()
    own = pathlib.Path("/run/resolv.conf.demo")
    own.write_text(f"nameserver {BRIDGE4}\noptions timeout:2 attempts:1\n")
    own.chmod(0o644)
    sh("mount", "--bind", str(own), str(resolv))
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "address", "add", f"{BRIDGE4}/24", "dev", "br0")
    sh("ip", "-6", "address", "add", f"{BRIDGE6}/64", "dev", "br0", "nodad")
    sh("ip", "link", "set", "br0", "up")


@dataclasses.dataclass
class Pod:
    """One network namespace with an address of each family."""

    name: str
    host: int

    @property
    def v4(self) -> str:
        return f"10.55.0.{self.host}"

    @property
    def v6(self) -> str:
        return f"fd55::{self.host}"

    def create(self) -> "Pod":
        veth = f"v-{self.name}"
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        sh("ip", "link", "set", veth, "master", "br0", "up")
        inside = ("ip", "-n", self.name)
        sh(*inside, "link", "set", "lo", "up")
        sh(*inside, "address", "add", f"{self.v4}/24", "dev", "eth0")
        sh(*inside, "-6", "address", "add", f"{self.v6}/64", "dev", "eth0", "nodad")
        sh(*inside, "link", "set", "eth0", "up")
        sh(*inside, "route", "add", "default", "via", BRIDGE4)
        sh(*inside, "-6", "route", "add", "default", "via", BRIDGE6)
        return self

    def command(self, uid: int, *command: str) -> list[str]:
        """A command inside this pod, as a user without privileges or a way to gain them."""
        drop = [] if uid == 0 else [
            "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
            "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"]
        return ["ip", "netns", "exec", self.name, *drop, *command]

    def run(self, uid: int, *command: str, timeout: float = 30, env: dict | None = None,
            stdin: str | None = None) -> subprocess.CompletedProcess:
        """Runs a command to its end; 124 stands for one that took too long."""
        try:
            return subprocess.run(self.command(uid, *command), capture_output=True, text=True,
                                  timeout=timeout, env={**ENVIRONMENT, **(env or {})}, input=stdin,
                                  cwd="/")
        except subprocess.TimeoutExpired as late:
            text = lambda data: data.decode("utf-8", "replace") if isinstance(data, bytes) else data or ""
            return subprocess.CompletedProcess(command, 124, text(late.stdout), text(late.stderr))

    def start(self, uid: int, log: pathlib.Path, *command: str, env: dict | None = None) -> subprocess.Popen:
        """Starts a command and leaves it running; it says what it does in `log`."""
        out = open(log, "ab")
        process = subprocess.Popen(self.command(uid, *command), stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env={**ENVIRONMENT, **(env or {})}, cwd="/")
        process.log = log
        return process


def until(what: str, condition, within: float = 20, process: subprocess.Popen | None = None):
    """Waits until `condition()` is true, and says what it waited for when it never is."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    if process is not None:
        lines = pathlib.Path(process.log).read_text(errors="replace").splitlines()[-15:]
        tail = "\n  " + "\n  ".join(lines)
        tail = f"\n  last lines of {process.log}:" + tail
        raise Failed(f"{what}: " + ("the program ended" if process.poll() is not None
                                    else f"not within {within:.0f} s") + tail)
    raise Failed(f"{what}: not within {within:.0f} s")


def listening(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def resident(process: subprocess.Popen, part: str = "VmRSS") -> int:
    """Resident memory of a running process, KiB; `RssAnon` is the part that no file backs."""
    for text in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if text.startswith(f"{part}:"):
            return int(text.split()[1])
    raise Failed(f"process {process.pid} has ended")


def cpu_seconds(process: subprocess.Popen) -> float:
    """CPU time that a running process has used, of all its threads, user and system."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen, how: int = signal.SIGTERM) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
