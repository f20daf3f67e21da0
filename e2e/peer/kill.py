"""Kills the sidecar of another pod, as a crash would: to run with the node's process namespace.

    kill.py POD-UID PROGRAM
"""
import os
import pathlib
import signal
import sys

uid, program = sys.argv[1], sys.argv[2]
killed = 0
for folder in pathlib.Path("/proc").iterdir():
    if not folder.name.isdigit():
        continue
    try:
        command = (folder / "cmdline").read_bytes().split(b"\0")
        groups = (folder / "cgroup").read_text()
    except OSError:
        continue
    if pathlib.Path(command[0].decode()).name == program and (uid in groups or uid.replace("-", "_") in groups):
        os.kill(int(folder.name), signal.SIGKILL)
        killed += 1
print(f'{{"step": "killed", "processes": {killed}}}', flush=True)
sys.exit(0 if killed else 1)
