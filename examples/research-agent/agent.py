"""A research agent on LangGraph: a model decides, tools of an MCP server act, and what a tool refuses
goes back to the model. It knows nothing of Writ.

    TOOLS    URL of the MCP server (streamable HTTP)
    MODEL    URL of an OpenAI-shaped chat endpoint; without one a script takes the model's place
    EVERY    seconds between two runs; without it the agent runs once
"""
import asyncio
import json
import operator
import os
from typing import Annotated, TypedDict

import httpx
from langgraph.graph import END, START, StateGraph
from mcp.client import Client

TOOLS = os.environ.get("TOOLS", "http://tools.research-tools.svc.cluster.local/mcp")
MODEL = os.environ.get("MODEL")
TASK = "Find out what is known about signed envelopes, publish a note on it, then tidy up."

# What a model would choose, in order.
SCRIPT = [("search", {"query": "signed envelopes"}),
          ("publish", {"title": "Signed envelopes", "text": "They travel with the request."}),
          ("delete", {"title": "Signed envelopes"})]


class State(TypedDict):
    """What the graph's nodes hand on."""

    done: Annotated[list[dict], operator.add]
    call: tuple[str, dict] | None


async def decide(state: State) -> dict:
    """The model's turn: the next call of a tool, or none."""
    if MODEL is None:
        return {"call": SCRIPT[len(state["done"])] if len(state["done"]) < len(SCRIPT) else None}
    prompt = (f"{TASK} Answer with JSON only: {{\"tool\": \"search|publish|delete|none\", \"arguments\": {{}}}}. "
              f"Done so far: {json.dumps(state['done'])}")
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(MODEL, json={"messages": [{"role": "user", "content": prompt}]})
    answer.raise_for_status()
    choice = json.loads(answer.json()["choices"][0]["message"]["content"])
    return {"call": None if choice["tool"] == "none" else (choice["tool"], choice["arguments"])}


async def act(state: State) -> dict:
    """The tool's turn. A refusal is an answer too: the model gets to read it."""
    tool, arguments = state["call"]
    try:
        async with Client(TOOLS) as session:
            result = await session.call_tool(tool, arguments)
        said = " ".join(part.text for part in result.content if hasattr(part, "text"))
    except Exception as refused:  # whatever the SDK makes of an error answer
        said = f"refused: {refused}"
    print(json.dumps({"tool": tool, "arguments": arguments, "said": said}), flush=True)
    return {"done": [{"tool": tool, "said": said}]}


graph = StateGraph(State)
graph.add_node("decide", decide)
graph.add_node("act", act)
graph.add_edge(START, "decide")
graph.add_conditional_edges("decide", lambda state: "act" if state["call"] else END)
graph.add_edge("act", "decide")
agent = graph.compile()


async def main() -> None:
    while True:
        await agent.ainvoke({"done": [], "call": None})
        if "EVERY" not in os.environ:
            return
        await asyncio.sleep(float(os.environ["EVERY"]))


asyncio.run(main())
