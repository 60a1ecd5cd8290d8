"""Drawing a session's branches and the sessions forked from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from everlog.cli.output import shorten, visible
from everlog.session import Session
from everlog.store import Store

NODES_MAX = 1_000


@dataclass(slots=True, kw_only=True)
class Node:
    """A branch in the drawing: whose it is, where it starts, how far it goes, what stands on it."""

    session: str
    branch: str
    key: int
    base: int
    size: int
    current: bool
    title: str | None
    children: list[Node] = field(default_factory=list)


def family_of(store: Store, session: Session) -> list[Node]:
    """Give the roots of a session's tree: its branches, those below them, and the forks above them."""
    storage = store.storage
    nodes: dict[int, Node] = {}
    parents: dict[int, int] = {}
    pending = [storage.session_by_id(session.uuid)]
    seen = {pending[0].key}
    for row in pending:  # grows while it is walked
        for branch in storage.branches(row.key):
            nodes[branch.key] = Node(
                session=row.name,
                branch=f"b{branch.number}",
                key=branch.key,
                base=branch.base_size,
                size=branch.size,
                current=branch.key == row.current,
                title=row.title,
            )
            if branch.base is not None:
                parents[branch.key] = branch.base
        for fork in storage.forks(row.key):
            if fork.key not in seen and len(nodes) < NODES_MAX:
                seen.add(fork.key)
                pending.append(fork)
    roots: list[Node] = []
    for key, node in nodes.items():
        parent = nodes.get(parents.get(key, -1))
        (roots if parent is None else parent.children).append(node)
    return roots


def draw(roots: Sequence[Node]) -> Iterator[str]:
    """Give the drawing, a line a branch."""
    for root in roots:
        yield from _draw(root, "", "", None)


def _draw(node: Node, lead: str, below: str, owner: str | None) -> Iterator[str]:
    name = node.branch if node.session == owner else f"{visible(node.session)}~{node.branch}"
    mark = click.style(" ← current", fg="green") if node.current else ""
    title = f"  {shorten(visible(node.title), 50)}" if node.title and node.session != owner else ""
    yield f"{lead}{click.style(name, bold=node.current)}  [{node.base}, {node.size}){mark}{title}"
    children = sorted(node.children, key=lambda child: (child.base, child.key))
    for place, child in enumerate(children):
        final = place == len(children) - 1
        yield from _draw(
            child, f"{below}{'└─' if final else '├─'} ", f"{below}{'   ' if final else '│  '}", node.session
        )


def as_dicts(roots: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Give the branches as JSON objects, parents first."""
    pending = [(root, None) for root in reversed(roots)]
    while pending:
        node, parent = pending.pop()
        address = f"{node.session}~{node.branch}"
        yield {
            "session": node.session,
            "branch": node.branch,
            "base": node.base,
            "size": node.size,
            "current": node.current,
            "parent": parent,
        }
        pending.extend((child, address) for child in reversed(node.children))  # pyright: ignore[reportArgumentType]
