"""Signed notes, as C2SP has them: notes (signed-note), checkpoints (tlog-checkpoint), cosignatures (tlog-cosignature).

1. A note is text that ends with a newline, an empty line, and lines `— NAME BASE64(key id ‖ signature)`. What does not have exactly
   this form is refused.
2. A signature counts under a key that the reader pinned, known by its name and id together; others are passed over. A pinned key
   with a bad signature rejects the whole note, and so does a note that no pinned key signed.
3. A checkpoint is the text `origin ⏎ size ⏎ base64(root) ⏎`, without extension lines: what nobody can audit is not signed.
4. A cosignature is a witness's: a time, and a signature over that time and the text.
5. Base64 is taken in its one canonical form, so that no two texts say the same.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from everlog.core.ed25519 import SIGNATURE_BYTES, check_public_key, is_signed
from everlog.core.event import Head
from everlog.core.limits import KEY_NAME_CHARACTERS_MAX, NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX, SAFE_INTEGER_MAX
from everlog.core.merkle import DIGEST_BYTES, EMPTY_ROOT
from everlog.errors import TamperedError

ED25519: Final = 1  # signature types of signed-note
COSIGNATURE: Final = 4
_TIME_BYTES: Final = 8
_SECONDS_MAX: Final = 2**63 - 1
_DASH: Final = "\u2014 "
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key with its name, as a reader pins it. kind: ED25519, or COSIGNATURE of a witness. key: 32 bytes."""

    name: str
    kind: int
    key: bytes

    @property
    def id(self) -> bytes:
        """The first 4 bytes of a hash over name, kind and key: they find the key, and prove nothing."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.kind]) + self.key).decode()}"


class Signature(msgspec.Struct, frozen=True):
    """A line of a note. id: 4 bytes of the key. content: what the key's kind says."""

    name: str
    id: bytes
    content: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {b64encode(self.id + self.content).decode()}\n"


class Note(msgspec.Struct, frozen=True):
    """A note, not checked against any key yet. text: with its last newline."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"


class Checkpoint(msgspec.Struct, frozen=True):
    """What a log signs: its origin, and its head."""

    origin: str
    head: Head

    def __str__(self) -> str:
        return f"{self.origin}\n{self.head.size}\n{b64encode(bytes.fromhex(self.head.root)).decode()}\n"


class Opened(msgspec.Struct, frozen=True):
    """A note whose signatures were checked. signers: the pinned keys that signed it; times: seconds since 1970 of cosignatures."""

    text: str
    signers: tuple[VerifierKey, ...]
    times: dict[str, int]


# --- keys ----------------------------------------------------------------------------------------
def check_key_name(name: str) -> str:
    """Refuse what cannot be a key's name, or the origin of a log; ValueError."""
    unusual = "+" in name or not name.isprintable() or any(character.isspace() for character in name)
    if not 1 <= len(name) <= KEY_NAME_CHARACTERS_MAX or unusual:
        raise ValueError(
            f"{name[:100]!r} is not 1 to {KEY_NAME_CHARACTERS_MAX} printable characters without spaces and plus signs"
        )
    return name


