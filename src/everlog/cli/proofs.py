"""Commands about proofs: prove, check-proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from everlog.cli.main import address_argument, everlog, json_option, locate, opened
from everlog.cli.output import say, say_json, visible
from everlog.core.event import Head
from everlog.core.limits import PROOF_BYTES_MAX
from everlog.core.proof import ConsistencyProof, EventProof, ForkProof, Proof, RangeProof, describe, read_proof
from everlog.core.sealed_proof import SealedProof, read_sealed_proof
from everlog.errors import NotFoundError, UnavailableError
from everlog.session import Branch, Session
from everlog.store import Store


@everlog.command(
    epilog="Examples:  everlog prove run-42@17 --to 17.proof   |   everlog prove run-42@10 --stop 20   |   "
    "everlog prove run-42 --since 1200:9f86…   |   everlog prove run-42 --fork run-43   |   everlog prove run-42@17 --sealed --to 17.tlog-proof"
)
@address_argument()
@click.option("--stop", metavar="CUT", help="A range: from the address up to this cut, at most 1,000 events.")
@click.option(
    "--since", metavar="HEAD", help="That the line still begins with all that it was at this head, SIZE:ROOT."
)
@click.option("--fork", metavar="ADDRESS", help="That this line and another are the same up to where they part.")
@click.option("--sealed", is_flag=True, help="Up to a seal: it is checked with the ledger's verifier key alone.")
@click.option("--at", metavar="CUT", default="end", help="The head that it is proved for; that of the end by default.")
@click.option("--no-body", is_flag=True, help="Show headers only, and no body.")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file; printed by default.")
@json_option
@click.pass_context
def prove(
    ctx: click.Context,
    address: str,
    stop: str | None,
    since: str | None,
    fork: str | None,
    sealed: bool,
    at: str,
    no_body: bool,
    to: Path | None,
    as_json: bool,
) -> None:
    """Prove that an event, or a range, stands in a line; that nothing was changed since a head; or that a line is a fork.

    Whoever has the head, SIZE:ROOT, checks it with `everlog check-proof`, without the store. A proof that shows a body holds the body
    and its salt: what was handed on cannot be erased.
    """
    if sum(map(bool, (stop, since, fork, sealed))) > 1:
        raise click.UsageError("--stop, --since, --fork and --sealed are kinds of proof: give one")
    with opened(ctx) as store:
        _, line, place = locate(store, address)
        if since is not None or fork is not None:
            if place is not None:
                raise click.UsageError(f"{address} names a place, and a proof with --since or --fork is of a line")
            proof: Proof | SealedProof = (
                line.prove_consistency(Head.parse(since), at) if since is not None else _fork(store, line, fork)
            )
        elif place is None:
            raise click.UsageError(f"{address} names no event; add @PLACE, or give --since or --fork")
        elif sealed:
            proof = line.prove_sealed(place, body=not no_body)
        elif stop is not None:
            proof = line.prove_range(place, stop, at=at, body=not no_body)
        else:
            proof = line.prove(place, at=at, body=not no_body)
    encoded = proof.encode()
    if to is not None:
        _write(to, encoded)
    if as_json:
        say_json(_described(proof) | {"path": None if to is None else str(to), "bytes": len(encoded)})
    elif to is None:
        say(encoded.decode().rstrip("\n"))
    else:
        say(f"{visible(str(to))}: {_in_words(proof)}, {len(encoded)} bytes")


def _fork(store: Store, line: Session | Branch, address: str | None) -> ForkProof:
    assert address is not None, "one of the two was given"
    _, other, place = locate(store, address)
    if place is not None:
        raise click.UsageError(f"{address} names a place, and --fork takes a line")
    return line.prove_fork(other)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UnavailableError(
            f"the proof cannot be written to {path} ({error.strerror}); choose another place with --to"
        ) from error


def read_file(path: Path) -> bytes:
    """Read a file that came from elsewhere, at most a byte more than any proof has."""
    try:
        with path.open("rb") as file:
            return file.read(PROOF_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}; name the one that holds the proof") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror}); nothing was checked") from error


@everlog.command(
    name="check-proof",
    epilog="Examples:  everlog check-proof 17.proof --head 1200:9f86…   |   everlog check-proof grown.proof --old 10:ab… --head 20:cd…   |   everlog check-proof 17.tlog-proof --key 'everlog/30cb…+530d903a+Aeky…'",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--head", metavar="HEAD", help="The head that you trust, SIZE:ROOT; of a fork, that of its one line.")
@click.option("--old", metavar="HEAD", help="Of a proof of consistency: the older head, which you hold too.")
@click.option("--other", metavar="HEAD", help="Of a proof of a fork: the head of its other line.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Of a sealed proof: the verifier key that you trust.")
@click.option(
    "--witness", "witnesses", multiple=True, metavar="KEY", help="A verifier key of a witness that you trust."
)
@click.option("--quorum", type=click.IntRange(0), default=0, help="How many of those witnesses must have cosigned.")
@json_option
def check_proof(
    file: Path,
    head: str | None,
    old: str | None,
    other: str | None,
    keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    quorum: int,
    as_json: bool,
) -> None:
    """Check a proof against heads that you hold, or a sealed one against a key. It needs no store, and trusts nothing in the file."""
    raw = read_file(file)
    proof: Proof | SealedProof
    if raw.startswith(b"c2sp.org/"):
        proof = read_sealed_proof(raw)
        if not keys:
            raise click.UsageError("a sealed proof is checked against a verifier key that you trust: give --key")
        proof.verify(keys, witnesses=witnesses, quorum=quorum)
    else:
        proof = read_proof(raw)
        _verify(proof, head=head, old=old, other=other)
    if as_json:
        say_json({"ok": True} | _described(proof))
        return
    say(f"{click.style('good', fg='green')}: {_in_words(proof)}")
    one = isinstance(proof, (EventProof, SealedProof))
    events = (proof.event,) if one else proof.events if isinstance(proof, RangeProof) else ()
    for event in events:
        say(visible(event.header if event.body is None else f"{event.header} {event.body}"))


def _verify(proof: Proof, *, head: str | None, old: str | None, other: str | None) -> None:
    match proof:
        case EventProof() | RangeProof():
            proof.verify(_given(head, "--head", proof))
        case ConsistencyProof():
            proof.verify(old=_given(old, "--old", proof), new=_given(head, "--head", proof))
        case ForkProof():
            proof.verify(one=_given(head, "--head", proof), other=_given(other, "--other", proof))


def _given(head: str | None, option: str, proof: Proof) -> Head:
    if head is None:
        raise click.UsageError(
            f"a proof of {proof.what} is checked against a head that you hold: give {option} SIZE:ROOT"
        )
    return Head.parse(head)


def _described(proof: Proof | SealedProof) -> dict[str, Any]:
    if not isinstance(proof, SealedProof):
        return describe(proof)
    return {"proof": "sealed", "position": proof.position, "head": str(proof.head), "record": proof.index}


def _in_words(proof: Proof | SealedProof) -> str:
    match proof:
        case SealedProof():
            return f"event {proof.position} stands in the line with head {proof.head}, which is sealed"
        case EventProof():
            return f"event {proof.position} stands in the line with head {proof.head}"
        case RangeProof():
            start = proof.start
            return f"events {start} to {start + len(proof.events) - 1} stand in the line with head {proof.head}"
        case ConsistencyProof():
            return f"the line with head {proof.new} begins with all of that with head {proof.old}"
        case ForkProof():
            return f"the lines with heads {proof.one} and {proof.other} are the same up to {proof.cut.size}"
