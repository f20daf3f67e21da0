"""The research agent's tools, on the official MCP SDK. It knows nothing of Writ, and listens on
loopback: from outside only its sidecar is reached."""
import json

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

NOTES = {"Envelopes": "An envelope says who acts, what, under which policy."}
server = MCPServer("research-tools")


def log(tool: str, **arguments: str) -> None:
    print(json.dumps({"tool": tool, **arguments}), flush=True)


@server.tool()
def search(query: str) -> str:
    """Search the notes."""
    log("search", query=query)
    words = query.lower().split()
    found = [title for title, text in NOTES.items() if any(word in (title + text).lower() for word in words)]
    return ", ".join(found) or "nothing"


@server.tool()
def publish(title: str, text: str) -> str:
    """Publish a note."""
    log("publish", title=title)
    NOTES[title] = text
    return f"published {title}"


@server.tool()
def delete(title: str) -> str:
    """Delete a note."""
    log("delete", title=title)
    NOTES.pop(title, None)
    return f"deleted {title}"


# The sidecar has checked whom the request names.
server.run("streamable-http", host="127.0.0.1", port=8080,
           transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False))
