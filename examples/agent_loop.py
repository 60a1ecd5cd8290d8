"""A loop that any process can go on with: the next thing to do follows from the session alone.

python examples/agent_loop.py STORE [QUESTION]

Run it again with the same store and it goes on where it was; kill it at any moment, and nothing is lost or done twice in the
record. The "model" here is three lines; put yours in its place.
"""

from __future__ import annotations

import sys

import everlog


def model(session: everlog.Session) -> dict[str, str] | str:
    """Answer a tool's input, or a text when there is enough to say."""
    done = session.count(types="agent.tool_result")
    return {"number": str(done)} if done < 3 else f"I looked {done} times."


def look_up(number: str) -> str:
    """Do the tool's work."""
    return f"row {number}"


def main(path: str, question: str = "What is in the table?") -> None:
    """Ask, look, answer; every decision is in the session before it is acted on."""
    with everlog.open(path) as store:
        session = store.get_or_create("agent-loop")
        session.append("user.message", {"content": question}, key=f"ask:{question}")
        while session.find(f"answer:{question}") is None:
            answer = model(session)
            if isinstance(answer, str):
                session.append("agent.message", {"content": answer}, key=f"answer:{question}")
                break
            call = f"call-{answer['number']}"
            use = session.append("agent.tool_use", {"id": call, "name": "look_up", "input": answer}, key=f"use:{call}")
            result = {"tool_use_id": call, "content": look_up(answer["number"])}
            session.append("agent.tool_result", result, caused_by=use, key=f"result:{call}")
        for event in session:
            print(event.position, event.type, event.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
