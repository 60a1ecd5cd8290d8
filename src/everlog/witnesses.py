"""Asking witnesses: each is sent a signed checkpoint with a proof, and answers with its cosignature (C2SP tlog-witness)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from everlog.core.event import Head
from everlog.core.note import (
    COSIGNATURE,
    Note,
    Signature,
    VerifierKey,
    open_note,
    parse_number,
    parse_signatures,
    parse_verifier_key,
)
from everlog.errors import InvalidEventError, TamperedError, UnavailableError

SECONDS_MAX: Final = 10.0  # that a witness may take
ANSWER_BYTES_MAX: Final = 64 * 1024
Prove = Callable[[int, int], Sequence[bytes]]


class Witness:
    """A witness: where it is asked, and the key that it cosigns with. size: of the last checkpoint that it cosigned, as far as known."""

    def __init__(self, url: str, key: VerifierKey) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.size = 0

    @classmethod
    def parse(cls, text: str) -> Witness:
        """Read KEY@URL: a verifier key, and where its witness is asked; InvalidEventError."""
        key, at, url = text.partition("@http")
        try:
            parsed = parse_verifier_key(key)
            if not at or parsed.kind != COSIGNATURE:
                raise ValueError(f"{text[:100]!r} is not the verifier key of a witness, @, and its address")
        except ValueError as error:
            raise InvalidEventError(f"this names no witness: {error}; nothing was done; write KEY@URL") from error
        return cls(f"http{url}", parsed)


def cosign(witness: Witness, note: Note, head: Head, prove: Prove) -> tuple[Signature, ...]:
    """Ask a witness to cosign a checkpoint; give its lines, checked. UnavailableError; TamperedError where it is no cosignature of it."""
    status, answer = _ask(witness, note, prove(witness.size, head.size) if 0 < witness.size <= head.size else ())
    if status == 409 and (size := _size(answer)) is not None and size <= head.size:
        witness.size = size  # it has seen another than this process knows of
        status, answer = _ask(witness, note, prove(size, head.size) if size else ())
    if status != 200:
        raise UnavailableError(
            f"the witness {witness.key.name!r} did not cosign (it answered {status}: {answer[:200].decode('utf-8', 'replace').strip()!r}); "
            "the seal is made without it; see the log of that witness"
        )
    try:
        lines = tuple(
            line for line in parse_signatures(answer) if (line.name, line.id) == (witness.key.name, witness.key.id)
        )
    except ValueError as error:
        raise UnavailableError(
            f"the witness {witness.key.name!r} answered with what is no signature ({error}); the seal is made without it"
        ) from error
    try:
        open_note(Note(note.text, lines), [witness.key])
    except TamperedError as error:
        raise UnavailableError(
            f"the witness {witness.key.name!r} answered without a good signature of its key; the seal is made without it; see that its key "
            "is the one that is pinned"
        ) from error
    witness.size = head.size
    return lines


def _ask(witness: Witness, note: Note, path: Sequence[bytes]) -> tuple[int, bytes]:
    """Post a checkpoint; give the status and the answer."""
    lines = [f"old {witness.size}", *(b64encode(step).decode() for step in path), "", str(note)]
    url = f"{witness.url}/add-checkpoint"
    request = Request(url, "\n".join(lines).encode(), {"Content-Type": "text/plain"}, method="POST")  # noqa: S310
    try:
        with urlopen(request, timeout=SECONDS_MAX) as answer:  # noqa: S310  # an address of http or https, by Witness.parse
            return answer.status, answer.read(ANSWER_BYTES_MAX)
    except HTTPError as error:
        with error:
            return error.code, error.read(ANSWER_BYTES_MAX)
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"the witness {witness.key.name!r} does not answer at {url} ({error}); the seal is made without it"
        ) from error


def _size(answer: bytes) -> int | None:
    try:
        return parse_number(answer.decode().removesuffix("\n"))
    except ValueError:
        return None
