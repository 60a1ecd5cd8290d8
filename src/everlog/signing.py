"""The keys that seal a store's ledger, and the one rule of whoever signs: what was signed last is never gone back on.

    KEYS/STORE-ID/config.json      which key seals, where its private part is, and what key gives way to it
                  ID.pem           a private key (PKCS#8), for its owner's eyes only
                  signed.json      the size and root signed last, per origin: written and synced before a signature is made
                  seals.txt        every seal, one after another (sealing.py)

1. A head is signed only if it extends the one that was signed last under its origin; that is proved first. The memory of it is a file
   beside the key and not in the store: whoever puts an older store in the place of a newer one cannot have it sealed.
2. One signs at a time: a lock in the folder.
3. A key that gives way to another signs that other, and both sign the seal that says so. After a revocation the ledger goes on under a
   new origin, so that nothing which the old key signs is taken for it.
4. A private key may be in another PKCS#8 file, or with a program: it is given the message, and answers with the signature.
"""

from __future__ import annotations

import os
import re
import subprocess
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from everlog.core.ed25519 import SIGNATURE_BYTES, check_public_key, is_signed
from everlog.core.event import Head
from everlog.core.ledger import KeyRecord, encode_record, rotation_message
from everlog.core.merkle import verify_consistency
from everlog.core.note import (
    ED25519,
    Checkpoint,
    Note,
    VerifierKey,
    check_key_name,
    decode_base64,
    parse_verifier_key,
    signature_of,
)
from everlog.core.prepare import Draw
from everlog.errors import InvalidEventError, NotFoundError, TamperedError, UnavailableError
from everlog.keyfiles import folder_lock, read_private_key, write_private_key, write_synced

COMMAND_SECONDS: Final = 60  # that a program may take to sign: a person may have to touch a token
Prove = Callable[[int, int], Sequence[bytes]]  # gives the consistency proof between two sizes of the ledger


class SigningKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key that signs. key: its verifier key. file: of its private part; command: else the words of the program that has it."""

    key: str
    file: str | None = None
    command: tuple[str, ...] = ()

    @property
    def verifier(self) -> VerifierKey:
        return parse_verifier_key(self.key)


class _Config(msgspec.Struct, frozen=True, omit_defaults=True):
    """current: seals. outgoing: signs too, until `record`, the ledger's record of the change, is sealed."""

    current: SigningKey
    outgoing: SigningKey | None = None
    record: str | None = None


