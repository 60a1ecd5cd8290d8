"""Commands that look at states: state, diff, why, bisect, checkpoint, checkpoints, merge, prefs, snapshots."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import msgspec

from everlog.cli.main import (
    actor_option,
    address_argument,
    everlog,
    json_option,
    limit_option,
    locate,
    locate_session,
    opened,
    pairs,
)
from everlog.cli.output import WHOLE, compact, event_line, note, say, say_json, shorten, visible, visible_json, working
from everlog.cli.writing import read_json
from everlog.compare import Difference, compare
from everlog.core.event import Event
from everlog.core.pointer import MISSING, get_member, parse_pointer
from everlog.core.position import format_address, format_micros
from everlog.core.query import compile_query
from everlog.core.query_text import parse
from everlog.errors import MergeConflictError, NotFoundError
from everlog.explain import Reason
from everlog.preferences import preferences_session
from everlog.reader import resolve_cut
from everlog.reducers.registry import find_reducer, load_reducers
from everlog.session import Branch, Session
from everlog.state import Messages, State
from everlog.store import Store

LINES_MAX = 200  # of a state that is printed for people
VALUE_CHARACTERS = 200
_STATE_KEY = re.compile(r'"(?:\\.|[^"\\])*"|(?<!\S)(-?)state(?=[./])')  # a quoted text, or the key outside of one
SHAPES = {
    "anthropic": Messages.as_anthropic,
    "openai-chat": Messages.as_openai_chat,
    "openai-responses": Messages.as_openai_responses,
}
F = TypeVar("F", bound=Callable[..., Any])


def reducer_options(function: F) -> F:
    """Add --reducer and --reducers."""
    function = click.option(
        "--reducers",
        "modules",
        multiple=True,
        metavar="FILE.py|MODULE",
        help="Load your reducers first; runs its code.",
    )(function)
    return click.option(
        "-r", "--reducer", default="document", show_default=True, help="document, messages, usage, or one of yours."
    )(function)


def _chosen(reducer: str, modules: Sequence[str]) -> str:
    for module in modules:
        load_reducers(module)
    return find_reducer(reducer).name


@everlog.command(
    epilog="Examples:  everlog state run-42   |   everlog state run-42@17 -r messages   |   "
    "everlog state run-42@tests-green --pointer /plan --json   |   everlog state run-42 -r messages --as anthropic"
)
@address_argument()
@reducer_options
@click.option("--pointer", default="", metavar="/A/B", help="Only this member of it (a JSON Pointer).")
@click.option("--as", "shape", type=click.Choice(list(SHAPES)), help="With -r messages: as this API takes it.")
@click.option("--hash", "only_hash", is_flag=True, help="Only the state's hash.")
@click.option("--verify", is_flag=True, help="Fold from the first event; compare with snapshots and recorded hashes.")
@click.option("--full", is_flag=True, help="Print it whole.")
@json_option
@click.pass_context
def state(
    ctx: click.Context,
    address: str,
    reducer: str,
    modules: tuple[str, ...],
    pointer: str,
    shape: str | None,
    only_hash: bool,
    verify: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Show the state at a place: the document, the conversation, what was used, or what a reducer of yours makes."""
    chosen = _chosen(reducer, modules)
    if shape is not None and chosen != "messages":
        raise click.UsageError("--as goes with -r messages")
    with opened(ctx) as store, working("folding events"):
        _, line, place = locate(store, address)
        found = line.state(chosen, at="end" if place is None else place, verify=verify)
    if only_hash:
        digest = found.hash
        say_json({"reducer": found.reducer, "version": found.version, "hash": digest}) if as_json else say(digest)
        return
    shaped = SHAPES[shape](found) if shape is not None and isinstance(found, Messages) else found.value
    value = get_member(shaped, parse_pointer(pointer))
    if value is MISSING:
        raise click.UsageError(f"nothing stands at {pointer!r} of this state; see what does: leave out --pointer")
    if as_json:
        members = {"session": found.session, "size": found.size, "reducer": found.reducer, "version": found.version}
        missing = {"incomplete": found.incomplete, "skipped": found.skipped}
        say_json(members | {"value": value} | {name: places for name, places in missing.items() if places})
        return
    if isinstance(found, Messages) and shape is None and not pointer:
        _say_messages(found, full=full)
    else:
        _say_value(value, full=full or shape is not None)  # a request that was cut is none
    _note_state(found, verified=verify)


