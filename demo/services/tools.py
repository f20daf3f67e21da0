"""A tool server on the official MCP SDK, unmodified: it knows nothing of Writ.

    tools.py PORT LOGFILE
"""
import json
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

PORT, LOG = int(sys.argv[1]), sys.argv[2]
server = MCPServer("demo-tools")


def log(tool, **arguments):
    with open(LOG, "a", encoding="utf-8") as out:
        out.write(json.dumps({"tool": tool, "arguments": arguments}) + "\n")


@server.tool()
def weather(city: str) -> str:
    """Say what the weather is like in a city."""
    log("weather", city=city)
    return f"sunny in {city}"


@server.tool()
def delete_account(account: str) -> str:
    """Delete a customer's account."""
    log("delete_account", account=account)
    return f"deleted {account}"


server.run("streamable-http", host="127.0.0.1", port=PORT,
           transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))
