"""Envelopes: a body or an attachment with its salt, encrypted with AES-256-GCM under a key of its event's own, which is kept wrapped.

1. An event has one data key, drawn when its body is first sealed, and kept as long as the body: it is destroyed with it, and wherever
   the envelope still lies, in a row, a block, an archive or a backup, it says nothing any more.
2. The salt is inside: with a commitment and its salt a short body could be guessed.
3. An envelope opens only as what it was made for: the event's leaf and the attachment's number are authenticated with it.
4. Long bodies are compressed first, since nothing can do it afterwards.
5. Every nonce is 96 random bits. A data key seals at most seventeen times; a wrapping key is good for 2^32 bodies.
"""

from __future__ import annotations

import hmac
import sys
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from everlog.core.header import SALT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd  # pyright: ignore[reportMissingImports]
else:
    from backports import zstd

Packer = zstd.ZstdCompressor

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
ID_BYTES: Final = 16  # of what a wrapping key is known by
_TAG_BYTES: Final = 16
_AS_IT_IS: Final = b"\x00evlog\x01\x00"  # no JSON begins so
_COMPRESSED: Final = b"\x00evlog\x01\x01"
_MAGIC_BYTES: Final = len(_AS_IT_IS)
_WRAPPED: Final = b"everlog/1/data-key"
_ID: Final = b"everlog/1/wrapping-key"
_COMPRESSED_BYTES_MIN: Final = 2_048  # below, decompressing takes three times as long as decrypting (measured)
_GAIN: Final = 0.9  # of what was long, at which the compressed one is taken
_LEVEL: Final = 3
NO_SALT: Final = bytes(SALT_BYTES)  # beside an envelope in a block, where a body's salt stands
BODY: Final = -1  # the number of what is no attachment


class WrappedKey(msgspec.Struct, frozen=True):
    """A data key as it is kept. wrapping: id of the key that it is wrapped with."""

    wrapping: bytes
    wrapped: bytes


class WrappingKey:
    """A key that data keys are wrapped with, which no store holds. id: 16 bytes made from it, that tell nothing of it."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES, "whoever read the key has checked its length"
        self.id = hmac.digest(key, _ID, sha256)[:ID_BYTES]
        self._key = key

    def __repr__(self) -> str:
        return f"<WrappingKey {self.id.hex()}>"

    @cached_property
    def _cipher(self) -> AESGCM:
        return _cipher(self._key)

    def wrap(self, key: bytes, nonce: bytes) -> WrappedKey:
        """Wrap a data key."""
        return WrappedKey(self.id, nonce + self._cipher.encrypt(nonce, key, _WRAPPED))

    def unwrap(self, wrapped: bytes) -> bytes:
        """Give the data key. ValueError where it is not what was wrapped."""
        return _decrypted(self._cipher, wrapped, _WRAPPED)


class DataKey:
    """The key of one event's body and attachments. leaf: of the event."""

    def __init__(self, key: bytes, leaf: bytes) -> None:
        self._cipher = _cipher(key)
        self._leaf = leaf

    def seal(self, plain: bytes, salt: bytes, nonce: bytes, number: int = BODY, packer: Packer | None = None) -> bytes:
        """Make an envelope of a body, or of the attachment of a number. nonce: drawn for it alone.

        packer: what `make_packer` gave, of this thread: to make one takes longer than to use it.
        """
        assert len(salt) == SALT_BYTES, "salts were checked when the body was made or taken in"
        magic, content = _AS_IT_IS, plain
        if len(plain) >= _COMPRESSED_BYTES_MIN:
            packed = (packer or make_packer()).compress(plain, mode=zstd.ZstdCompressor.FLUSH_FRAME)
            if len(packed) <= _GAIN * len(plain):
                magic, content = _COMPRESSED, packed
        return magic + nonce + self._cipher.encrypt(nonce, salt + content, self._about(magic, number))

    def open(self, envelope: bytes, number: int = BODY) -> tuple[bytes, bytes]:
        """Give what is in an envelope, and its salt. ValueError where it is not what was sealed, or was sealed for another place."""
        magic = envelope[:_MAGIC_BYTES]
        found = _decrypted(self._cipher, envelope[_MAGIC_BYTES:], self._about(magic, number))
        salt, content = found[:SALT_BYTES], found[SALT_BYTES:]
        return (zstd.ZstdDecompressor().decompress(content) if magic == _COMPRESSED else content), salt

    def _about(self, magic: bytes, number: int) -> bytes:
        return magic + number.to_bytes(2, "big", signed=True) + self._leaf


def make_packer() -> Packer:
    """Make what long bodies are compressed with. Not for two threads at once."""
    return zstd.ZstdCompressor(_LEVEL)


def is_sealed(content: bytes | None) -> bool:
    """Tell whether what stands in a body's or attachment's place is an envelope."""
    # A damaged row may give a text or a number. The first byte tells most bodies apart: this is asked of every event that is read.
    return type(content) is bytes and content[:1] == b"\x00" and content.startswith((_AS_IT_IS, _COMPRESSED))


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # it takes long to import

    return AESGCM(key)


def _decrypted(cipher: AESGCM, content: bytes, about: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    if len(content) < NONCE_BYTES + _TAG_BYTES:
        raise ValueError(f"{len(content)} bytes are too few for what is encrypted")
    try:
        return cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], about)
    except InvalidTag:
        raise ValueError("it is not what was encrypted, or stands in the place of something else") from None