def _note_state(found: State, *, verified: bool) -> None:
    place = visible(format_address(found.session, None, found.size))
    note(f"{found.reducer} version {found.version} at {place}{', verified from the first event' if verified else ''}")
    if found.incomplete_count:
        note(f"incomplete: {found.incomplete_count} events that went into it are erased or withheld, the first at "
             f"{found.incomplete[0]}")  # fmt: skip
    if found.skipped_count:
        note(f"{found.skipped_count} changes could not be applied and changed nothing, the first at {found.skipped[0]}")


def _say_value(value: Any, *, full: bool) -> None:
    """Print a value as JSON that a terminal may be given; whole, it can be read as JSON."""
    lines = visible_json(value).split("\n")
    for text in lines if full else lines[:LINES_MAX]:
        say(text if full else shorten(text, 2_000))
    if not full and len(lines) > LINES_MAX:
        note(f"{len(lines) - LINES_MAX} more lines: --full, or --pointer")


def _say_messages(found: Messages, *, full: bool) -> None:
    messages = found.value if full else found.value[-LINES_MAX:]
    if len(messages) < len(found.value):
        note(f"{len(found.value) - len(messages)} earlier messages: --full")
    for message in messages:
        for block in message["content"]:
            text = _block_text(block)
            position = click.style(f"{message['start']:>6}", dim=True)
            say(f"{position}  {message['role']:<10} {visible(text) if full else shorten(visible(text[:1_000]), 200)}")


def _block_text(block: dict[str, Any]) -> str:
    match block.get("type"):
        case "tool_use":
            result = block.get("result")
            said = "(no result yet)" if result is None else " ".join(map(_block_text, result["content"]))
            failed = " (failed)" if result is not None and result["is_error"] else ""
            return f"{block['name']} {shorten(compact(block['input']), 90)} ->{failed} {said}"
        case "thinking":
            return f"(thinks) {block.get('text', '')}"
        case "text":
            return str(block.get("text"))
        case _:
            return compact(block)


@everlog.command(
    epilog="Examples:  everlog diff run-42@17 run-42@42   |   everlog diff run-42 other-way   |   everlog diff run-42~b1 run-42"
)
@address_argument("a")
@address_argument("b")
@reducer_options
@limit_option(20)
@json_option
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, reducer: str, modules: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Compare two places: of one session, of two branches or forks, or of two unrelated runs.

    Shows where they part, the events that each has alone, and what turns the one's state into the other's.
    """
    chosen = find_reducer(_chosen(reducer, modules))
    with opened(ctx) as store, working("comparing"):
        (_, one, one_place), (_, other, other_place) = locate(store, a), locate(store, b)
        first, second = one.view(), other.view()
        found = compare(
            store.storage,
            first,
            second,
            resolve_cut(store.storage, first, "end" if one_place is None else one_place),
            resolve_cut(store.storage, second, "end" if other_place is None else other_place),
            chosen,
            limit=min(limit, 1_000),
            taking=store.settings.snapshots if store.settings.snapshots.automatic else None,
        )
    if as_json:
        say_json(found.to_dict())
    else:
        _say_difference(found, visible(a), visible(b))


def _say_difference(found: Difference, a: str, b: str) -> None:
    if found.same:
        say(f"{a} and {b} hold the same {found.a.size} events and the same {found.reducer}")
        return
    if found.related:
        say(f"{a} and {b} share {found.ancestor} events")
    else:
        say(f"{a} and {b} share no events; {found.aligned} are alike in type, name and input")
    for name, events, count, sign in (
        (a, found.only_a, found.only_a_count, "-"),
        (b, found.only_b, found.only_b_count, "+"),
    ):
        say(f"only in {name}: {count}")
        for event in events:
            say(f"{sign} {event_line(event)}")
        if len(events) < count:
            note(f"{count - len(events)} more: -n {min(1_000, count)}")
    count = len(found.patch)
    say(f"{found.reducer}: {'the same' if not count else '1 difference' if count == 1 else f'{count} differences'}")
    lines = found.state_lines()
    for text in lines[:LINES_MAX]:
        say(f"  {shorten(visible(text), 2 * VALUE_CHARACTERS)}")
    if len(lines) > LINES_MAX:
        note(f"{len(lines) - LINES_MAX} more: --json")


@everlog.command(
    epilog="Examples:  everlog why run-42 /plan/next   |   everlog why run-42@17 /tools/bash/calls -r usage"
)
@address_argument()
@click.argument("pointer")
@reducer_options
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=10, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def why(
    ctx: click.Context,
    address: str,
    pointer: str,
    reducer: str,
    modules: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Show which events gave a member of the state its value, the newest first, and why.

    POINTER is a JSON Pointer, as /plan/next or /items/0.
    """
    chosen = _chosen(reducer, modules)
    with opened(ctx) as store, working("looking back"):
        _, line, place = locate(store, address)
        reasons = line.why(pointer, at="end" if place is None else place, reducer=chosen, limit=limit)
    for reason in reasons:
        if as_json:
            say_json(reason.to_dict())
        else:
            _say_reason(reason, pointer)
    if not reasons and not as_json:
        note(f"no event has changed {visible(pointer) or WHOLE}")
    if len(reasons) == limit and not as_json:
        note(f"the newest {limit}; more: -n {limit * 4}")


