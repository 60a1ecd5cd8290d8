"""Commands that write: new, append, fork, rewind, switch, update, delete."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from everlog.cli.erasing import needed, propose_option, say_proposal
from everlog.cli.main import (
    actor_option,
    address_argument,
    confirm,
    everlog,
    json_option,
    locate,
    locate_session,
    opened,
    pairs,
)
from everlog.cli.output import event_line, say, say_json, visible
from everlog.core import limits
from everlog.core.event import OUTCOMES, Event, Head, NewEvent
from everlog.core.position import TimePlace, format_address, from_micros, parse_address, parse_place
from everlog.core.values import decode_json
from everlog.errors import (
    EverlogError,
    InvalidEventError,
    InvalidPlaceError,
    KeyReusedError,
    LimitError,
    NotFoundError,
)
from everlog.session import Branch, Session
from everlog.store import Store

_CHUNK_BYTES = 1024 * 1024
_REFUSALS = (InvalidEventError, InvalidPlaceError, LimitError, NotFoundError, KeyReusedError)  # of one event
_MEMBERS = ("type", "data", "actor", "outcome", "rationale", "metadata", "caused_by", "occurred_at", "key")


@everlog.command(
    epilog='Examples:  everlog new run-42 --title "Fix the parser" --label user=u7   |   everlog new --parent run-42@3'
)
@click.argument("id", required=False)
@click.option("--title")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="May be given again.")
@click.option("--metadata", metavar="JSON", help="A JSON object.")
@click.option("--parent", metavar="ADDRESS", help="The event that this session is made for: SESSION@PLACE.")
@json_option
@click.pass_context
def new(
    ctx: click.Context,
    id: str | None,
    title: str | None,
    labels: tuple[str, ...],
    metadata: str | None,
    parent: str | None,
    as_json: bool,
) -> None:
    """Make a session. ID is your name for it; a UUID by default."""
    with opened(ctx, make=True) as store:
        session = store.create(
            id,
            title=title,
            labels=pairs(labels, option="--label"),
            metadata=None if metadata is None else read_json(metadata, what="--metadata"),
            parent=None if parent is None else _event_at(store, parent),
        )
        address = format_address(session.id)
        if as_json:
            say_json({"session": session.id, "address": address})
        else:
            say(visible(address))


@everlog.command(
    epilog="Examples:  everlog append run-42 user.message --text 'It crashes'   |   "
    """everlog append run-42 decision '{"choice": "rewrite"}' --rationale 'too slow'   |   my-agent | everlog append run-42 -"""
)
@address_argument()
@click.argument("type")
@click.argument("data", required=False)
@click.option("--text", help='Short for the data {"content": TEXT}.')
@actor_option
@click.option("--outcome", type=click.Choice(OUTCOMES))
@click.option("--rationale", help="Why, in words.")
@click.option("--metadata", metavar="JSON", help="A JSON object beside the data.")
@click.option("--key", help="Idempotency key: an append that repeats it gives back what was recorded.")
@click.option("--expected", metavar="SIZE|HEAD", help="Refuse where the session is not at this size or head.")
@click.option("--caused-by", metavar="PLACE|ID", help="The event that led to this one.")
@click.option("--occurred-at", metavar="TIME", help="When it happened, as 2026-11-23T10:00Z or -2h.")
@click.option(
    "--attach", "files", multiple=True, metavar="NAME=FILE", help="Attach a file's bytes. May be given again."
)
@click.option("--create", is_flag=True, help="Make the session where it is not there yet.")
@json_option
@click.pass_context
def append(
    ctx: click.Context, address: str, type: str, data: str | None, create: bool, as_json: bool, **given: Any
) -> None:
    """Append an event to a session: TYPE and DATA as JSON. Or, with - as TYPE, events as JSON lines from standard input.

    A line is an object: {"type": …, "data": …, "actor": …, "outcome": …, "rationale": …, "metadata": …, "caused_by": …,
    "occurred_at": …, "key": …}; only type must be there. What has arrived is appended at once, all or none; a key that
    is recorded already is not recorded again.
    """
    with opened(ctx, make=create) as store:
        session = _session_for(store, address, create=create)
        if type == "-":
            if data is not None or any(given.values()):
                raise click.UsageError("with - everything comes from standard input: give no data and no other options")
            _append_lines(session, as_json=as_json)
            return
        event = _append_one(store, session, type, data, **given)
        _say_recorded(event, as_json=as_json)


def _session_for(store: Store, address: str, *, create: bool) -> Session:
    try:
        return locate_session(store, address)
    except NotFoundError:
        if not create:
            raise
    return store.get_or_create(parse_address(address).session)


def _append_one(
    store: Store,
    session: Session,
    type: str,
    data: str | None,
    *,
    text: str | None,
    metadata: str | None,
    expected: str | None,
    caused_by: str | None,
    occurred_at: str | None,
    files: Sequence[str],
    **members: Any,
) -> Event:
    if data is not None and text is not None:
        raise click.UsageError("give DATA or --text, not both")
    value = {"content": text} if text is not None else None if data is None else read_json(data, what="DATA")
    moment = None
    if occurred_at is not None:
        place = parse_place(occurred_at, now=store.storage.now(), naive_is_utc=True)
        if not isinstance(place, TimePlace):
            raise click.UsageError(f"--occurred-at takes a time, as 2026-11-23T10:00Z or -2h, not {occurred_at!r}")
        moment = from_micros(place.micros)
    attachments = {name: _read_file(path) for name, path in pairs(files, option="--attach").items()}
    return session.append(
        type,
        value,
        metadata=None if metadata is None else read_json(metadata, what="--metadata"),
        attachments=attachments or None,
        caused_by=None if caused_by is None else session.event(caused_by),
        occurred_at=moment,
        expected=None if expected is None else int(expected) if expected.isdigit() else Head.parse(expected),
        **members,
    )


def _say_recorded(event: Event, *, as_json: bool) -> None:
    if as_json:
        say_json(event.to_dict())
    else:
        repeated = click.style("  recorded before", dim=True) if event.repeated else ""
        say(f"{event_line(event, address=format_address(event.session, None, event.position))}{repeated}")


def _append_lines(session: Session, *, as_json: bool) -> None:
    recorded = repeated = number = 0
    try:
        for lines in _arriving_lines():
            for event in _append_batch(session, number, lines):
                recorded, repeated = recorded + (not event.repeated), repeated + event.repeated
                if as_json:
                    say_json(event.to_dict())
            sys.stdout.flush()
            number += len(lines)
    finally:
        if not as_json:
            known = f", {repeated} were recorded before" if repeated else ""
            say(f"{visible(format_address(session.id))}: {recorded} events appended{known}")


def _arriving_lines() -> Iterator[list[bytes]]:
    """Give lines from standard input as they arrive, so that a pipe that goes on is recorded as it goes on."""
    held = b""
    while chunk := os.read(sys.stdin.fileno(), _CHUNK_BYTES):
        *lines, held = (held + chunk).split(b"\n")
        if len(held) > limits.BODY_BYTES_CEILING:
            raise LimitError(f"a line is longer than {limits.BODY_BYTES_CEILING} bytes; it was not appended")
        if lines:
            yield lines
    if held:
        yield [held]


def _append_batch(session: Session, before: int, lines: Sequence[bytes]) -> Iterator[Event]:
    """Append the events of some lines in one append; where one of them is refused, those before it only."""
    numbered = [(number, line) for number, line in enumerate(lines, start=before + 1) if line.strip()]
    if len(numbered) > 1:
        with suppress(*_REFUSALS):
            recorded = session.extend([_event_of(session, line) for _, line in numbered], repeats="skip")
            yield from recorded
            return
    for number, line in numbered:
        try:
            yield from session.extend([_event_of(session, line)], repeats="skip")
        except EverlogError as error:
            error.message = f"line {number}: {error.message} (the lines before it are recorded)"
            raise


def _event_of(session: Session, line: bytes) -> NewEvent:
    value = decode_json(line, what="it")
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InvalidEventError('it is no object with a "type"; nothing of it was appended; correct it')
    unknown = next((name for name in value if name not in _MEMBERS), None)
    if unknown is not None:
        raise InvalidEventError(
            f"it has the member {unknown!r:.100}, which is none of {' '.join(_MEMBERS)}; nothing of it was appended; correct "
            "it, or use `everlog import jsonl` for what `everlog log --json` printed"
        )
    occurred = value.pop("occurred_at", None)
    if isinstance(occurred, str):
        place = parse_place(occurred, now=session.storage.now(), naive_is_utc=True)
        if not isinstance(place, TimePlace):
            raise InvalidEventError(f"occurred_at {occurred!r:.50} is no time; nothing of it was appended")
        occurred = place.micros
    return NewEvent(value.pop("type"), value.pop("data", None), occurred_at=occurred, **value)


# --- moving about --------------------------------------------------------------------------------
@everlog.command(epilog='Examples:  everlog fork run-42@17 --id other-way --title "try the other library"')
@address_argument()
@click.option("--id", "new_id", help="The new session's id; a UUID by default.")
@click.option("--title")
@click.option("--reason")
@actor_option
@json_option
@click.pass_context
def fork(
    ctx: click.Context,
    address: str,
    new_id: str | None,
    title: str | None,
    reason: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    """Make a new session that shares everything before a place. Costs the same at ten events and at ten million."""
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        forked = session.fork(
            "end" if place is None else place,
            branch=line if isinstance(line, Branch) else None,
            id=new_id,
            title=title,
            reason=reason,
            actor=actor,
        )
        shared = forked.head.size - 1
        if as_json:
            say_json({"session": forked.id, "shares": shared, "head": str(forked.head)})
        else:
            say(
                f"{visible(format_address(forked.id))}  shares [0, {shared}) with {visible(format_address(session.id))}"
            )


@everlog.command(
    epilog='Examples:  everlog rewind run-42@17 --reason "wrong path"   |   everlog rewind run-42@before-refactor'
)
@address_argument()
@click.option("--reason")
@actor_option
@json_option
@click.pass_context
def rewind(ctx: click.Context, address: str, reason: str | None, actor: str | None, as_json: bool) -> None:
    """Go back to a place in a session. What came after stays readable as a branch of its own; `switch` returns to it."""
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        if place is None or line is not session:
            raise click.UsageError("name the place to go back to, on the current branch: everlog rewind SESSION@PLACE")
        left = session.branch()
        event = session.rewind(place, reason=reason, actor=actor)
        _say_moved(session, event, left, as_json=as_json)


@everlog.command(epilog='Examples:  everlog switch run-42~b1 --reason "the first way was right"')
@address_argument()
@click.option("--reason")
@actor_option
@json_option
@click.pass_context
def switch(ctx: click.Context, address: str, reason: str | None, actor: str | None, as_json: bool) -> None:
    """Make another branch of a session the current one, which undoes a rewind. See `tree` for the branches."""
    with opened(ctx) as store:
        session, line, place = locate(store, address)
        if place is not None or not isinstance(line, Branch):
            raise click.UsageError("name the branch to go on with, and no place: everlog switch SESSION~BRANCH")
        left = session.branch()
        event = session.switch(line, reason=reason, actor=actor)
        _say_moved(session, event, left, as_json=as_json)


def _say_moved(session: Session, event: Event, left: Branch, *, as_json: bool) -> None:
    now = session.branch()
    if as_json:
        say_json({"session": session.id, "branch": now.name, "left": left.name, "position": event.position})
    else:
        name = visible(format_address(session.id))
        say(f"{name} goes on at {event.position} as {now.name}; what was left is {left.name}")


@everlog.command(
    epilog='Examples:  everlog update run-42 --title "Parser, second try"   |   everlog update run-42 --label state=done --unlabel user'
)
@address_argument()
@click.option("--title", help='A new title; "" for none.')
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Set a label. May be given again.")
@click.option("--unlabel", "gone", multiple=True, metavar="NAME", help="Take a label away. May be given again.")
@click.option("--metadata", metavar="JSON", help="A JSON object, in place of what was there.")
@actor_option
@json_option
@click.pass_context
def update(
    ctx: click.Context,
    address: str,
    title: str | None,
    labels: tuple[str, ...],
    gone: tuple[str, ...],
    metadata: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    """Change a session's title, labels or metadata. Recorded as an event."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        changes: dict[str, Any] = {}
        if title is not None:
            changes["title"] = title or None
        if labels or gone:
            kept = {name: value for name, value in session.info().labels.items() if name not in gone}
            changes["labels"] = kept | pairs(labels, option="--label")
        if metadata is not None:
            changes["metadata"] = read_json(metadata, what="--metadata")
        # Labels were read at this head: where somebody else wrote since, theirs must not be lost.
        event = session.update(**changes, actor=actor, expected=session.head)
        _say_recorded(event, as_json=as_json)


