"""Ed25519 (RFC 8032): checking signatures, under keys that were looked at first.

`cryptography` is imported when the first signature is checked: it takes longer than all else that `import everlog` does.
"""

from __future__ import annotations

from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_FIELD: Final = 2**255 - 19
_SIGN_BIT: Final = 1 << 255
# y of the points of order 1, 2, 4 and 8: under such a key one signature fits many messages, and the library accepts it.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    }
)


def check_public_key(key: bytes) -> None:
    """Refuse what is no public key, or one under which a signature says nothing; ValueError."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a public key has {len(key)} bytes where Ed25519 has {KEY_BYTES}")
    y = int.from_bytes(key, "little") & (_SIGN_BIT - 1)
    if y >= _FIELD:
        raise ValueError("a public key is not in its one canonical form")
    if y in _SMALL_ORDER:
        raise ValueError("a public key is a point of small order, under which a signature fits many messages")


def is_signed(*, key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is that of a message under a public key. key: one that check_public_key took."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
