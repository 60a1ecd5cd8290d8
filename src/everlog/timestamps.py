"""Time stamps of seals (RFC 3161): the signed word of an authority that a seal was there at a time.

    KEYS/STORE-ID/timestamps/SIZE-HASH.tsr      what the authority answered; SIZE of the ledger, HASH: SHA-256 of the seal's note, hex

1. What is stamped is a seal's whole note, as it stands in `seals.txt`. HASH is all that a stamp is about:
   `openssl ts -verify -digest HASH -in FILE -CAfile CA` needs nothing else.
2. An answer that is no granted stamp of this note, with the nonce that was asked with, is not kept. Whose signature counts is for whoever
   checks to say: it is checked against certificates that they give.
3. A stamp that cannot be had spoils no seal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import msgspec

from everlog.audit import FAULTS_MAX, Fault, Report
from everlog.core.position import format_micros, to_micros
from everlog.errors import (
    EverlogError,
    InvalidEventError,
    NotFoundError,
    TamperedError,
    UnavailableError,
    UnsupportedStoreError,
)
from everlog.keyfiles import sync_folder, write_synced
from everlog.publishing import ANSWER_BYTES_MAX, ask
from everlog.seals import read_seals_files

FOLDER: Final = "timestamps"  # beside seals.txt
_QUERY_TYPE: Final = "application/timestamp-query"


class Stamper:
    """Has an authority stamp seals, and keeps the stamps. url: of the authority; folder: where seals.txt is."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder / FOLDER
        self._asked: Path | None = None

    @classmethod
    def parse(cls, url: str, folder: Path) -> Stamper:
        """Read the address of an authority; InvalidEventError where it is none, UnsupportedStoreError where the extra is not installed."""
        _client()
        if not url.startswith(("http://", "https://")):
            raise InvalidEventError(f"{url[:100]!r} is no address of an authority for time stamps; write https://…")
        return cls(url, folder)

    def stamp(self, note: bytes, size: int) -> None:
        """Have a seal stamped, where it is not yet; UnavailableError. Of one seal the authority is asked once."""
        path = self.folder / _file_name(note, size)
        if path == self._asked or path.exists():
            return
        self._asked = path
        answer = self._ask(note)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.folder.parent)
            write_synced(path, answer)
        except (OSError, UnavailableError) as error:
            raise UnavailableError(
                f"the time stamp cannot be kept as {path}; the seal is made without it; make room, or see who owns that folder"
            ) from error

    def _ask(self, note: bytes) -> bytes:
        client = _client()
        query = client.TimestampRequestBuilder(note, client.HashAlgorithm.SHA256).build()
        try:
            answer = ask(self.url, query.as_bytes(), content_type=_QUERY_TYPE)
            response = client.decode_timestamp_response(answer)
            if response.status != client.PKIStatus.GRANTED:
                raise ValueError(f"its status is {response.status}: {response.status_string}")
            said = response.tst_info
            if (said.nonce, said.message_imprint.message) != (query.nonce, sha256(note).digest()):
                raise ValueError("it is of something else than was asked for")
        except (OSError, ValueError, HTTPException) as error:
            raise UnavailableError(
                f"{self.url} gave no time stamp of the seal ({error}); the seal is made without it; see that authority"
            ) from error
        return answer


def check_stamp(stamp: bytes, note: bytes, authorities: Sequence[Any]) -> int:
    """Give the time of a stamp, microseconds since 1970 UTC; TamperedError where it is no good one of this seal under one of these certificates."""
    client = _client()
    try:
        response = client.decode_timestamp_response(stamp)
        client.VerifierBuilder(roots=list(authorities)).build().verify_message(response, note)
        return to_micros(response.tst_info.gen_time)
    except (ValueError, client.VerificationError) as error:
        raise TamperedError(f"it is no time stamp of that seal by an authority that is trusted ({error})") from error


def read_authorities(path: str | os.PathLike[str]) -> list[Any]:
    """Read the certificates of authorities that are trusted, as PEM; NotFoundError, UnavailableError, InvalidEventError."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(Path(path).read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"there is no file of certificates at {path}; nothing was checked; name another") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror}); nothing was checked") from error
    except ValueError as error:
        raise InvalidEventError(f"{path} holds no certificates as PEM ({error}); nothing was checked") from error


def check_stamps(report: Report, seals: Sequence[str | os.PathLike[str]], authorities: Sequence[Any]) -> Report:
    """Give a report with what was found of the stamps that lie beside files of seals: bad ones are faults, seals without one are counted."""
    faults: list[Fault] = []
    good = bad = missing = 0
    last = (0, 0)  # of the largest seal that has a good one: its size, and when it was there
    for path in map(Path, seals):
        for seal in read_seals_files([path]):
            note, size = seal.note.encode(), seal.head.size
            place = path.parent / FOLDER / _file_name(note, size)
            try:
                stamp = _read(place)
                if stamp is None:
                    missing += 1
                    continue
                last = max(last, (size, check_stamp(stamp, note, authorities)))
                good += 1
            except EverlogError as error:
                bad += 1
                if len(report.faults) + len(faults) < FAULTS_MAX:
                    faults.append(
                        Fault("", "", None, f"the time stamp {place} of a seal of {size} records: {error.message}")
                    )
    unchecked = f"{missing} seals have no time stamp beside them: when they were made, their signer alone says"
    return msgspec.structs.replace(
        report,
        ok=report.ok and not bad,
        faults=(*report.faults, *faults),
        fault_count=report.fault_count + bad,
        unchecked=(*report.unchecked, unchecked) if missing else report.unchecked,
        stamps=good,
        stamped=f"{last[0]} records at {format_micros(last[1])}" if good else None,
    )


def _file_name(note: bytes, size: int) -> str:
    return f"{size:016d}-{sha256(note).hexdigest()}.tsr"


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(ANSWER_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"it cannot be read ({error.strerror})") from error


def _client() -> Any:
    """Give the library, which is imported when the first stamp is asked for or checked."""
    try:
        import rfc3161_client
    except ModuleNotFoundError:
        raise UnsupportedStoreError(
            "for time stamps rfc3161-client is needed; nothing was done; install it: pip install 'everlog[timestamps]'"
        ) from None
    return rfc3161_client
