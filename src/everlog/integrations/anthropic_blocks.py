"""Blocks of Anthropic's messages as events: for what imports them, and for what records them as they come."""

from __future__ import annotations

from typing import Any, Final

from everlog.core.event import NewEvent

_USES: Final = {"tool_use": None, "server_tool_use": "server", "mcp_tool_use": "mcp"}


def block_event(
    block: dict[str, Any], *, turn: dict[str, Any] | None = None, actor: str | None = None
) -> NewEvent | None:
    """Give a thought, a tool's use or its result as an event; None for a block of plain content.

    turn: what the data of each event of one turn says. actor: of what an agent does.
    """
    kind, more = block.get("type"), turn or {}
    match block:
        case {"type": "thinking", "thinking": str(text)}:
            signed = {"signature": block["signature"]} if isinstance(block.get("signature"), str) else {}
            return NewEvent("agent.thinking", {"text": text, **signed, **more}, actor=actor)
        case {"type": "redacted_thinking"}:
            data = {"encrypted": block.get("data"), "provider": "anthropic"}
            return NewEvent("agent.thinking", {**data, **more}, actor=actor)
        case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use" as use, "id": str(id), "name": str(name)}:
            by = {} if _USES[use] is None else {"kind": _USES[use]}
            return NewEvent(
                "agent.tool_use", {"id": id, "name": name, "input": block.get("input"), **by, **more}, actor=actor
            )
        case {"tool_use_id": str()} if isinstance(kind, str) and kind.endswith("tool_result"):
            return _result_event(block)
        case _:
            return None


def _result_event(block: dict[str, Any]) -> NewEvent:
    data = {name: value for name, value in block.items() if name in ("tool_use_id", "content")}
    failed = block.get("is_error")
    if isinstance(failed, bool):
        data["is_error"] = failed
    return NewEvent("agent.tool_result", data, outcome="error" if failed is True else "ok" if failed is False else None)
