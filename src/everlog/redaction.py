"""What a store does about secrets: its key of marks, and a user's own rules.

1. The key of marks is the salt of one session's family, `redaction/marks`, which is made when the first secret is found: 32 random bytes
   that every store keeps anyway, that a copy of the store takes along, and that no bundle of another session holds.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from everlog.core.decide import Batch
from everlog.core.event import Event
from everlog.core.limits import RULES_BYTES_MAX
from everlog.core.redact import Finding, Mode, Redactor, check_mode, compile_rules
from everlog.core.secret_rules import SecretRule, drawn
from everlog.errors import InvalidQueryError, LimitError, NotFoundError, SessionExistsError
from everlog.making import new_session
from everlog.storage import Family, Storage
from everlog.writer import Settings

MARKS: Final = "redaction/marks"  # the id of the session whose salt is the key
TITLE: Final = "The key of the marks that stand for secrets"


class _OwnRule(msgspec.Struct, forbid_unknown_fields=True):
    """A rule as a file says it. entropy: bits a character that what was found must have at least."""

    id: str
    pattern: str
    entropy: float | None = None
    named: bool = False


class _OwnRules(msgspec.Struct, forbid_unknown_fields=True):
    rule: list[_OwnRule]


def redacting(storage: Storage, settings: Settings, mode: Mode) -> Settings:
    """Give settings under which a store redacts or refuses secrets, or does neither."""
    if check_mode(mode) == "off":
        return msgspec.structs.replace(settings, redactor=None)
    redactor = Redactor(compile_rules(settings.rules), mode, lambda: marks_key(storage, settings))
    return msgspec.structs.replace(settings, redactor=redactor)


def marks_key(storage: Storage, settings: Settings) -> bytes:
    """Give the store's key of marks, making the session that has it where it is not there."""
    try:
        return storage.session(MARKS).family.key_salt
    except NotFoundError:
        pass
    draw = settings.draw
    plain = msgspec.structs.replace(settings, redactor=None)
    with suppress(SessionExistsError):  # another process was first
        storage.write(
            new_session(
                plain,
                id=MARKS,
                title=TITLE,
                labels=None,
                metadata=None,
                family=Family(draw(16).hex(), draw(32)),
                base=None,
                forked_from=None,
                batch=Batch(()),
            )
        )
    return storage.session(MARKS).family.key_salt


def find_secrets(redactor: Redactor, event: Event) -> list[Finding]:
    """Give where a recorded event holds secrets, its attachments too; nothing where it is erased or withheld."""
    if event.raw is None:
        return []
    found = redactor.findings(event.data, "data") + redactor.findings(event.rationale, "rationale")
    found += redactor.findings(event.metadata, "metadata")
    for attachment in event.attachments:
        content = event.attachment(attachment.name)
        if b"\x00" not in content:
            found += redactor.findings(content, f"attachment {attachment.name!r}")
    return found


def read_rules(path: str | os.PathLike[str]) -> tuple[SecretRule, ...]:
    """Read one's own rules from a TOML or JSON file: a list `rule` of `{id, pattern, entropy?, named?}`.

    Raises NotFoundError, LimitError, InvalidQueryError.
    """
    import tomllib

    file = Path(path)
    try:
        if file.stat().st_size > RULES_BYTES_MAX:
            raise LimitError(
                f"{file} is larger than rules may be ({RULES_BYTES_MAX} bytes); no rule is in force; split it"
            )
        raw = file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"rules {file} cannot be read ({error.strerror}); no rule is in force") from None
    try:
        value: Any = msgspec.json.decode(raw) if file.suffix == ".json" else tomllib.loads(raw.decode())
        found = msgspec.convert(value, _OwnRules)
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidQueryError(
            f"{file} holds no rules: {error}; no rule is in force; write [[rule]] with id and pattern, and entropy or named where wanted"
        ) from None
    return tuple(
        SecretRule(each.id, each.pattern, None if each.entropy is None else drawn(each.entropy), each.named)
        for each in found.rule
    )
