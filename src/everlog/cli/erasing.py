"""Commands about what is destroyed and what may not be: erase, certificate, hold, release, holds, approve, proposals."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from everlog.approving import Proposal
from everlog.certificates import Certificate, read_certificate
from everlog.cli.main import (
    actor_option,
    address_argument,
    confirm,
    everlog,
    json_option,
    locate,
    locate_session,
    opened,
)
from everlog.cli.output import advance, counted, note, progress_bar, say, say_json, shorten, size_of, visible
from everlog.cli.sealing import keys_option
from everlog.core.position import format_address, format_micros, parse_address
from everlog.errors import NotFoundError, TamperedError, UnavailableError
from everlog.planning import ErasurePlan
from everlog.retaining import Work
from everlog.session import Session
from everlog.store import Store

if TYPE_CHECKING:
    from everlog.signing import Keys

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN: Final = 10  # of a kind
_RANGE: Final = re.compile(r"(-?\d{1,16})?\.\.(-?\d{1,16})?", re.ASCII)
_FAULTS: Final = 100  # of a file
_CERTIFICATE_BYTES_MAX: Final = 64 * 1024 * 1024  # of one line: of 5,000 events it has 500 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """How it was asked to erase. keys: to seal the record with. file: of the certificates."""

    reason: str
    actor: str | None
    keys: Keys | None
    dry_run: bool
    file: str | None
    yes: bool
    as_json: bool


def propose_option(function: F) -> F:
    """Add --propose."""
    return click.option(
        "--propose", is_flag=True, help="Only propose it, where a policy asks for two persons (everlog approve)."
    )(function)


def needed(actor: str | None) -> str:
    """Give who proposes or approves."""
    if actor is None:
        raise click.UsageError("say who: --actor NAME, an opaque id; two persons must differ")
    return actor


@everlog.command(
    epilog='Examples:  everlog erase run-42@3 run-42@17 --reason "holds a password"   |   everlog erase run-42@3..17 --reason why '
    '--dry-run   |   everlog erase run-42 --matching "data.email:*" --reason "asked for by u7"   |   '
    'everlog erase --subject label.user:u7 --reason "asked for by u7" --certificate u7.json'
)
@address_argument("addresses", many=True, required=False)
@click.option("--matching", metavar="QUERY", help="Erase all events of the session that meet this query.")
@click.option(
    "--subject", metavar="QUERY", help="Erase all events recorded in the sessions that meet this: label.user:u7."
)
@click.option(
    "--types", multiple=True, metavar="TYPE", help="With --subject: only events of these types, as in user.*."
)
@click.option(
    "--reason", help="Recorded, for whoever asks later. Write nothing personal into it. Needed but for --dry-run."
)
@propose_option
@actor_option
@click.option("--dry-run", is_flag=True, help="Only say what would go, what with it, and what is in the way.")
@click.option("--certificate", "file", metavar="FILE", help="Write the certificates to a new file, one a line.")
@click.option("--seal", is_flag=True, help="Seal the record with the store's key before anything is destroyed.")
@keys_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def erase(
    ctx: click.Context,
    addresses: tuple[str, ...],
    matching: str | None,
    subject: str | None,
    types: tuple[str, ...],
    propose: bool,
    seal: bool,
    folder: Path | None,
    reason: str | None,
    **given: Any,
) -> None:
    """Destroy the bodies of events; their places, hashes and every proof stay. In forks too.

    ADDRESS is SESSION@PLACE, or SESSION@3..17 for the events [3, 17), all of one session. With --subject all events that were recorded
    in the sessions that a query matches, on every line of them; it may be stopped, and the next time does the rest.
    """
    if (subject is None) is not bool(addresses):
        raise click.UsageError("name events of one session (SESSION@PLACE …), or sessions with --subject, not both")
    if reason is None and not given["dry_run"]:
        raise click.UsageError("say why: --reason TEXT, which is recorded")
    if types and subject is None:
        raise click.UsageError("--types goes with --subject; with a session use --matching type:…")
    if folder is not None and not seal:
        raise click.UsageError("--keys goes with --seal")
    with opened(ctx) as store:
        asked = _Asked(reason=reason or "", keys=store.keys(folder) if seal else None, **given)
        if subject is not None:
            if matching is not None:
                raise click.UsageError(
                    "--matching goes with one session, and --subject chooses sessions: give one of them"
                )
            if propose:
                if types:
                    raise click.UsageError("what is proposed by --subject is all of it: leave out --types")
                _propose(store, asked, query=subject)
                return
            _erase_subject(store, subject, types or ("*",), asked)
            return
        session, places = _to_erase(store, addresses, matching)
        if not places:
            note("nothing matches; nothing was erased")
            return
        if propose:
            _propose(store, asked, session, places)
            return
        _erase_places(session, places, asked)


def _propose(
    store: Store, asked: _Asked, session: Session | None = None, places: Sequence[int] = (), *, query: str | None = None
) -> None:
    proposal = store.retention.propose_erasure(
        session, places, query=query, reason=asked.reason, actor=needed(asked.actor)
    )
    say_proposal(proposal, as_json=asked.as_json)


def _to_erase(store: Store, addresses: Sequence[str], matching: str | None) -> tuple[Session, list[int]]:
    session: Session | None = None
    places: set[int] = set()
    whole = False
    for address in addresses:
        parsed = parse_address(address)
        bounds = None if parsed.place is None else _RANGE.fullmatch(parsed.place)
        bare = format_address(parsed.session, parsed.branch)
        found, line, place = locate(store, bare if bounds is not None else address)
        if line is not found:
            raise click.UsageError("erase works on the current line of a session: leave out the branch")
        if session is not None and session.id != found.id:
            raise click.UsageError("name events of one session: everlog erase SESSION@PLACE SESSION@PLACE …")
        session = found
        if bounds is not None:
            start, stop = (
                ("start" if bounds[1] is None else int(bounds[1])),
                ("end" if bounds[2] is None else int(bounds[2])),
            )
            places.update(range(found.cut(start), found.cut(stop)))
        elif place is None:
            whole = True
        elif isinstance(place, str) and place.isdecimal() and int(place) < found.size():
            places.add(int(place))  # to destroy a body, it need not be read: its key may not be here
        else:
            places.add(found.event(place).position)  # pyright: ignore[reportArgumentType]
    assert session is not None, "there is at least one address"
    if matching is not None:
        if len(addresses) > 1 or not whole:
            raise click.UsageError("with --matching give one session, without a place")
        return session, [event.position for event in session.events(matching) if not event.erased]
    if whole:
        raise click.UsageError("name events: everlog erase SESSION@PLACE …; SESSION@.. for all of a session")
    return session, sorted(places)


def _erase_places(session: Session, places: list[int], asked: _Asked) -> None:
    if asked.dry_run or not asked.yes:
        plan = session.plan_erasure(places)
        if asked.dry_run and asked.as_json:
            say_json(plan)
            return
        if not asked.as_json:
            _say_plan(plan)
        if asked.dry_run:
            return
    confirm(f"Erase {counted(len(places), 'event')} of {visible(session.id)}?", yes=asked.yes)
    with _writing(asked.file) as write:
        certificate = session.erase(places, reason=asked.reason, actor=asked.actor, keys=asked.keys)
        write(certificate)
    erased = certificate.positions
    if asked.as_json:
        say_json({"session": session.id, "erased": erased, "certificate": certificate})
        return
    shown = ", ".join(map(str, erased[:20])) + (f" and {len(erased) - 20} more" if len(erased) > 20 else "")
    say(f"{visible(format_address(session.id))}: erased {counted(len(erased), 'event')}{': ' if erased else ''}{shown}")
    if len(erased) < len(places):
        note(f"{len(places) - len(erased)} were erased before")
    _say_written(asked.file)


def _say_plan(plan: ErasurePlan) -> None:
    """Say what an erasure would do, bounded."""
    before = f", {plan.before:,} erased before" if plan.before else ""
    say(f"{counted(plan.events, 'event')} to erase, {size_of(plan.bytes)}{before}")
    for each in plan.listed[:_SHOWN]:
        address = shorten(visible(format_address(each.session, None, each.position)), 60)
        attached = f", {counted(each.attachments, 'attachment')}" if each.attachments else ""
        say(f"  {address}  {visible(each.type)}  {size_of(each.bytes)}{attached}")
    if plan.events > _SHOWN:
        say(f"  … and {plan.events - _SHOWN:,} more: --json names {len(plan.listed)}")
    for count, what in (
        (plan.summary_count, "of summaries that stand for them: erased too"),
        (plan.snapshots, "of states that they went into: dropped"),
        (plan.kept_once_goes, "of long strings and attachments kept once: go with them"),
        (plan.kept_once_stays, "of long strings and attachments kept once that other events share: stay"),
        (plan.object_count, "of archives: written again without them"),
        (plan.requests, "of calls of models that were given them: no more to be had byte for byte"),
        (plan.results, "of results of tools: their uses stay, and read [erased]"),
        (plan.uses, "of uses of tools whose results stay"),
    ):
        if count:
            say(f"  {count:>8,}  {what}")
    if plan.sharing_count:
        named = ", ".join(shorten(visible(format_address(name)), 60) for name in plan.sharing[:_SHOWN])
        more = f" and {plan.sharing_count - _SHOWN:,} more" if plan.sharing_count > _SHOWN else ""
        say(f"  gone too in {named}{more}, which share them")
    for hold in plan.holds[:_SHOWN]:
        policy = "it says what is held" if hold.policy is None else f"policy {visible(hold.policy)}"
        because = "" if hold.reason is None else f": {shorten(visible(hold.reason))}"
        note(f"refused: {shorten(visible(format_address(hold.session)), 60)} is held ({policy}{because})")


def _erase_subject(store: Store, subject: str, types: Sequence[str], asked: _Asked) -> None:
    if asked.dry_run or not asked.yes:
        with progress_bar("looking for what would go", None) as bar:
            work = store.erase(subject, types=types, reason=asked.reason, dry_run=True, progress=advance(bar))
        if not asked.as_json or asked.dry_run:
            _say_work(work, "to erase", as_json=asked.as_json)
        if asked.dry_run or not work.events:
            return
        confirm(f"Erase {counted(work.events, 'event')} of {counted(work.sessions, 'session')}?", yes=False)
    with _writing(asked.file) as write, progress_bar("erasing", None) as bar:
        work = store.erase(
            subject,
            types=types,
            reason=asked.reason,
            actor=asked.actor,
            keys=asked.keys,
            certified=write,
            progress=advance(bar),
        )
    _say_work(work, "erased", as_json=asked.as_json)
    if not asked.as_json:
        _say_written(asked.file)


def _say_work(work: Work, done: str, *, as_json: bool) -> None:
    if as_json:
        say_json(work)
        return
    say(f"{counted(work.events, 'event')} of {counted(work.sessions, 'session')} {done}, {size_of(work.bytes)}")
    for each in work.due[:_SHOWN]:
        say(f"  {shorten(visible(format_address(each.session)), 60)}  {counted(each.events, 'event')}")
    if work.sessions > _SHOWN:
        say(f"  … and {work.sessions - _SHOWN:,} more: --json names {len(work.due)}")
    if work.spared_events:
        by = ", ".join(sorted({visible(each.by) for each in work.spared}))
        note(
            f"{counted(work.spared_events, 'event')} of {counted(work.spared_sessions, 'session')} held, and not {done.removeprefix('to ')}: {by}"
        )


# --- certificates --------------------------------------------------------------------------------
@contextmanager
def _writing(file: str | None) -> Generator[Callable[[Certificate], None]]:
    """Give what writes certificates to a new file as they come. A file that is there already is never written over."""
    if file is None:
        yield lambda _: None
        return
    path = Path(file)
    try:
        lines = path.open("xb")
    except FileExistsError:
        raise click.UsageError(f"{file} is there already; nothing was erased; name another file") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be made ({error.strerror}); nothing was erased") from None

    def write(certificate: Certificate) -> None:
        try:
            lines.write(certificate.encode() + b"\n")
            lines.flush()
        except OSError as error:
            raise UnavailableError(
                f"a certificate cannot be written to {file} ({error.strerror}); what was erased until now is erased; "
                "`everlog certificate SESSION@PLACE` gives it again"
            ) from error

    try:
        with lines:
            yield write
    finally:
        if path.stat().st_size == 0:
            path.unlink()  # nothing was erased


def _say_written(file: str | None) -> None:
    if file is not None:
        note(f"the certificate is in {visible(file)}; check it: everlog certificate --check {visible(file)}")


@everlog.command(
    epilog="Examples:  everlog certificate run-42@3   |   everlog certificate run-42@3..17 > run-42.json   |   "
    "everlog certificate --check run-42.json   |   everlog certificate --check run-42.json --key 'everlog/30cb…+530d903a+Aeky…'"
)
@address_argument("addresses", many=True, required=False)
@click.option("--check", "file", metavar="FILE", help="Compare the certificates in a file with the store.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="With --check: a verifier key that you trust. Then no store is needed: it shows that a seal of that key covers the records.",
)
@json_option
@click.pass_context
def certificate(
    ctx: click.Context, addresses: tuple[str, ...], file: str | None, keys: tuple[str, ...], as_json: bool
) -> None:
    """Give the certificate of events that were erased, as a line of JSON; or check such a file against the store.

    A certificate names what was erased, when, by whom and why, with the ledger's records that say so, and a head that is the same
    before and after. Where its records are sealed, it holds the seal and what leads to it.
    """
    if (file is None) is not bool(addresses):
        raise click.UsageError("name erased events (SESSION@PLACE …), or a file with --check, not both")
    if keys and file is None:
        raise click.UsageError("--key goes with --check FILE")
    if keys and file is not None:
        _check_sealed(file, keys, as_json=as_json)
        return
    with opened(ctx) as store:
        if file is None:
            session, places = _to_erase(store, addresses, None)
            say_json(session.certificate(places))
            return
        _check_file(store, file, as_json=as_json)


def _certificates(file: str) -> Iterator[Certificate]:
    """Read the certificates in a file, at least one."""
    some = False
    try:
        with Path(file).open("rb") as lines:
            while line := lines.readline(_CERTIFICATE_BYTES_MAX):
                yield read_certificate(line)
                some = True
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read ({error.strerror}); nothing was checked") from error
    if not some:
        raise NotFoundError(f"{file} holds no certificate; nothing was checked")


def _check_sealed(file: str, keys: Sequence[str], *, as_json: bool) -> None:
    """Check certificates under a key alone; TamperedError at the first that does not hold."""
    certificates = 0
    events: set[tuple[str, int]] = set()
    seals: dict[str, None] = {}
    for each in _certificates(file):
        seals[str(each.verify(keys).head)] = None
        events.update((each.branch, position) for position in (*each.positions, *each.before))
        certificates += 1
    if as_json:
        say_json({"ok": True, "certificates": certificates, "events": len(events), "seals": list(seals)})
        return
    say(
        f"good: {counted(certificates, 'certificate')}, {counted(len(events), 'event')} on record as erased, and sealed"
    )
    say("not checked: that the bodies are gone, and that these events are of that line: compare it with the store")


def _check_file(store: Store, file: str, *, as_json: bool) -> None:
    certificates = events = count = 0
    faults: list[str] = []
    for each in _certificates(file):
        checked = store.check_certificate(each)
        certificates, events = certificates + 1, events + checked.events
        count += checked.fault_count
        faults += [f"line {certificates}: {fault}" for fault in checked.faults][: _FAULTS - len(faults)]
    if as_json:
        say_json(
            {
                "ok": not count,
                "certificates": certificates,
                "events": events,
                "faults": faults,
                "fault_count": count,
            }
        )
    elif count:
        for fault in faults:
            say(visible(fault))
    else:
        say(f"good: {counted(certificates, 'certificate')}, {counted(events, 'event')} erased and on record")
    if count:
        raise TamperedError(
            f"{counted(count, 'fault')} in {file}: it is not of this store, or one of the two was changed"
        )


# --- holds ---------------------------------------------------------------------------------------
@everlog.command(
    epilog='Examples:  everlog hold run-42 --reason "asked for by the court"   |   everlog hold run-42 --name case-7 --reason …'
)
@address_argument()
@click.option("--reason", required=True, help="Recorded, and shown to whoever meets the hold.")
@click.option("--name", help="Of the hold, where a session is held for several reasons.")
@actor_option
@json_option
@click.pass_context
def hold(ctx: click.Context, address: str, reason: str, name: str | None, actor: str | None, as_json: bool) -> None:
    """Hold a session: nobody can erase what it shares, nor delete it, until it is released. Recorded.

    A hold is a retention policy; to hold all sessions with a label: everlog retain set NAME --query label.case:7 --action hold.
    """
    with opened(ctx) as store:
        session = locate_session(store, address)
        policy = session.hold(reason=reason, name=name, actor=actor)
        if as_json:
            say_json({"session": session.id, "name": policy.name, "held": True})
        else:
            say(f"{visible(format_address(session.id))} is held by {visible(policy.name)}")


@everlog.command(epilog='Examples:  everlog release run-42 --reason "the case is closed"')
@address_argument()
@click.option("--reason", required=True, help="Recorded, for whoever asks later.")
@click.option("--name", help="Of the hold, where one was given.")
@actor_option
@json_option
@click.pass_context
def release(ctx: click.Context, address: str, reason: str, name: str | None, actor: str | None, as_json: bool) -> None:
    """Release a session from a hold of its own. Other policies may hold it still; then that is said. Recorded."""
    with opened(ctx) as store:
        session = locate_session(store, address)
        session.release(reason=reason, name=name, actor=actor)
        left = [policy.name for policy in session.holds()]
        if as_json:
            say_json({"session": session.id, "held": bool(left), "held_by": left})
        else:
            say(f"{visible(format_address(session.id))} is released")
            if left:
                note(f"it is held still, by {', '.join(map(visible, left[:_SHOWN]))}")


@everlog.command(epilog="Examples:  everlog holds   |   everlog holds --json")
@json_option
@click.pass_context
def holds(ctx: click.Context, as_json: bool) -> None:
    """List what is held, and why. `everlog log retention/policies` lists when it began, and by whom."""
    with opened(ctx) as store:
        found = [policy for policy in store.retention.policies() if policy.action == "hold"]
    for policy in found:
        if as_json:
            say_json({"name": policy.name, **policy.members()})
        else:
            because = "" if policy.reason is None else f"  ({shorten(visible(policy.reason))})"
            say(f"{visible(policy.name)}: {shorten(visible(policy.query))}{because}")
    if not found and not as_json:
        note("nothing is held")


# --- two persons ---------------------------------------------------------------------------------
@everlog.command(
    epilog="Examples:  everlog proposals   |   everlog approve ev_0a…_7 --actor bob --reason 'seen the request'"
)
@click.argument("proposal")
@click.option("--reason", help="Recorded.")
@actor_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def approve(ctx: click.Context, proposal: str, reason: str | None, actor: str | None, yes: bool, as_json: bool) -> None:
    """Approve of what somebody else proposed to erase, delete or change. PROPOSAL is its id (everlog proposals).

    Nothing is destroyed by it: whoever asks for it next, in the same words, may. Actors are what programs say that they are.
    """
    with opened(ctx) as store:
        who = needed(actor)
        found = next((each for each in store.retention.proposals() if each.id == proposal), None)
        if found is not None and not yes:
            for line in _named_in(store, found):
                say(line)
            confirm(f"{_proposed(found)}. Approve of it as {visible(who)}?", yes=False)
        approved = store.retention.approve(proposal, actor=who, reason=reason)
        say_proposal(approved, as_json=as_json)


@everlog.command(epilog="Examples:  everlog proposals   |   everlog proposals --json")
@json_option
@click.pass_context
def proposals(ctx: click.Context, as_json: bool) -> None:
    """List what is proposed where a policy asks for two persons, and who approved it."""
    with opened(ctx) as store:
        found = store.retention.proposals()
        for each in found:
            say_proposal(each, as_json=as_json)
            for line in () if as_json else _named_in(store, each):
                say(line)
    if not found and not as_json:
        note("nothing is proposed, or all of it has lapsed")


def say_proposal(proposal: Proposal, *, as_json: bool) -> None:
    """Say what is proposed, and how it stands."""
    if as_json:
        say_json(proposal)
        return
    stands = "not approved yet" if proposal.approved_by is None else f"approved by {visible(proposal.approved_by)}"
    say(f"{visible(proposal.id)}  {format_micros(proposal.at)[:19]}  {_proposed(proposal)}: {stands}")


def _named_in(store: Store, proposal: Proposal) -> Iterator[str]:
    """Give what a proposal names, a line each, bounded."""
    what, storage = proposal.what, store.storage
    for branch, ranges in list(what.branches.items())[:_SHOWN]:
        row = storage.branch_by_id(branch)
        name = branch if row is None else storage.session_of(row.key).name
        spans = ", ".join(f"[{start}, {stop})" for start, stop in ranges[:_SHOWN])
        more = f" and {len(ranges) - _SHOWN:,} more" if len(ranges) > _SHOWN else ""
        yield f"    {shorten(visible(format_address(name)), 60)}  {spans}{more}"
    for id_ in what.sessions[:_SHOWN]:
        with suppress(NotFoundError):  # it is deleted
            yield f"    {shorten(visible(format_address(storage.session_by_id(id_).name)), 60)}"
    left = max(len(what.branches), len(what.sessions)) - _SHOWN
    if left > 0:
        yield f"    … and {left:,} more: --json"


def _proposed(proposal: Proposal) -> str:
    what = proposal.what
    if what.action == "change":
        about = f"to change policy {visible(what.policy or '')}"
    elif what.action == "delete":
        about = f"to delete {counted(len(what.sessions), 'session')} with {counted(what.events, 'event')}"
    else:
        about = f"to erase {counted(what.events, 'event')} on {counted(len(what.branches), 'branch', 'branches')}"
    reason = "" if proposal.reason is None else f" ({shorten(visible(proposal.reason))})"
    return f"{visible(proposal.actor)} proposes {about}{reason}"
