"""Configuration files that the demo writes: what differs from run to run, in readable YAML.

What a person would write by hand, the catalog and the rules, lies in demo/config.
"""
import json
import pathlib
import secrets

AGENT = "spiffe://demo.writ/ns/demo/sa/agent"
TOOL = "spiffe://demo.writ/ns/demo/sa/tool"
POLICY = "demo-agent"

AGENT_UID, APP_UID = 1000, 2000
AGENT_SIDECAR, TOOL_SIDECAR, THIEF = 64001, 64002, 64003

CHAIN_ID = 84532
FRESH, MAX_STALE = 5, 15
RECORD_BYTES = 64 << 20


def issuer(socket: pathlib.Path) -> str:
    return f"""\
trustDomains:
- name: demo.writ
svidTtlSeconds: 600
sockets:
- path: {socket}
  workloads:
  - {{uid: {AGENT_SIDECAR}, spiffe_id: {AGENT}}}
  - {{uid: {TOOL_SIDECAR}, spiffe_id: {TOOL}}}
  # Somebody else who came by the agent's identity.
  - {{uid: {THIEF}, spiffe_id: {AGENT}}}
"""


class Salts:
    """Fresh in every run: names on chain cannot be guessed."""

    def __init__(self, model: str):
        self.agent, self.policy = secrets.token_hex(16), secrets.token_hex(16)
        self.model = model

    def names(self) -> str:
        return f"salt: {self.policy}\nagents:\n  {AGENT}: {self.agent}\n"


def chain(rpc: str, manifest: dict) -> str:
    at = {name: contract["address"] for name, contract in manifest["contracts"].items()}
    return f"""\
chain:
  chainId: {CHAIN_ID}
  endpoints: ['{rpc}']
  agentRegistry: '{at["AgentRegistry"]}'
  policyRegistry: '{at["PolicyRegistry"]}'
  anchor: '{at["SaeAnchor"]}'
  # Tight bounds, so that a run need not wait for minutes; the defaults are 60 s and 300 s.
  staleness: {{fresh: {FRESH}s, max: {MAX_STALE}s}}
"""


def agent(socket: pathlib.Path, folder: pathlib.Path, chain_section: str, salts: Salts,
          hosts: dict[str, list[str]], partner_ca: pathlib.Path) -> str:
    named = "".join(f"    {name}: {json.dumps(addresses)}\n" for name, addresses in hosts.items())
    return f"""\
identity: {{workloadApi: {socket}}}
agent:
  salt: {salts.agent}
  policySalt: {salts.policy}
  model: {salts.model}
{chain_section}\
catalog: {folder}/config/catalog.yaml
record: {{directory: {folder}/record, maxBytes: {RECORD_BYTES}}}
outbound:
  intercept: {{keyDirectory: {folder}/ca, bundle: {folder}/trust/bundle.pem}}
  authorities: {{partner: {partner_ca}}}
dns:
  hosts:
{named}"""


def tools(socket: pathlib.Path, folder: pathlib.Path, chain_section: str) -> str:
    return f"""\
identity: {{workloadApi: {socket}}}
{chain_section}\
record: {{directory: {folder}/record, maxBytes: {RECORD_BYTES}}}
inbound:
- {{port: 8443, app: '127.0.0.1:8080', authorities: ['payments.bank.example:8443']}}
- {{port: 8444, app: '127.0.0.1:8081', authorities: ['tools.bank.example:8444'], protocol: mcp}}
callers:
  catalogs: [{folder}/config/catalog.yaml]
"""