def _say_reason(reason: Reason, pointer: str) -> None:
    say(event_line(reason.event))
    say(f"        {visible(pointer) or WHOLE}: {_shown(reason.before)} -> {_shown(reason.after)}")
    if reason.rationale:
        say(f"        because: {shorten(visible(reason.rationale), 2 * VALUE_CHARACTERS)}")
    if reason.event.caused_by:
        say(f"        from:    {reason.event.caused_by}")


def _shown(value: Any) -> str:
    return "(nothing)" if value is MISSING else shorten(visible(compact(value)), VALUE_CHARACTERS)


@dataclass(frozen=True, slots=True)
class _StateAsEvent:
    """A state in the place of an event's data, for the query language."""

    data: Any
    metadata: None = None
    rationale: None = None
    erased: bool = False
    withheld: bool = False


@everlog.command(
    epilog="Examples:  everlog bisect run-42 state.tests.failed:1..   |   everlog bisect run-42 -r messages '\"rm -rf\"' "
    "state.0.role:user   |   everlog bisect run-42 type:error"
)
@address_argument()
@click.argument("expression", nargs=-1, required=True)
@reducer_options
@click.option("--after", "start", type=int, default=0, help="Look from this cut on.")
@json_option
@click.pass_context
def bisect(
    ctx: click.Context,
    address: str,
    expression: tuple[str, ...],
    reducer: str,
    modules: tuple[str, ...],
    start: int,
    as_json: bool,
) -> None:
    """Find the first event after which something holds, by O(log n) states.

    EXPRESSION speaks of the state with state.PATH:VALUE, as the query language does of data (with it, words are looked for
    in the state). Without any state.PATH it is a query, and the first event that meets it is shown.
    """
    chosen = _chosen(reducer, modules)
    text = " ".join(expression)
    with opened(ctx) as store, working("looking for it"):
        _, line, place = locate(store, address)
        stop: Any = "end" if place is None else place
        found = _bisect(store, line, text, chosen, start, stop)
        if found is None:
            note("it does not hold at the end of it" if _speaks_of_state(text) else "no event meets it")
        elif as_json:
            say_json(found.to_dict())
        else:
            say(event_line(found, address=format_address(found.session, None, found.position)))
            if found.rationale:
                say(f"        because: {shorten(visible(found.rationale), 2 * VALUE_CHARACTERS)}")


def _speaks_of_state(text: str) -> bool:
    return any(match[1] is not None for match in _STATE_KEY.finditer(text))


def _bisect(store: Store, line: Session | Branch, text: str, reducer: str, start: int, stop: Any) -> Event | None:
    if not _speaks_of_state(text):
        return next(line.events(text, start=start, stop=stop, limit=1), None)
    asked = _STATE_KEY.sub(lambda match: match[0] if match[1] is None else f"{match[1]}data", text)
    query = parse(asked, now=store.storage.now())
    strange = next((term.key for term in query.terms if term.key not in ("data", "text")), None)
    if strange is not None:
        raise click.UsageError(f"{strange}: speaks of events, and state.PATH of states: give one kind of them")
    meets: Any = compile_query(query)

    def holds(found: State) -> bool:
        return meets(_StateAsEvent(found.value))

    if holds(line.state(reducer, at=start)):
        note(f"it holds at {start} already, before any event that was looked at")
        return None
    return line.bisect(holds, start=start, stop=stop, reducer=reducer)


