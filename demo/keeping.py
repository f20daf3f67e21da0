"""KEEP=1: everything stays, and the person gets commands to try."""
import os
import pathlib

from . import config, paths
from .cast import Cast


def entry() -> str:
    """How a shell outside enters the demo's namespaces."""
    mapped = pathlib.Path("/proc/self/uid_map").read_text().split()[1] != "0"
    own_user = "--user --preserve-credentials " if mapped else ""
    return f"nsenter -t {os.environ['WRIT_DEMO_PID']} {own_user}--mount --net"


def invitation(cast: Cast) -> str:
    as_agent = " ".join(cast.pods["agent"].command(config.AGENT_UID)[:-1])
    bundle = paths.STATE / "agent/trust/bundle.pem"
    writ, folder = paths.program("writ"), cast.chain.folder
    chain = f"--rpc {cast.chain.rpc} --manifest {folder}/manifest.json"
    agent = f"--agent {config.AGENT} --names {folder}/names.yaml"
    return f"""
Everything is left running until Ctrl-C. In another shell, paste this first:

  inside() {{ {entry()} "$@"; }}
  agent() {{ inside {as_agent} -- "$@"; }}

Then, as the agent:

  agent curl -i http://payments.bank.example/v1/accounts/4711/balance
  agent curl -i http://payments.bank.example/v1/transfers --json '{{"amount":"20.00","currency":"EUR","to":"a"}}'
  agent curl -i http://payments.bank.example/v1/transfers --json '{{"amount":"999.00","currency":"EUR","to":"a"}}'
  agent env CURL_CA_BUNDLE={bundle} curl -i https://api.partner.example/v1/rates
  agent curl -i http://{cast.pods["outside"].v4}:4444/

What reached the service, the log of the agent's sidecar, its record, its metrics:

  inside tail -f {cast.web_log}
  inside tail -f {paths.LOGS}/sidecar-agent.log
  inside {writ} log verify {paths.STATE}/agent/record
  inside curl http://{cast.pods["agent"].v4}:15820/metrics

Take the agent's right to act, and give it back:

  inside {writ} chain revoke {chain} --key file:{folder}/guardian.key {agent}
  inside {writ} chain resume {chain} --key file:{folder}/owner.key {agent}
"""