class Keys:
    """The keys of one store's seals, in a folder. draw: gives random bytes; clock: microseconds since 1970 UTC."""

    def __init__(self, folder: Path, store_id: str, *, draw: Draw, clock: Callable[[], int]) -> None:
        self.folder = folder / store_id
        self._store_id = store_id
        self._draw = draw
        self._clock = clock

    # --- asking ---
    @property
    def exists(self) -> bool:
        """Whether there is a key."""
        return self._path("config.json").exists()

    @property
    def verifier(self) -> str:
        """The verifier key that seals are signed under, NAME+ID+KEY: give it to whoever is to check them. NotFoundError."""
        return self._read().current.key

    @property
    def origin(self) -> str:
        """The name under which the ledger is sealed: that of its key."""
        return self._read().current.verifier.name

    def record(self) -> KeyRecord | None:
        """Give the ledger's record of the last change of keys, while it is not sealed yet."""
        record = self._read().record
        return None if record is None else msgspec.json.decode(record, type=KeyRecord)

    # --- changing ---
    def new(
        self,
        *,
        origin: str | None = None,
        file: str | os.PathLike[str] | None = None,
        command: Sequence[str] = (),
        public_key: str | None = None,
    ) -> str:
        """Make the store's first key; give its verifier key.

        origin: the name that seals are made under, `everlog/STORE-ID` by default. file: a PKCS#8 file that holds the private key, made by
        others. command, public_key: a program that signs (message in, signature out, raw or base64), and the base64 of its public key.
        """
        with self._locked():
            if self.exists:
                raise InvalidEventError(
                    f"this store has a key already, {self.verifier}; nothing was changed; rotate it, or revoke it"
                )
            name = origin or f"everlog/{self._store_id}"
            made = self._make(name, file=file, command=command, public_key=public_key)
            record = KeyRecord(action="add", key=made.key, t=self._clock())
            self._write(_Config(made, record=encode_record(record).decode()))
        return made.key

    def rotate(
        self,
        *,
        file: str | os.PathLike[str] | None = None,
        command: Sequence[str] = (),
        public_key: str | None = None,
    ) -> str:
        """Have a new key go on in the place of the current one, which signs it; give its verifier key.

        Both sign the next seal, which holds the record of it; then the old private key, where it was made here, is removed.
        """
        with self._locked():
            config = self._settled()
            name = config.current.verifier.name
            made = self._make(name, file=file, command=command, public_key=public_key)
            signature = b64encode(self._sign(config.current, rotation_message(made.key))).decode()
            record = KeyRecord(
                action="rotate", key=made.key, previous=config.current.key, signature=signature, t=self._clock()
            )
            self._write(_Config(made, config.current, encode_record(record).decode()))
        return made.key

    def revoke(
        self,
        *,
        origin: str | None = None,
        file: str | os.PathLike[str] | None = None,
        command: Sequence[str] = (),
        public_key: str | None = None,
    ) -> str:
        """Put a new key in the place of one that is lost, or that others may have; give its verifier key. The old one, where it was made
        here, is removed.

        The ledger goes on under a new origin. Tell whoever checks seals, by another way, to trust this one instead.
        """
        with self._locked():
            config = self._read()
            old = config.current.verifier.name
            made = self._make(origin or _next_name(old), file=file, command=command, public_key=public_key)
            if made.verifier.name == old:
                raise InvalidEventError(f"{old!r} is the origin that is revoked; nothing was changed; choose another")
            record = KeyRecord(action="revoke", key=made.key, previous=config.current.key, t=self._clock())
            self._write(_Config(made, record=encode_record(record).decode()))
            self._remove(config.current)
        return made.key

    def settle(self, record: KeyRecord) -> None:
        """Note that the record of the last change is sealed: a key that gave way is needed no more."""
        with self._locked():
            config = self._read()
            if config.record != encode_record(record).decode():
                return
            self._write(_Config(config.current))
            if config.outgoing is not None:
                self._remove(config.outgoing)

    def _remove(self, key: SigningKey) -> None:
        """Remove a private key that is needed no more, where it was made here."""
        if key.file is not None and Path(key.file).parent == self.folder.resolve():
            Path(key.file).unlink(missing_ok=True)

    def _settled(self) -> _Config:
        config = self._read()
        if config.outgoing is not None:
            raise InvalidEventError(
                "the last rotation of keys is not sealed yet; nothing was changed; seal first: `everlog seal`"
            )
        return config

    def _make(
        self,
        name: str,
        *,
        file: str | os.PathLike[str] | None,
        command: Sequence[str],
        public_key: str | None,
    ) -> SigningKey:
        try:
            check_key_name(name)
            if command:
                key = decode_base64(public_key or "")
                check_public_key(key)
                return SigningKey(str(VerifierKey(name, ED25519, key)), None, tuple(command))
        except ValueError as error:
            raise InvalidEventError(f"this makes no key: {error}; nothing was changed; give another") from error
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if file is not None:
            path = Path(file).resolve()
            private = read_private_key(path)
        else:
            private = Ed25519PrivateKey.from_private_bytes(self._draw(32))
            path = self._path(f"{VerifierKey(name, ED25519, private.public_key().public_bytes_raw()).id.hex()}.pem")
            write_private_key(path, private)
        return SigningKey(str(VerifierKey(name, ED25519, private.public_key().public_bytes_raw())), str(path.resolve()))

    # --- signing ---
    def sign(self, read_head: Callable[[], Head], prove: Prove) -> tuple[Checkpoint, Note]:
        """Sign the ledger's head, where it extends the one that was signed last; TamperedError where it does not.

        read_head: reads it, once it is this one's turn: another may have signed a later one meanwhile.
        """
        with self._locked():
            config = self._read()
            checkpoint = Checkpoint(config.current.verifier.name, read_head())
            self._check_extends(config, checkpoint, prove)
            write_synced(self._path("signed.json"), msgspec.json.encode(checkpoint))
            text = str(checkpoint)
            signers = [each for each in (config.current, config.outgoing) if each is not None]
            lines = tuple(signature_of(key.verifier, self._sign(key, text.encode())) for key in signers)
            return checkpoint, Note(text, lines)

    def was_last(self, origin: str, head: Head) -> bool:
        """Tell whether a head is the one that was signed last."""
        return self._last_signed(self._read()) == Checkpoint(origin, head)

    def _check_extends(self, config: _Config, checkpoint: Checkpoint, prove: Prove) -> None:
        last = self._last_signed(config)
        if last is None or last.origin != checkpoint.origin or last.head.size == 0:
            return
        old, new = last.head, checkpoint.head
        path = prove(old.size, new.size) if old.size <= new.size else ()
        extends = verify_consistency(
            old_size=old.size,
            old_root=bytes.fromhex(old.root),
            size=new.size,
            root=bytes.fromhex(new.root),
            proof=path,
        )
        if not extends:
            raise TamperedError(
                f"the ledger, {new}, does not extend {old}, which was sealed last under {checkpoint.origin!r}: the store was changed, or an "
                "earlier one put in its place; nothing was signed; compare it with the seals in "
                f"{self._path('seals.txt')}, and where an earlier state is meant, begin a new origin: `everlog keys revoke`"
            )

    def _last_signed(self, config: _Config) -> Checkpoint | None:
        """Give what was signed last; None where nothing can have been yet: under a first key, or a new origin."""
        path = self._path("signed.json")
        record = None if config.record is None else msgspec.json.decode(config.record, type=KeyRecord)
        new = record is not None and (record.action != "rotate" or not self._path("seals.txt").exists())
        if new and not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
        except (OSError, msgspec.MsgspecError) as error:
            raise UnavailableError(
                f"{self._path('signed.json')} cannot be read ({error}); nothing was signed; what was signed last is not known without it: "
                "bring it back, or begin a new origin: `everlog keys revoke`"
            ) from error

    def _sign(self, key: SigningKey, message: bytes) -> bytes:
        signature = _ask(key.command, message) if key.command else read_private_key(Path(key.file or "")).sign(message)
        if not is_signed(key=key.verifier.key, message=message, signature=signature):
            raise UnavailableError(
                f"what signs for {key.verifier.name!r} gave no signature of the key {key.key}; nothing was sealed; see that it is that key's"
            )
        return signature

    # --- files ---
    def _path(self, name: str) -> Path:
        return self.folder / name

    def _read(self) -> _Config:
        try:
            return msgspec.json.decode(self._path("config.json").read_bytes(), type=_Config)
        except FileNotFoundError:
            raise NotFoundError(
                f"there is no key for this store in {self.folder}; make one: `everlog keys new`"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise UnavailableError(
                f"{self._path('config.json')} cannot be read ({error}); nothing was done; bring it back from where it is kept"
            ) from error

    def _write(self, config: _Config) -> None:
        write_synced(self._path("config.json"), msgspec.json.format(msgspec.json.encode(config), indent=1))

    def _locked(self) -> AbstractContextManager[bool]:
        return folder_lock(self.folder)


def _next_name(name: str) -> str:
    """Give the name after a revocation: with a number behind it, from 2 on."""
    numbered = re.fullmatch(r"(.*)/([1-9][0-9]{0,3})", name)
    return f"{name}/2" if numbered is None else f"{numbered[1]}/{int(numbered[2]) + 1}"


def _ask(command: Sequence[str], message: bytes) -> bytes:
    """Have a program sign: the message on its standard input, the signature on its standard output, raw or base64."""
    try:
        ran = subprocess.run(command, input=message, capture_output=True, timeout=COMMAND_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            f"the program that signs, {command[0]}, did not ({error}); nothing was sealed; see that it runs, and seal again"
        ) from error
    if len(ran.stdout) == SIGNATURE_BYTES:
        return ran.stdout
    try:
        return decode_base64(ran.stdout.decode().strip())
    except ValueError:
        return b""