# --- checkpoints ---------------------------------------------------------------------------------
@everlog.command(
    epilog="Examples:  everlog checkpoint run-42 tests-green   |   everlog checkpoint run-42 v1 --state messages"
)
@address_argument()
@click.argument("name")
@click.option("--data", metavar="JSON", help="Anything to keep beside it.")
@click.option("--state", "states", multiple=True, help="Record this reducer's state hash. May be given again.")
@actor_option
@json_option
@click.pass_context
def checkpoint(
    ctx: click.Context,
    address: str,
    name: str,
    data: str | None,
    states: tuple[str, ...],
    actor: str | None,
    as_json: bool,
) -> None:
    """Name the end of a session: a place to rewind to, fork from and compare. A name used again moves on."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        value = None if data is None else read_json(data, what="--data")
        event = session.checkpoint(name, data=value, states=states or None, actor=actor)
    if as_json:
        say_json(event.to_dict())
    else:
        say(event_line(event, address=format_address(event.session, None, event.position)))


@everlog.command(epilog="Example:  everlog checkpoints run-42")
@address_argument()
@limit_option(50)
@json_option
@click.pass_context
def checkpoints(ctx: click.Context, address: str, limit: int, as_json: bool) -> None:
    """List a session's checkpoints, oldest first, also those whose name has moved on."""
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        stop = line.cut("end" if place is None else place)
        found = list(line.events(types="checkpoint", stop=stop, reverse=True, limit=limit + 1))
    newest: dict[str, int] = {}
    for event in found:
        if isinstance(event.data, dict):
            newest.setdefault(event.data["name"], event.position)
    for event in found[:limit][::-1]:
        if as_json:
            say_json(event.to_dict())
        else:
            current = isinstance(event.data, dict) and newest.get(event.data["name"]) == event.position
            say(f"{event_line(event)}{'' if current else click.style('  (moved on)', dim=True)}")
    if len(found) > limit and not as_json:
        note(f"earlier ones: -n {limit * 4}")


