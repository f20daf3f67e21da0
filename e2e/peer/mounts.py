"""Says which mounts of the node are in a pod's folder: to run with the node's process namespace.

    mounts.py POD-UID [empty]    with `empty`: waits until there is none (at most 120 s)
"""
import json
import pathlib
import sys
import time

uid, *wait = sys.argv[1:]
end = time.monotonic() + 120


def mounts() -> list:
    rows = pathlib.Path("/proc/1/mountinfo").read_text().splitlines()
    found = (row.split(" ") for row in rows)
    return [{"at": row[4], "options": row[5].split(",")} for row in found
            if f"/pods/{uid}/volumes/kubernetes.io~csi/" in row[4]]


seen = mounts()
while wait and seen and time.monotonic() < end:
    time.sleep(0.5)
    seen = mounts()
print(json.dumps({"step": "mounts", "seen": seen}), flush=True)