# --- destroying ----------------------------------------------------------------------------------
@everlog.command(
    epilog='Examples:  everlog delete run-42 --reason "asked for by u7"   |   everlog delete run-42 --reason test --yes'
)
@address_argument()
@click.option("--reason", required=True, help="Recorded, for whoever asks later.")
@click.option("--cascade", is_flag=True, help="Delete the sessions forked from it too.")
@propose_option
@actor_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def delete(
    ctx: click.Context,
    address: str,
    reason: str,
    cascade: bool,
    propose: bool,
    actor: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """End a session and destroy what only it holds. Recorded; hashes stay. Refused while forks of it live."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        if propose:
            proposal = store.retention.propose_deletion(session, reason=reason, actor=needed(actor), cascade=cascade)
            say_proposal(proposal, as_json=as_json)
            return
        forks = ", and every session forked from it" if cascade else ""
        confirm(f"Delete {visible(session.id)} with its {session.head.size} events{forks}?", yes=yes)
        store.delete(session.id, reason=reason, cascade=cascade, actor=actor)
        if as_json:
            say_json({"session": session.id, "deleted": True})
        else:
            say(f"{visible(format_address(session.id))} is deleted")


# --- reading what was given ----------------------------------------------------------------------
def read_json(text: str, *, what: str) -> Any:
    """Read an argument that is JSON; a text that is none gets told how to write one."""
    try:
        return decode_json(text.encode("utf-8", "surrogateescape"), what=what)
    except InvalidEventError as error:
        hint = f"; for plain text write {what} as {json.dumps(text[:40])}" if what == "DATA" else ""
        raise InvalidEventError(f"{error.message}{hint}") from None


def _read_file(path: str) -> bytes:
    file = Path(path)
    try:
        if file.stat().st_size > limits.ATTACHMENT_BYTES_MAX:
            raise LimitError(f"{path} is larger than an attachment may be ({limits.ATTACHMENT_BYTES_MAX} bytes)")
        return file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read ({error.strerror}); nothing was appended") from error


def _event_at(store: Store, address: str) -> Event:
    _, line, place = locate(store, address)
    if place is None:
        raise click.UsageError(f"{address} names no event; write SESSION@PLACE")
    return line.event(place)  # pyright: ignore[reportArgumentType]
