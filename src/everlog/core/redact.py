"""Redaction: secrets are taken out of an event before it is encoded, hashed and written.

1. What is scanned: every string in data, rationale and metadata, and names of members; attachments that are text, which is: without
   a NUL. What names a thing (key, actor, type, names of attachments, labels, ids) is refused where it holds a secret, since a mark
   would name another thing.
2. A secret becomes `[redacted:RULE:xxxxxxxx]`, the last part being of its HMAC under a key of the store: equal secrets have equal
   marks, and without the store nobody can try out guesses. A mark is never redacted again.
3. No secret stands in an error, nor what can be made of it without that key.
4. One pass over all strings of an event at once tells which rules may apply; nearly always none does, and nothing more is done.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from everlog.core import limits
from everlog.core.event import NewEvent
from everlog.core.secret_rules import RULES, SecretRule
from everlog.core.values import pointer_token, too_deep
from everlog.errors import InvalidEventError, InvalidQueryError, LimitError, SecretError, UnsupportedStoreError

Mode = Literal["redact", "reject", "off"]
MODES: Final = ("redact", "reject", "off")
MEMBER: Final = "redacted"  # of metadata: which rules fired, how often each

_MARK: Final = re.compile(r"\[redacted:[a-z][a-z0-9-]{0,63}:[0-9a-f]{8}\]")
_MARK_BYTES: Final = re.compile(_MARK.pattern.encode())
_RULE_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
# A pattern with an anchor, but for the one that ends a token, says something else of many strings put together.
_CLASSES: Final = re.compile(r"\[(?:\\.|[^\]\\])*\]|\|\$\)")
_ANCHORS: Final = re.compile(r"[\^$]|\\[Az]")
_SET_BYTES: Final = 64 << 20  # of memory for the automaton of all rules; they take 9 MiB of it
_PROBE: Final = (
    "everlog finds this where it finds anything"  # past its memory RE2 finds nothing, and says so only in its log
)
_NAME_BYTES_MAX: Final = 256  # of a member's name that is looked at together with its value


class Finding(msgspec.Struct, frozen=True):
    """A place that holds a secret. path: what holds it, and where in that, as a JSON Pointer. start, stop: characters of the string."""

    rule: str
    path: str
    start: int
    stop: int


class Rules:
    """Rules, compiled. Safe to use from any thread."""

    def __init__(self, rules: Sequence[SecretRule]) -> None:
        import re2  # pyright: ignore[reportMissingTypeStubs]  # 8 ms, which only those pay who redact

        options = re2.Options()
        options.log_errors = False
        options.max_mem = _SET_BYTES
        together = re2.Set.SearchSet(options)
        self.rules = tuple(rules)
        self._patterns: list[Any] = []
        self._together: list[int] = []  # indices of rules, by their place in the set
        self._apart: list[int] = []
        for index, rule in enumerate(rules):
            pattern = _compiled(re2, rule, options)
            self._patterns.append(pattern)
            if _ANCHORS.search(_CLASSES.sub("", rule.pattern)) is None:
                together.Add(rule.pattern)
                self._together.append(index)
            else:
                self._apart.append(index)
        together.Add(_PROBE)
        try:
            together.Compile()
            good = together.Match(_PROBE.encode()) is not None
        except re2.error:
            good = False
        if not good:
            raise LimitError(
                f"{len(rules)} rules take more memory together than {_SET_BYTES >> 20} MiB; no rule is in force; leave out repetitions with "
                "large counts"
            )
        self._set = together

    def may_apply(self, text: bytes) -> list[int]:
        """Give the rules, by index, that may find something in a text, or in the strings that it was put together from."""
        found: Sequence[int] = self._set.Match(text) or ()
        if not found and not self._apart:
            return []
        return sorted([self._together[place] for place in found if place < len(self._together)] + self._apart)

    def spans(self, text: bytes, among: Sequence[int], name: bytes = b"") -> list[tuple[int, int, SecretRule]]:
        """Give where secrets stand in a string, in order, none over another. name: of the member that the string is."""
        found: list[tuple[int, int, SecretRule]] = []
        taken = [mark.span() for mark in _MARK_BYTES.finditer(text)] if b"[redacted:" in text else []
        for index in among:
            rule = self.rules[index]
            new = list(_between(taken, self._matches(rule, self._patterns[index], text, name)))
            found += [(start, stop, rule) for start, stop in new]
            taken = sorted(taken + new)
        return sorted(found, key=lambda span: span[0])

    def _matches(self, rule: SecretRule, pattern: Any, text: bytes, name: bytes) -> Iterator[tuple[int, int]]:
        before = len(name) + 1 if rule.named and name else 0
        for match in pattern.finditer(name + b"\x00" + text if before else text):
            group = next((each for each in range(1, pattern.groups + 1) if match.start(each) >= 0), 0)
            start, stop = match.start(group) - before, match.end(group) - before
            if start < 0 or start == stop:
                continue
            secret = text[start:stop]
            if rule.check is None or rule.check(secret.decode("utf-8", "replace")):
                yield start, stop


def _between(taken: Sequence[tuple[int, int]], spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Give the spans that lie over none that is taken; both in order."""
    place = 0
    for start, stop in spans:
        while place < len(taken) and taken[place][1] <= start:
            place += 1
        if place == len(taken) or stop <= taken[place][0]:
            yield start, stop