def parse_verifier_key(text: str) -> VerifierKey:
    """Read NAME+ID+KEY, as `str(key)` gave it; ValueError."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise ValueError(f"{text[:100]!r} is no verifier key: it is NAME+ID+KEY")
    encoded = decode_base64(parts[2])
    key = VerifierKey(check_key_name(parts[0]), encoded[0] if encoded else 0, encoded[1:])
    if key.kind not in (ED25519, COSIGNATURE):
        raise ValueError(f"a verifier key of {key.name!r} is of another kind than Ed25519")
    check_public_key(key.key)
    if parts[1] != key.id.hex():
        raise ValueError(f"a verifier key of {key.name!r} has an id that is not its own")
    return key


# --- notes ---------------------------------------------------------------------------------------
def parse_note(raw: bytes) -> Note:
    """Read a note's bytes; ValueError where they are not exactly of the form."""
    if len(raw) > NOTE_BYTES_MAX:
        raise ValueError(f"a note has {len(raw)} bytes where at most {NOTE_BYTES_MAX} are read")
    try:
        whole = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("a note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in whole):
        raise ValueError("a note holds a control character")
    before, separator, lines = whole.rpartition("\n\n")
    if not separator or not before or not lines.endswith("\n"):
        raise ValueError("a note is not text, an empty line, and lines of signatures")
    signatures = tuple(_parse_signature(line) for line in lines[:-1].split("\n"))
    if len(signatures) > NOTE_SIGNATURES_MAX:
        raise ValueError(f"a note has {len(signatures)} signatures where at most {NOTE_SIGNATURES_MAX} are read")
    return Note(before + "\n", signatures)


def parse_signatures(raw: bytes) -> tuple[Signature, ...]:
    """Read lines of signatures, as a witness answers with them; ValueError."""
    note = parse_note(b"-\n\n" + raw)
    if note.text != "-\n":
        raise ValueError("there is an empty line between signatures")
    return note.signatures


def _parse_signature(line: str) -> Signature:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    content = decode_base64(encoded)
    if not line.startswith(_DASH) or not separator or len(content) <= 4:
        raise ValueError(f"{line[:80]!r} is not the line of a signature")
    return Signature(check_key_name(name), content[:4], content[4:])


def open_note(note: Note, keys: Sequence[VerifierKey]) -> Opened:
    """Check a note against pinned keys; TamperedError where one of them has a bad signature on it, or none has any."""
    pinned = {(key.name, key.id): key for key in keys}
    signers: list[VerifierKey] = []
    times: dict[str, int] = {}
    for signature in note.signatures:
        key = pinned.get((signature.name, signature.id))
        if key is None:
            continue
        content, message = signature.content, note.text.encode()
        if key.kind == COSIGNATURE:
            seconds = int.from_bytes(content[:_TIME_BYTES], "big")
            content, message = content[_TIME_BYTES:], cosigned_message(note.text, seconds)
            times[key.name] = seconds
        late = times.get(key.name, 0) > _SECONDS_MAX
        if late or len(content) != SIGNATURE_BYTES or not is_signed(key=key.key, message=message, signature=content):
            raise TamperedError(
                f"a signature of {key.name!r} is not that key's over this note; believe nothing in it; get it again from where it was made"
            )
        if key not in signers:
            signers.append(key)
    if not signers:
        raise TamperedError(
            "no key that is pinned has signed this note; believe nothing in it; pin the key of who made it, or get it from there again"
        )
    return Opened(note.text, tuple(signers), times)


def cosigned_message(text: str, seconds: int) -> bytes:
    """Give what a witness signs: a time, seconds since 1970, and the text of a checkpoint."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def signature_of(key: VerifierKey, signature: bytes, *, seconds: int = 0) -> Signature:
    """Give the line of a signature. signature: 64 bytes; seconds: of a cosignature, since 1970."""
    time = seconds.to_bytes(_TIME_BYTES, "big") if key.kind == COSIGNATURE else b""
    return Signature(key.name, key.id, time + signature)


# --- checkpoints ---------------------------------------------------------------------------------
def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint; ValueError where it is not exactly of the form, or has extension lines."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise ValueError("a checkpoint is not three lines: origin, size, root")
    size = parse_number(lines[1])
    root = decode_base64(lines[2])
    if len(root) != DIGEST_BYTES or (size == 0 and root != EMPTY_ROOT):
        raise ValueError("a checkpoint's root is not that of a tree of its size")
    return Checkpoint(lines[0], Head(size, root.hex()))


def open_checkpoint(
    raw: bytes, *, origin: str, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey] = (), quorum: int = 0
) -> tuple[Checkpoint, Opened]:
    """Check a signed checkpoint of a log whose origin and keys are pinned, cosigned by at least `quorum` of the witnesses.

    TamperedError where anything is not as it must be.
    """
    try:
        note = parse_note(raw)
        checkpoint = parse_checkpoint(note.text)
    except ValueError as error:
        raise TamperedError(f"this is no signed checkpoint: {error}; get it again from where it was made") from error
    if checkpoint.origin != origin:
        raise TamperedError(
            f"this checkpoint is of the log {checkpoint.origin[:100]!r} where {origin!r} is pinned; it says nothing of that one"
        )
    opened = open_note(note, [*keys, *witnesses])
    if not any(key in opened.signers for key in keys):
        raise TamperedError(
            f"this checkpoint is cosigned, but the key of its log {origin!r} has not signed it; it says nothing; get it again"
        )
    seen = sum(witness in opened.signers for witness in witnesses)
    if seen < quorum:
        raise TamperedError(
            f"{seen} of the witnesses that are pinned have cosigned this checkpoint where {quorum} must have; it may be shown to you "
            "alone; get one that they have seen"
        )
    return checkpoint, opened


# --- pieces --------------------------------------------------------------------------------------
def decode_base64(text: str) -> bytes:
    """Read standard base64 in its one canonical form; ValueError."""
    try:
        content = b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not base64") from None
    if b64encode(content).decode() != text:  # other last bits would give the same bytes
        raise ValueError(f"{text[:80]!r} is not base64 in its canonical form")
    return content


def parse_number(text: str) -> int:
    """Read a decimal number without leading zeros, at most SAFE_INTEGER_MAX; ValueError."""
    if _NUMBER.fullmatch(text) is None or int(text) > SAFE_INTEGER_MAX:
        raise ValueError(f"{text[:40]!r} is not a number without leading zeros")
    return int(text)
