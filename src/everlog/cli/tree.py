"""Drawing a session's branches and the sessions forked from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from everlog.cli.output import shorten, visible
from everlog.session import Session
from everlog.store import Store

NODES_MAX = 1_000  # sessions beyond which no further forks are looked for
INDENTS_MAX = 20


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
    """Give the drawing, a line a branch. Past INDENTS_MAX levels the depth is said in figures instead of drawn."""
    pending: list[tuple[Node, str, str, str | None, int]] = [(root, "", "", None, 0) for root in reversed(roots)]
    while pending:  # not recursive: a session that was rewound a thousand times is a thousand levels deep
        node, lead, below, owner, depth = pending.pop()
        yield lead + _label(node, owner)
        children = sorted(node.children, key=lambda child: (child.base, child.key))
        drawn: list[tuple[Node, str, str, str | None, int]] = []
        for place, child in enumerate(children):
            final = place == len(children) - 1
            if depth < INDENTS_MAX:
                child_lead = f"{below}{'└─' if final else '├─'} "
                child_below = f"{below}{'   ' if final else '│  '}"
            else:
                child_lead, child_below = f"{below}└─ ({depth + 1} deep) ", below
            drawn.append((child, child_lead, child_below, node.session, depth + 1))
        pending.extend(reversed(drawn))


def _label(node: Node, owner: str | None) -> str:
    name = node.branch if node.session == owner else f"{visible(node.session)}~{node.branch}"
    mark = click.style(" ← current", fg="green") if node.current else ""
    title = f"  {shorten(visible(node.title), 50)}" if node.title and node.session != owner else ""
    return f"{click.style(name, bold=node.current)}  [{node.base}, {node.size}){mark}{title}"


def as_dicts(roots: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Give the branches as JSON objects, parents first."""
    pending: list[tuple[Node, str | None]] = [(root, None) for root in reversed(roots)]
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
        pending.extend((child, address) for child in reversed(node.children))