def _compiled(re2: Any, rule: SecretRule, options: Any) -> Any:
    if not isinstance(rule.id, str) or _RULE_ID.fullmatch(rule.id) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidQueryError(
            f"rule id {rule.id!r:.100} is not of the form [a-z][a-z0-9-]*, at most 64 characters; no rule is in force; rename it"
        )
    if not isinstance(rule.pattern, str) or len(rule.pattern) > limits.RULE_CHARACTERS_MAX:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimitError(
            f"the pattern of rule {rule.id!r} is no string of at most {limits.RULE_CHARACTERS_MAX} characters; no rule is in force; "
            "split it into several rules"
        )
    try:
        pattern = re2.compile(rule.pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else error
        raise InvalidQueryError(
            f"the pattern of rule {rule.id!r} is none that RE2 takes: {said!s:.300}; no rule is in force; correct it (RE2 has neither "
            "look-around nor references back)"
        ) from None
    if pattern.search(b"") is not None:
        raise InvalidQueryError(
            f"the pattern of rule {rule.id!r} also finds nothing at all, which is everywhere; no rule is in force; have it ask for "
            "at least one character"
        )
    return pattern


@lru_cache(maxsize=8)
def _compile(rules: tuple[SecretRule, ...]) -> Rules:
    return Rules(rules)


def compile_rules(own: Sequence[SecretRule] = ()) -> Rules:
    """Give the standard rules, and one's own before them. Raises InvalidQueryError, LimitError."""
    if len(own) > limits.RULES_MAX:
        raise LimitError(f"{len(own)} rules where {limits.RULES_MAX} is the most; no rule is in force; join some")
    wrong = next((rule for rule in own if not isinstance(rule, SecretRule)), None)  # pyright: ignore[reportUnnecessaryIsInstance]
    if wrong is not None:
        raise InvalidQueryError(f"{wrong!r:.100} is no SecretRule; no rule is in force; give SecretRule(id, pattern)")
    ids = [rule.id for rule in (*own, *RULES)]
    double = next((each for each in ids if ids.count(each) > 1), None)
    if double is not None:
        raise InvalidQueryError(f"two rules are called {double!r}; no rule is in force; rename one")
    return _compile((*own, *RULES))


def check_mode(mode: str) -> Mode:
    """Give a mode, or refuse what is none."""
    if mode not in MODES:
        raise UnsupportedStoreError(f"redact {mode!r:.50} is none of {' '.join(MODES)}; nothing was opened; choose one")
    return mode


class Redactor:
    """What a store does about secrets. key: gives the store's key of marks, when the first is needed."""

    def __init__(self, rules: Rules, mode: Mode, key: Callable[[], bytes]) -> None:
        self.rules = rules
        self.mode = mode
        self._give_key = key
        self._key: bytes | None = None

    def get_ready(self) -> bytes:
        """Fetch the key, so that no mark will read or write the store. Give it."""
        if self._key is None:
            self._key = self._give_key()
        return self._key

    # --- events ---
    def event(self, new: NewEvent) -> NewEvent:
        """Give an event without secrets: the same one where there are none. Raises SecretError."""
        if type(new) is not NewEvent:
            return new  # refused for what it is
        texts: list[str] = [
            name for name in (new.type, new.actor, new.outcome, new.key, new.caused_by) if isinstance(name, str)
        ]
        attachments = new.attachments  # what is no mapping is refused later
        given = attachments if attachments and isinstance(attachments, Mapping) else {}
        for value in (given, new.data, new.rationale, new.metadata):
            if value is not None:
                _collect(value, texts, 0)
        among = self.rules.may_apply(_encoded("\x00".join(texts)))
        readable = self._readable(given)
        if not among and not readable:
            return new
        for what in ("type", "actor", "outcome", "key", "caused_by"):
            self.refuse(getattr(new, what), what, among)
        for name in given:
            self.refuse(name, "the name of an attachment", among)
        scan = _Scan(self, among, keyed=self.mode == "redact")
        data = scan.value(new.data, "data")
        rationale = scan.value(new.rationale, "rationale")
        metadata = scan.value(new.metadata, "metadata")
        attached = {name: scan.content(content, f"attachment {name!r}") for name, content in readable.items()}
        if not scan.found:
            return new
        self._refuse_found(scan.found)
        return replace(
            new,
            data=data,
            rationale=rationale,
            metadata=_recorded(metadata, scan.found),
            attachments={**given, **attached} if given else attachments,
        )

    def _readable(self, attachments: Mapping[Any, Any]) -> dict[str, bytes]:
        """Give the attachments that are text, in whatever ASCII-like encoding, and that a rule may apply to."""
        texts: dict[str, bytes] = {}
        for name, content in attachments.items():
            if isinstance(name, str) and isinstance(content, (bytes, bytearray, memoryview)):
                copied = bytes(content)
                if b"\x00" not in copied and self.rules.may_apply(copied):
                    texts[name] = copied
        return texts

    # --- single values ---
    def value(self, value: Any, what: str) -> Any:
        """Give a value without secrets. what: it is called in errors. Raises SecretError where secrets are refused."""
        scan = self._scan(value, keyed=self.mode == "redact")
        if scan is None:
            return value
        clean = scan.value(value, what)
        self._refuse_found(scan.found)
        return clean

    def marked(self, value: Any) -> Any:
        """Give a value with marks for its secrets, also where events that hold some are refused: for what is said, and compared."""
        scan = self._scan(value, keyed=True)
        if scan is None:
            return value
        return scan.content(value, "") if isinstance(value, bytes) else scan.value(value, "")

    def findings(self, value: Any, what: str) -> list[Finding]:
        """Give where a value holds secrets."""
        scan = self._scan(value, keyed=False)
        if scan is None:
            return []
        _ = scan.content(value, what) if isinstance(value, bytes) else scan.value(value, what)
        return scan.found

    def refuse(self, name: object, what: str, among: Sequence[int] | None = None) -> None:
        """Refuse what names a thing, and holds a secret. Raises SecretError in either mode."""
        if not isinstance(name, str):
            return
        text = _encoded(name)
        hits = self.rules.may_apply(text) if among is None else among
        found = [span for span in self.rules.spans(text, hits) if not span[2].named] if hits else []
        if found:
            findings = [
                Finding(rule.id, what, at := _characters(text[:start]), at + _characters(text[start:stop]))
                for start, stop, rule in found
            ]
            raise SecretError(
                f"{what} holds what rule {found[0][2].id!r} takes for a secret (characters {findings[0].start} to {findings[0].stop}); "
                "nothing was written; it names something, so it is not redacted: choose another",
                findings=tuple(findings),
            )

    def hidden(self, text: str) -> str:
        """Give 32 hex digits that stand for a text, and say nothing of it to whoever has not the store."""
        return self._hmac(_encoded(text))[:32]

    def mark(self, rule: str, secret: bytes) -> bytes:
        """Give what stands in a secret's place."""
        return f"[redacted:{rule}:{self._hmac(secret)[:8]}]".encode()

    def _hmac(self, content: bytes) -> str:
        return hmac.digest(self.get_ready(), b"everlog/1/mark\x00" + content, "sha256").hex()

    def _scan(self, value: Any, *, keyed: bool) -> _Scan | None:
        texts: list[str] = []
        _collect(value, texts, 0)
        among = self.rules.may_apply(value if isinstance(value, bytes) else _encoded("\x00".join(texts)))
        return _Scan(self, among, keyed=keyed) if among else None

    def _refuse_found(self, found: Sequence[Finding]) -> None:
        if self.mode == "reject" and found:
            first = found[0]
            more = "" if len(found) == 1 else f", and {len(found) - 1} more places"
            raise SecretError(
                f"{first.path} holds what rule {first.rule!r} takes for a secret (characters {first.start} to {first.stop}){more}; "
                "nothing was written; leave it out, or open the store with redact='redact'",
                findings=tuple(found),
            )


class _Scan:
    """One walk through values, in which secrets become marks. found: where they stood.

    keyed: False where the marks are not kept, so that the store's key is not asked for.
    """

    def __init__(self, redactor: Redactor, among: Sequence[int], *, keyed: bool) -> None:
        self._rules = redactor.rules
        self._mark = redactor.mark if keyed else _unkeyed_mark
        self._among = among
        self.found: list[Finding] = []

    def value(self, value: Any, path: str, name: str = "", depth: int = 0) -> Any:
        """Give a value without secrets: the same object where it has none."""
        if isinstance(value, str):
            text = _encoded(value)
            clean = self._clean(text, path, self._among, _encoded(name[:_NAME_BYTES_MAX]))
            return value if clean is text else clean.decode("utf-8", "surrogatepass")
        if isinstance(value, Mapping):
            _check_depth(depth, path)
            members: dict[Any, Any] = {}
            for key, member in value.items():
                shown = self.value(key, f"{path} (a name)") if isinstance(key, str) else key
                while shown in members:
                    shown += "'"  # two members, whatever becomes of their names
                below = f"{path}/{pointer_token(shown)}" if isinstance(shown, str) else path
                members[shown] = self.value(member, below, key if isinstance(key, str) else "", depth + 1)
            same = all(one is other for one, other in zip(members.values(), value.values(), strict=True))
            return value if same and members.keys() == value.keys() else members
        if isinstance(value, (list, tuple)):
            _check_depth(depth, path)
            items = [self.value(item, f"{path}/{index}", name, depth + 1) for index, item in enumerate(value)]
            return value if all(one is other for one, other in zip(items, value, strict=True)) else items
        return value

    def content(self, content: bytes, path: str) -> bytes:
        """Give a text's bytes without secrets."""
        return self._clean(content, path, self._rules.may_apply(content), b"")

    def _clean(self, text: bytes, path: str, among: Sequence[int], name: bytes) -> bytes:
        spans = self._rules.spans(text, among, name)
        if not spans:
            return text
        pieces: list[bytes] = []
        end = at = 0  # in bytes, and in characters
        for start, stop, rule in spans:
            first = at + _characters(text[end:start])
            at, before, end = first + _characters(text[start:stop]), text[end:start], stop
            self.found.append(Finding(rule.id, path, first, at))
            pieces += [before, self._mark(rule.id, text[start:stop])]
        return b"".join([*pieces, text[end:]])


def _unkeyed_mark(rule: str, secret: bytes) -> bytes:  # noqa: ARG001  # as `Redactor.mark`
    return f"[redacted:{rule}]".encode()


def covers(redacted: Any, original: Any) -> bool:
    """Tell whether a value may be another in which secrets became marks."""
    if isinstance(redacted, bytes) and isinstance(original, bytes):
        return covers(redacted.decode("latin-1"), original.decode("latin-1"))
    if isinstance(redacted, str) and isinstance(original, str):
        first, *rest = _MARK.split(redacted)
        if not rest:
            return redacted == original
        if not original.startswith(first):
            return False
        place = len(first)
        for piece in rest[:-1]:
            place = original.find(piece, place)
            if place < 0:
                return False
            place += len(piece)
        return original.endswith(rest[-1]) and len(original) - len(rest[-1]) >= place
    if isinstance(redacted, Mapping) and isinstance(original, Mapping):
        pairs = zip(redacted.items(), original.items(), strict=False)
        return len(redacted) == len(original) and (
            all(name in original and covers(member, original[name]) for name, member in redacted.items())
            or all(covers(one[0], other[0]) and covers(one[1], other[1]) for one, other in pairs)
        )
    if isinstance(redacted, (list, tuple)) and isinstance(original, (list, tuple)):
        return len(redacted) == len(original) and all(map(covers, redacted, original))
    return bool(redacted == original)


def _collect(value: Any, texts: list[str], depth: int) -> None:
    """Put all strings of a value into a list, a member's name before its value."""
    if isinstance(value, str):
        texts.append(value)
    elif type(value) is dict or isinstance(value, Mapping):  # the first is a twentieth of the second
        _check_depth(depth, "the value")
        for name, member in value.items():
            if type(name) is str:
                texts.append(name)
            if type(member) is str:
                texts.append(member)
            elif member is not None:
                _collect(member, texts, depth + 1)
    elif isinstance(value, (list, tuple)):
        _check_depth(depth, "the value")
        for item in value:
            _collect(item, texts, depth + 1)


def _check_depth(depth: int, what: str) -> None:
    if depth >= limits.BODY_DEPTH_MAX:
        raise too_deep(what)


def _recorded(metadata: Any, found: Sequence[Finding]) -> Any:
    """Give an event's metadata with what was redacted in it. What is no metadata is refused later."""
    if metadata is not None and not isinstance(metadata, Mapping):
        return metadata
    members: dict[str, Any] = dict(metadata or {})
    counts = Counter(finding.rule for finding in found)
    try:
        for before in members.get(MEMBER, ()):
            counts[before["rule"]] += before["count"]
        members[MEMBER] = [{"rule": rule, "count": counts[rule]} for rule in sorted(counts)]
    except (TypeError, KeyError):
        raise InvalidEventError(
            f"metadata has a member {MEMBER!r} of its own, where it is to be said what was redacted in the event; nothing was written; "
            "rename it"
        ) from None
    return members


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate is refused later, as what it is


def _characters(text: bytes) -> int:
    return len(text.decode("utf-8", "replace"))
