"""An audit as tables of texts: what the command line prints and the page shows are the same. Nothing here is escaped yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from everlog.auditing import Audit
from everlog.cli.output import counted
from everlog.tally import NONE, Acting, Fact, Facts, Window

_TYPES_SHOWN = 50  # with most events


class Table(msgspec.Struct, frozen=True):
    """A part of an audit. note: in words. rows: each as many texts as there are columns. hidden: how many rows are only counted."""

    title: str
    note: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    hidden: int = 0


def tables(audit: Audit) -> Iterator[Table]:
    """Give the parts of an audit, in the order of an auditor's questions."""
    yield _session(audit)
    yield _verification(audit)
    yield _sealed(audit)
    yield _actors(audit.actors)
    yield _outcomes(audit)
    grounds = f"{counted(audit.with_rationale, 'event')} with a rationale; {counted(audit.bare_decisions, 'decision')} without one"
    yield _facts("Decisions and what was given as their reason", grounds, audit.decisions)
    yield _facts("What did not go well", "errors, and outcomes other than ok", audit.troubles)
    yield _windows(audit)
    yield _facts("Forks, rewinds, switches, merges, updates", "of the session itself, on all its lines", audit.moves)
    yield _forks(audit)
    yield _leases(audit)
    yield _erasures(audit)
    yield _deletions(audit)
    yield _holds(audit)
    rules = _counts(audit.rules) or "nothing was taken for a secret before it was recorded"
    yield _facts("Redactions", rules, audit.redactions)
    yield Table("Summaries", _counts(audit.summaries) or "none")
    yield Table("What this cannot tell", "", ("",), tuple((text,) for text in audit.untold))


def _session(audit: Audit) -> Table:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(audit.labels.items()))
    named = {
        "session": audit.session,
        "internal id": audit.uuid,
        "title": audit.title or "",
        "labels": labels,
        "store": audit.store,
        "made": audit.created,
        "head": str(audit.head),
        "events": f"{audit.events:,} on all lines; {audit.erased} erased, {audit.withheld} withheld, {audit.unreadable} unreadable",
        "read": audit.made,
    }
    return Table("Session", "", ("", ""), tuple(named.items()))


def _verification(audit: Audit) -> Table:
    report = audit.verification
    if report is None:
        return Table("Verification", "not asked for: whether the record is as it was written is not said here")
    verdict = "good" if report.ok else f"{report.fault_count} faults"
    found = [("fault", str(fault)) for fault in report.faults] + [("not checked", text) for text in report.unchecked]
    note = f"{verdict}: {counted(report.events, 'event')} on {counted(report.branches, 'branch', 'branches')} re-derived from the stored bytes"
    return Table("Verification", note, ("", ""), tuple(found))


def _sealed(audit: Audit) -> Table:
    seal = audit.seal
    if seal.origin is None:
        note = f"the store keeps no seal; {counted(seal.events, 'event')} not sealed"
    else:
        note = f"the last seal: {seal.origin}, {counted(seal.size, 'record')}, made {seal.made}; {counted(seal.events, 'event')} not sealed yet"
    rows = tuple(
        (
            f"{line.name}{' (current)' if line.current else ''}",
            str(line.base),
            str(line.size),
            str(line.sealed),
            line.root,
        )
        for line in audit.lines
    )
    columns = ("line", "shared", "size", "sealed to", "root")
    return Table("Lines and seals", note, columns, rows, audit.line_count - len(rows))


def _actors(actors: tuple[Acting, ...]) -> Table:
    rows = tuple((each.actor or "(not named)", str(each.events), each.first, each.last) for each in actors)
    return Table("Who acted", "as the programs that wrote the events said", ("actor", "events", "first", "last"), rows)


def _outcomes(audit: Audit) -> Table:
    most = sorted(audit.types.items(), key=lambda each: (-sum(each[1].values()), each[0]))
    rows = tuple((name, str(sum(outcomes.values())), _counts(outcomes)) for name, outcomes in most[:_TYPES_SHOWN])
    columns = ("type", "events", "outcomes")
    return Table("What was done, with what outcome", _counts(audit.outcomes), columns, rows, len(most) - len(rows))


