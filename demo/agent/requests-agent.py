"""An agent on Python requests, unmodified: one POST, and what came back.

    requests-agent.py URL JSON-BODY
"""
import sys

import requests

url, body = sys.argv[1:]
answer = requests.post(url, data=body, headers={"content-type": "application/json"}, timeout=20)
print(answer.status_code)
print(answer.text)
sys.exit(0 if answer.ok else 1)
