"""Being a witness: cosign checkpoints of logs that extend what was cosigned of them before (C2SP tlog-witness, tlog-cosignature).

1. A checkpoint is cosigned where a key that is pinned for its origin signed it, and it is proved to extend the last one of that origin that
   was cosigned here; that is compared and kept in one step, durably, before the answer.
2. Whatever else comes is answered with the status that the specification names, and changes nothing.

    FOLDER/ID.pem         the private key (PKCS#8)
           HASH.json      the last checkpoint of an origin, by the SHA-256 of its name
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from everlog.core.limits import NOTE_BYTES_MAX, PATH_DIGESTS_MAX
from everlog.core.merkle import verify_consistency
from everlog.core.note import (
    COSIGNATURE,
    Checkpoint,
    Note,
    VerifierKey,
    check_key_name,
    cosigned_message,
    decode_base64,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_number,
    parse_verifier_key,
    signature_of,
)
from everlog.core.prepare import Draw
from everlog.errors import EverlogError, InvalidEventError, TamperedError, UnavailableError
from everlog.keyfiles import folder_lock, read_private_key, write_private_key, write_synced

REQUEST_BYTES_MAX: Final = NOTE_BYTES_MAX + 64 * PATH_DIGESTS_MAX
SECONDS_MAX: Final = 10.0  # that a request may take to come in
PATH: Final = "/add-checkpoint"


class Answer(NamedTuple):
    """What a request is answered with."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


class WitnessKeeper:
    """A witness of some logs. logs: verifier keys of theirs, several of one origin while it rotates. clock: microseconds since 1970 UTC."""

    def __init__(self, folder: Path, name: str, logs: Sequence[str], *, draw: Draw, clock: Callable[[], int]) -> None:
        self.folder = folder
        self._clock = clock
        self._logs: dict[str, list[VerifierKey]] = {}
        try:
            check_key_name(name)
            for log in map(parse_verifier_key, logs):
                self._logs.setdefault(log.name, []).append(log)
        except ValueError as error:
            raise InvalidEventError(
                f"a witness cannot be made of this: {error}; nothing was done; correct it"
            ) from error
        with folder_lock(folder):
            self._private = _private_key(folder, draw)
        self._key = VerifierKey(name, COSIGNATURE, self._private.public_key().public_bytes_raw())

    @property
    def verifier(self) -> str:
        """The verifier key of its cosignatures: to be pinned by who checks them, and by the log."""
        return str(self._key)

    def add_checkpoint(self, request: bytes) -> Answer:
        """Answer a request to cosign, as tlog-witness says."""
        try:
            old, path, note, checkpoint = _parse(request)
        except ValueError as error:
            return Answer(400, f"{error}\n")
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            return Answer(404, "this witness does not know the log\n")
        try:
            open_note(note, keys)
        except TamperedError:
            return Answer(403, "no key that is known of the log has signed this\n")
        if old > checkpoint.head.size:
            return Answer(400, "the old size is larger than the checkpoint's\n")
        with folder_lock(self.folder):
            refusal = self._refusal(checkpoint, old, path)
            if refusal is not None:
                return refusal
            write_synced(self._state(checkpoint.origin), msgspec.json.encode(checkpoint))
        seconds = self._clock() // 1_000_000
        signature = self._private.sign(cosigned_message(note.text, seconds))
        return Answer(200, str(signature_of(self._key, signature, seconds=seconds)))

    def _refusal(self, checkpoint: Checkpoint, old: int, path: Sequence[bytes]) -> Answer | None:
        """Tell what speaks against cosigning; None for nothing."""
        last = self._last(checkpoint.origin)
        head = checkpoint.head
        size = 0 if last is None else last.head.size
        if old != size:
            return Answer(409, f"{size}\n", "text/x.tlog.size")
        if last is None or size == 0:
            return Answer(422, "there is no proof from nothing\n") if path else None
        if head.size == size and head.root != last.head.root:
            return Answer(409, f"{size}\n", "text/x.tlog.size")
        extends = verify_consistency(
            old_size=size,
            old_root=bytes.fromhex(last.head.root),
            size=head.size,
            root=bytes.fromhex(head.root),
            proof=path,
        )
        return None if extends else Answer(422, "the proof does not lead from the last checkpoint to this one\n")

    def _state(self, origin: str) -> Path:
        return self.folder / f"{sha256(origin.encode()).hexdigest()}.json"

    def _last(self, origin: str) -> Checkpoint | None:
        path = self._state(origin)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise UnavailableError(
                f"{path} cannot be read ({error}); nothing was cosigned; what was cosigned last is not known without it: bring it back"
            ) from error


def _private_key(folder: Path, draw: Draw):  # noqa: ANN202  # the library's type, which is imported late
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = folder / "witness.pem"
    if not path.exists():
        write_private_key(path, Ed25519PrivateKey.from_private_bytes(draw(32)))
    return read_private_key(path)


def _parse(request: bytes) -> tuple[int, list[bytes], Note, Checkpoint]:
    """Read a request: the old size, the proof, and the checkpoint; ValueError."""
    before, separator, raw = request.partition(b"\n\n")
    if not separator or not before.isascii():
        raise ValueError("it is not an old size, a proof, an empty line, and a checkpoint")
    first, *lines = before.decode().split("\n")
    if not first.startswith("old "):
        raise ValueError("it does not begin with an old size")
    old = parse_number(first.removeprefix("old "))
    path = [decode_base64(line) for line in lines]
    if len(path) > PATH_DIGESTS_MAX or any(len(step) != 32 for step in path):
        raise ValueError(f"its proof is not at most {PATH_DIGESTS_MAX} hashes of 32 bytes each")
    note = parse_note(raw)
    return old, path, note, parse_checkpoint(note.text)


def serve(keeper: WitnessKeeper, host: str, port: int) -> ThreadingHTTPServer:
    """Give a server that answers for a witness once `serve_forever` is called. port: 0 for any."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS_MAX

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != PATH:
                self._answer(Answer(404, "post to /add-checkpoint\n"))
            elif not length.isascii() or not length.isdigit() or int(length) > REQUEST_BYTES_MAX:
                self.close_connection = True
                self._answer(Answer(400, f"say a length of at most {REQUEST_BYTES_MAX} bytes\n"))
            else:
                self._answer(_careful(keeper, self.rfile.read(int(length))))

        def _answer(self, answer: Answer) -> None:
            body = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request: what was cosigned stands in the folder."""

    return ThreadingHTTPServer((host, port), Handler)


def _careful(keeper: WitnessKeeper, request: bytes) -> Answer:
    try:
        return keeper.add_checkpoint(request)
    except EverlogError as error:
        return Answer(500, f"{error.message}\n")
