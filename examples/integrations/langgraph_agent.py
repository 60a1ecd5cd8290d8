"""An agent on LangGraph whose threads live in Everlog: it stops for a person, and goes on in another process.

python examples/integrations/langgraph_agent.py STORE
"""

from __future__ import annotations

import sys
from typing import Any, cast

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]  # it has none
from langgraph.types import Command, interrupt

import everlog
from everlog.integrations.langgraph import EverlogSaver
from everlog.integrations.langgraph_store import EverlogStore


def model(state: MessagesState) -> dict[str, Any]:
    """Call a tool once, then answer: a model that follows a script."""
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [AIMessage(f"Done: {last.content}.")]}
    call = {"name": "deploy", "args": {"to": "production"}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("I need to deploy.", tool_calls=[call])]}


def tools(state: MessagesState) -> dict[str, Any]:
    """Run the tool, once a person agreed."""
    call = cast("AIMessage", state["messages"][-1]).tool_calls[0]
    said = interrupt(f"{call['name']} to {call['args']['to']}?")
    return {"messages": [ToolMessage(f"deployed, as {said} said", tool_call_id=cast("str", call["id"]))]}


def after_model(state: MessagesState) -> str:
    """Go on to the tools where the model called one."""
    return "tools" if cast("AIMessage", state["messages"][-1]).tool_calls else END


def main(store_path: str) -> None:
    """Ask, stop, and go on; each part could be a process of its own."""
    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_node("tools", tools)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", after_model, ["tools", END])
    builder.add_edge("tools", "model")
    config = {"configurable": {"thread_id": "release"}}

    with EverlogSaver(store_path) as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"messages": [("user", "Ship it")]}, config)
        print("waits:", graph.get_state(config).interrupts[0].value)

    with everlog.open(store_path) as store:
        memory = EverlogStore(store)
        graph = builder.compile(checkpointer=EverlogSaver(store), store=memory)
        done = graph.invoke(Command(resume="Ada"), config)
        print("answer:", done["messages"][-1].content)
        memory.put(("releases",), "last", {"by": "Ada", "text": done["messages"][-1].content})
        print("remembered:", [item.value["by"] for item in memory.search(("releases",), query="deployed")])

        session = store.session("release")
        for event in session.events(types=["user.message", "agent.*"]):
            print(f"  {event.position:3} {event.type}")
        print("found:", store.search("deploy").hits[0].event.session)
        assert session.verify().ok


if __name__ == "__main__":
    main(sys.argv[1])