def _facts(title: str, note: str, facts: Facts) -> Table:
    rows = tuple(map(_fact, facts.newest))
    columns = ("event", "when", "who", "type", "outcome", "what", "why")
    return Table(title, f"{facts.count}: {note}", columns, rows, facts.count - len(rows))


def _fact(fact: Fact) -> tuple[str, ...]:
    place = f"~{fact.branch}@{fact.position}"
    return (place, fact.at, fact.actor or "", fact.type, fact.outcome or "", fact.says, fact.why or "")


def _windows(audit: Audit) -> Table:
    windows = audit.windows
    note = (
        f"{windows.count} recorded calls, {windows.unknown} without a manifest; models: {_counts(audit.models) or NONE}"
    )
    columns = ("event", "when", "model", "tokens", "went in", "left out", "bytes")
    return Table(
        "What was in the window",
        note,
        columns,
        tuple(map(_window, windows.newest)),
        windows.count - len(windows.newest),
    )


def _window(window: Window) -> tuple[str, ...]:
    exact = {None: "not tried", True: "exact", False: "differ"}[window.exact]
    tokens = "" if window.tokens is None else f"{window.tokens} of {window.budget} ({window.counted})"
    return (
        f"~{window.branch}@{window.position}",
        window.at,
        window.model,
        tokens,
        _counts(window.items),
        _counts(window.left_out),
        exact if window.note is None else window.note,
    )


def _forks(audit: Audit) -> Table:
    rows = tuple(
        (fork.session, "", "", "", "")
        if fork.made is None
        else (fork.session, fork.made.at, fork.made.actor or "", fork.made.says, fork.made.why or "")
        for fork in audit.forks
    )
    columns = ("session", "when", "who", "from", "why")
    return Table("Sessions forked from it", str(audit.fork_count), columns, rows, audit.fork_count - len(rows))


def _leases(audit: Audit) -> Table:
    leases = audit.leases
    note = f"{leases.count} taken, {leases.lapsed} lapsed, {leases.handovers} by another holder than the one before"
    rows = tuple(
        (
            str(each.token),
            each.holder,
            each.taken or "",
            each.ended or "(no end on record)",
            "lapsed" if each.lapsed else each.reason or "",
            "" if each.gap_seconds is None else f"{each.gap_seconds:,.3f} s",
        )
        for each in leases.newest
    )
    columns = ("token", "holder", "taken", "ended", "how", "nobody before for")
    return Table("Leases", note, columns, rows, max(0, leases.count - len(rows)))


def _erasures(audit: Audit) -> Table:
    rows = tuple(
        (
            str(each.entry),
            each.at,
            each.actor or "",
            str(each.events),
            f"{each.first} to {each.last}",
            each.reason or "",
        )
        for each in audit.erasures
    )
    columns = ("record", "when", "who", "events", "positions", "why")
    note = f"{counted(audit.erasure_count, 'record')} of the ledger"
    return Table("Erasures", note, columns, rows, audit.erasure_count - len(rows))


def _deletions(audit: Audit) -> Table:
    rows = tuple(
        (str(each.entry), each.at, each.actor or "", each.session, each.reason or "") for each in audit.deletions
    )
    columns = ("record", "when", "who", "session", "why")
    return Table("Deleted forks", str(audit.deletion_count), columns, rows, audit.deletion_count - len(rows))


def _holds(audit: Audit) -> Table:
    rows = tuple(
        (
            each.policy,
            "held" if each.held else "released",
            each.at,
            each.actor or "",
            each.query or "",
            "in the ledger" if each.recorded else "not in the ledger",
            each.reason or "",
        )
        for each in audit.holds
    )
    columns = ("policy", "", "when", "who", "query", "recorded", "why")
    return Table(
        "Holds", f"now held by: {', '.join(audit.held_by) or 'nothing'}", columns, rows, audit.hold_count - len(rows)
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))
