"""A tool server on the official MCP SDK, unmodified: it knows nothing of Writ.

    mcp_server.py PORT
"""
import json
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

server = MCPServer("e2e-tools")


@server.tool()
def weather(city: str) -> str:
    """Say what the weather is like in a city."""
    print(json.dumps({"tool": "weather", "city": city}), flush=True)
    return f"sunny in {city}"


@server.tool()
def delete_account(account: str) -> str:
    """Delete a customer's account."""
    print(json.dumps({"tool": "delete_account", "account": account}), flush=True)
    return f"deleted {account}"


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]),
           transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))