# --- merging -------------------------------------------------------------------------------------
@everlog.command(
    epilog="Examples:  everlog merge run-42 other-way   |   everlog merge run-42 other-way --event -1 --reason 'it worked'   |   "
    "everlog merge run-42 other-way --resolve /plan='\"b\"' --prefer theirs"
)
@address_argument()
@address_argument("other")
@click.option("--event", "places", multiple=True, metavar="PLACE", help="Copy this event of OTHER. May be given again.")
@click.option("--events", "query", help="Copy the events of OTHER that meet this query.")
@click.option("--no-document", is_flag=True, help="Leave the document as it is.")
@click.option("--prefer", type=click.Choice(["ours", "theirs"]), help="Whose value counts where both changed it.")
@click.option("--resolve", multiple=True, metavar="/A/B=JSON", help="The value for one conflict. May be given again.")
@click.option("--reason")
@actor_option
@json_option
@click.pass_context
def merge(
    ctx: click.Context,
    address: str,
    other: str,
    places: tuple[str, ...],
    query: str | None,
    no_document: bool,
    prefer: Any,
    resolve: tuple[str, ...],
    reason: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    """Bring OTHER's document, and chosen events of it, into a session. What both changed differently is never guessed."""
    if places and query is not None:
        raise click.UsageError("give --event or --events, not both")
    values = {
        pointer: read_json(text, what=f"--resolve {pointer}")
        for pointer, text in pairs(resolve, option="--resolve").items()
    }
    with opened(ctx) as store:
        session = locate_session(store, address)
        _, line, at = locate(store, other)
        before = session.size()
        try:
            event = session.merge(
                line,
                at="end" if at is None else at,
                events=query if query is not None else places,
                document=not no_document,
                prefer=prefer,
                resolve=values,
                reason=reason,
                actor=actor,
            )
        except MergeConflictError as error:
            for conflict in error.conflicts[:LINES_MAX]:
                note(
                    f"{visible(conflict.pointer)}: {_shown(conflict.base)} became {_shown(conflict.ours)} here and "
                    f"{_shown(conflict.theirs)} there"
                )
            raise
        if as_json:
            say_json(event.to_dict())
        else:
            for recorded in session.events(start=event.position, stop=event.position + (session.size() - before)):
                say(event_line(recorded, address=format_address(session.id, None, recorded.position)))


# --- preferences ---------------------------------------------------------------------------------
@everlog.command(
    epilog="Examples:  everlog prefs user:u7   |   everlog prefs user:u7 --set /tone=brief --rationale 'said so' "
    "--source run-42@3   |   everlog prefs user:u7 --why /tone"
)
@click.argument("subject")
@click.option("--set", "sets", multiple=True, metavar="/A/B=VALUE", help="Set one; VALUE is JSON, else text.")
@click.option("--remove", "removes", multiple=True, metavar="/A/B", help="Take one away.")
@click.option("--source", metavar="ADDRESS@PLACE", help="The event that it came from.")
@click.option("--rationale", help="Why.")
@click.option("--why", "pointer", metavar="/A/B", help="Show where one came from.")
@click.option("--history", is_flag=True, help="Show the changes, the newest first.")
@actor_option
@json_option
@click.pass_context
def prefs(
    ctx: click.Context,
    subject: str,
    sets: tuple[str, ...],
    removes: tuple[str, ...],
    source: str | None,
    rationale: str | None,
    pointer: str | None,
    history: bool,
    actor: str | None,
    as_json: bool,
) -> None:
    """Show or change what is known of a subject across sessions. It is a session of its own: preferences/SUBJECT."""
    changes = [(path, _value(text)) for path, text in pairs(sets, option="--set").items()]
    for path in [path for path, _ in changes] + list(removes) + ([] if pointer is None else [pointer]):
        parse_pointer(path)
    with opened(ctx, make=bool(sets)) as store:
        if not sets:
            try:
                store.session(preferences_session(subject))  # looking must not make it
            except NotFoundError:
                raise NotFoundError(
                    f"nothing is known of {subject!r} yet; set a first preference with --set /NAME=VALUE"
                ) from None
        cause = None
        if source is not None:
            _, line, place = locate(store, source)
            if place is None:
                raise click.UsageError("--source names an event: SESSION@PLACE")
            cause = line.event(place)
        known = store.preferences(subject)
        if changes or removes:
            known.change(changes, remove=removes, source=cause, rationale=rationale, actor=actor)
        if pointer is not None:
            reasons = known.why(pointer)
            for reason in reasons:
                say_json(reason.to_dict()) if as_json else _say_reason(reason, pointer)
            if not reasons:
                note(f"no event has changed {visible(pointer) or WHOLE}")
        elif history:
            for event in known.changes():
                say_json(event.to_dict()) if as_json else say(event_line(event))
        elif as_json:
            found = known.state()
            say_json({"subject": subject, "session": known.session.id, "size": found.size, "value": found.value})
        else:
            _say_value(known.state().value, full=False)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


# --- snapshots -----------------------------------------------------------------------------------
@everlog.command(
    epilog="Examples:  everlog snapshots   |   everlog snapshots run-42 --rebuild   |   everlog snapshots --drop -r messages"
)
@address_argument(required=False)
@click.option("-r", "--reducer", help="Only of this reducer; with --rebuild, the one to fold (document by default).")
@click.option("--reducers", "modules", multiple=True, metavar="FILE.py|MODULE", help="Load your reducers first.")
@click.option("--drop", is_flag=True, help="Drop them: no answer changes.")
@click.option("--rebuild", is_flag=True, help="Take a session's anew.")
@limit_option(50)
@json_option
@click.pass_context
def snapshots(
    ctx: click.Context,
    address: str | None,
    reducer: str | None,
    modules: tuple[str, ...],
    drop: bool,
    rebuild: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List, drop or rebuild the states that are kept so that others are quick to get at."""
    for module in modules:
        load_reducers(module)
    if rebuild and (drop or address is None):
        raise click.UsageError("--rebuild takes one session, and not --drop")
    with opened(ctx) as store, working("folding events" if rebuild else "reading"):
        session = None if address is None else locate_session(store, address)
        if drop or (rebuild and session is not None):
            if drop:
                count = store.drop_snapshots(session, reducer=reducer)
            else:
                assert session is not None, "checked above"
                count = store.rebuild_snapshots(session, reducers=(reducer or "document",))
            done = "dropped" if drop else "taken"
            say_json({done: count}) if as_json else say(f"{count} snapshots {done}")
            return
        found = [info for info in store.snapshots(session) if reducer in (None, info.reducer)]
    for info in found[:limit]:
        if as_json:
            say_json(msgspec.to_builtins(info) | {"taken_at": format_micros(info.taken_at)})
        else:
            kind = "keyframe" if info.keyframe else "delta"
            stale = "" if info.current else "  (of other code)"
            say(
                f"{visible(format_address(info.session, info.branch, info.size)):<40} {visible(info.reducer):<12} {kind:<8} "
                f"{info.stored_bytes:>9} of {info.state_bytes} bytes{stale}"
            )
    if not as_json:
        taken = sum(info.stored_bytes for info in found)
        more = f"; {len(found) - limit} more: -n {limit * 4}" if len(found) > limit else ""
        note(f"{len(found)} snapshots, {taken} bytes{more}")
