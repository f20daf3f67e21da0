"""Asks for one balance after another until a file appears, then prints what came back, counted.

    loop.py URL STOPFILE THREADS

`{n}` in URL is replaced by a number that never repeats.
"""
import collections
import http.client
import itertools
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request

URL, STOP, THREADS = sys.argv[1], sys.argv[2], int(sys.argv[3])
numbers, seen, lock = itertools.count(), collections.Counter(), threading.Lock()


def once() -> str:
    try:
        with urllib.request.urlopen(URL.replace("{n}", str(next(numbers))), timeout=10) as answer:
            answer.read()
            return str(answer.status)
    except urllib.error.HTTPError as refused:
        return f"{refused.code} {json.load(refused).get('code', '')}"
    except (OSError, http.client.HTTPException) as error:
        time.sleep(0.02)
        return type(getattr(error, "reason", error)).__name__


def work() -> None:
    while not os.path.exists(STOP):
        what = once()
        with lock:
            seen[what] += 1


threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(seen))
