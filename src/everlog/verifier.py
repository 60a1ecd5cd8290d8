"""Check an Everlog bundle (`.everlog`) offline: one file to read and to run, with Python 3.9 or newer and nothing else.

    python3 everlog_verify.py run.everlog --key 'everlog/30cb...+530d903a+Aeky...'

1. Nothing in the bundle is believed. Every hash is made anew from the bytes that it is of, up to the root of each branch; a signature
   counts only under a key that you give. Where that key came from is yours to know.
2. Everything is read strictly: each bit of the file has one value that it may have.
3. A body that is not there is *erased* where a record says so, *withheld* where it was left out on purpose, and *tampered* otherwise.
4. What was not checked is said.
5. It writes nothing but its report, opens no connection, and imports nothing that does not come with Python, save `cryptography`
   where that is installed; otherwise it asks the program `openssl` about signatures.

Exit codes: 0 good; 1 tampered, or no bundle; 2 incomplete (the file is cut off, bodies were withheld, or a seal knows of more events);
3 not covered by a seal of a key that you gave; 64 not run. Of several the first, in the order 1, 2, 3.

What is hashed, where `|` joins bytes:
    leaf of an event       SHA-256(0x00 | header)        the header is canonical JSON (RFC 8785), with the leaf before it as "p"
    node of the tree       SHA-256(0x01 | left | right)  RFC 6962; size and root of all leaves of a line of events are its head
    a body, in "c"         HMAC-SHA256(its salt, "everlog/1/body" | 0x00 | body)
    an attachment, in "c"  HMAC-SHA256(its salt, "everlog/1/attachment" | 0x00 | name | 0x00 | content)
    a key, in "k"          HMAC-SHA256(salt of the family, "everlog/1/key" | 0x00 | key)
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import html
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Optional

GOOD, TAMPERED, INCOMPLETE, UNSEALED, NOT_RUN = 0, 1, 2, 3, 64  # the last is what sysexits.h has for wrong usage
WORDS = {GOOD: "good", TAMPERED: "tampered", INCOMPLETE: "incomplete", UNSEALED: "not covered by a seal"}
BLOCK, RECORD, LISTED = 512, 10_240, 100  # bytes in a tar file; lines of a kind, in words: as JSON there are all
MANIFEST_BYTES_MAX, MEMBER_BYTES_MAX, HEADER_BYTES_MAX = 64 * 1024 * 1024, 2 * 1024 * 1024 * 1024, 4_096
PAGE_EVENTS_MAX, RECORD_BYTES_MIN, FAULTS_MAX = 1_000, 100, 100_000  # beyond the last, no more is looked for
SAFE_INTEGER_MAX = 2**53 - 1  # the largest integer that every JSON library keeps
COUNTED = ("events", "bodies", "attachments", "keys", "erased", "withheld", "sealed")
BRANCH = "id:id writer:id base:int|null base_size:int size:int root:hash own:bool"
HEADER = "?a:actor b:id c:hashes ?g:list ?k:hash ?m:int n:int ?o:outcome ?p:hash ?r:hash t:int v:everlog/1/event ?w:time y:type"
BESIDE = "n:int ?key:str ?caused_by:event ?attachments:list "  # where its body is, it has more members, and so do attachments
COVERED = "a:int h:hash z:int"
SEAL, SEALED = "note:str records:list v:everlog/1/seals", "index:int path:hashes record:str"
MANIFESTS = {
    "everlog/1/bundle": "v:str session:id id:str title:str|null labels:dict metadata:str|null parent:str|null created:int family:id key_salt:hash branches:list current:int",
    "everlog/1/range": "v:str session:id id:str branch:id start:int stop:int size:int root:hash nodes:hashes",
}
RECORDS = {
    "head": "?base:str ?base_size:int branch:str kind:str root:str session:str size:int t:time v:str",
    "erase": "?actor:str events:list kind:str session:str t:time v:str",
}
Member = tuple[str, int, int]  # name, offset, size
Line = tuple[Optional[int], int, list[bytearray]]  # its base, how many leaves it shares, its own nodes by level, joined
Key = tuple[str, bytes, bytes]  # its name, which is the origin of what it seals; its id, which proves nothing; 32 bytes
TYPES = {"str": str, "bool": bool, "list": list, "dict": dict, "null": type(None)}
TEXTS = {"id": "[0-9a-f]{32}", "hash": "[0-9a-f]{64}", "event": "ev_[0-9a-f]{32}_(0|[1-9][0-9]*)"}  # hash: a salt too
TEXTS.update({"type": "[a-z][a-z0-9_.]{0,127}", "actor": "[A-Za-z0-9._:/+-]{1,128}"})
TEXTS["outcome"] = "ok|error|denied|cancelled|timeout|unknown"
NEVER_CHECKED = (
    "whether what was recorded is true: a hash says that it was not changed since",
    "title, labels, metadata, time of making, parent, current branch: they are the word of whoever made the bundle",
    "whether there are branches, sessions or later events that are not in the bundle",
    "of what caused an event anything but its hash; of attachments that are gone their names and sizes",
)


@dataclass
class Report:
    """What was found. faults: what does not hold. missing: what is not here. unsealed: what no seal vouches for."""

    bundle: str
    kind: str = "bundle"
    session: str = ""  # its name and its id
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    seal: dict[str, Any] | None = None
    heads: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unsealed: list[str] = field(default_factory=list)
    unchecked: tuple[str, ...] = NEVER_CHECKED

    @property
    def code(self) -> int:
        return TAMPERED if self.faults else INCOMPLETE if self.missing else UNSEALED if self.unsealed else GOOD


def verify_bundle(path: str, keys: Sequence[str] = ()) -> Report:
    """Check a bundle. keys: verifier keys that you trust. OSError where it cannot be read, ValueError where a key is none."""
    pinned = [read_key(key) for key in keys]
    report = Report(path)
    with Path(path).open("rb") as file:
        try:
            _Bundle(file, report).check(pinned)
        except ValueError as error:
            report.faults.append(str(error))
        except EOFError as error:
            report.missing.append(str(error))
    return report


# --- reading strictly ----------------------------------------------------------------------------
def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def read_members(file: BinaryIO) -> list[Member]:
    """Find the members of a tar file, and check every bit that stands between them; ValueError, EOFError."""
    members, at = list[Member](), 0
    while (header := read_at(file, at, BLOCK)) != bytes(BLOCK):
        name, digits = header[:100].rstrip(b"\0").decode("latin-1"), header[124:135]
        size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else 0
        expect(header == tar_header(name, size), f"the header of the member at byte {at} was changed")
        expect(size <= MEMBER_BYTES_MAX, f"the member at byte {at} is larger than any can be")
        expect(not any(read_at(file, at + BLOCK + size, -size % BLOCK)), f"what follows {name!r} was changed")
        members.append((name, at + BLOCK, size))
        at += BLOCK + size + -size % BLOCK
    end = -(-(at + 2 * BLOCK) // RECORD) * RECORD - at
    expect(not any(read_at(file, at, end)) and not file.read(1), "what follows the last member was changed")
    return members


def tar_header(name: str, size: int) -> bytes:
    """Give the header of a member as every bundle has it: POSIX ustar, mode 0600, no owner, no time."""
    before = name.encode("latin-1").ljust(100, b"\0") + b"0000600\0" + b"0000000\0" * 2 + b"%011o\0%011o\0" % (size, 0)
    after = b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(255, b"\0")
    return before + b"%06o\0 " % (sum(before) + sum(after) + 8 * ord(" ")) + after


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise EOFError(f"the file is cut off: it ends at byte {file.seek(0, 2)}, before it is whole")
    return content


def parse(raw: bytes) -> Any:
    """Read JSON that every reader reads alike: no member twice, no NaN, no number or text that others change; ValueError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        expect(len(dict(pairs)) == len(pairs), "it has a member twice")
        return dict(pairs)

    try:
        value = json.loads(raw.decode(), object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses NaN, infinities, lone surrogates
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def canonical(value: Any) -> bytes:
    """Give the one form of a value (RFC 8785) whose members have ASCII names and whose numbers are integers."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def shape(value: Any, what: str, members: str) -> dict[str, Any]:
    """Check that a value is an object with these members and no others; ValueError.

    members: names with their kinds; what begins with ? may be absent.
    """
    known = dict(each.lstrip("?").split(":") for each in members.split())
    required = {each.split(":")[0] for each in members.split() if each[0] != "?"}
    expect(isinstance(value, dict) and required <= set(value) <= set(known), f"{what} has not the members it must have")
    for name, member in value.items():
        fitting = any(fits(member, kind) for kind in known[name].split("|"))
        expect(fitting, f"{what} has a member {name!r} that is none")
    return value


def fits(value: Any, kind: str) -> bool:
    """Tell whether a value is of a kind: of TYPES or TEXTS, `hashes`, `int` (0 .. 2^53 - 1), `time` (may be negative), or the very value."""
    if kind in TEXTS:
        return isinstance(value, str) and re.fullmatch(TEXTS[kind], value) is not None
    if kind == "hashes":
        return isinstance(value, list) and all(fits(each, "hash") for each in value)
    if kind in ("int", "time"):
        return type(value) is int and (0 if kind == "int" else -SAFE_INTEGER_MAX) <= value <= SAFE_INTEGER_MAX
    return type(value) is TYPES[kind] if kind in TYPES else value == kind


def unbase64(text: str) -> bytes:
    """Read base64 in its one form; ValueError."""
    content = base64.b64decode(text, validate=True)
    expect(base64.b64encode(content).decode() == text, f"{text[:80]!r} is not base64 in its one form")
    return content


# --- hashes and trees (RFC 6962, RFC 9162) -------------------------------------------------------
def commit(salt: bytes, what: str, content: bytes) -> str:
    return hmac.new(salt, f"everlog/1/{what}\0".encode() + content, "sha256").hexdigest()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


@dataclass
class Tip:
    """Where the walk along a line of events is. peaks: the roots of its tree's perfect subtrees, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()
    previous: str | None = None  # leaf of the last event
    recorded: int = -SAFE_INTEGER_MAX  # the latest time so far

    def after(self, node: bytes, level: int = 0, levels: Sequence[bytearray] = ()) -> Tip:
        """Give the tip after a leaf, or after a perfect subtree of 2^level leaves. levels: the nodes that it completes are added there."""
        peaks, rest, completed = list(self.peaks), self.size >> level, [node]
        while rest & 1:
            completed.append(sha256(b"\1", peaks.pop(), completed[-1]))
            rest >>= 1
        for each, nodes in zip(completed, levels):
            nodes.extend(each)
        return Tip(self.size + (1 << level), (*peaks, completed[-1]), node.hex() if level == 0 else None, self.recorded)

    def beyond(self, nodes: list[bytes], size: int) -> Tip:
        """Give the tip at a size, after the subtrees that lie from here to there, each as large as it can be; they leave `nodes`."""
        tip = self
        while tip.size < size:
            fitting = (each for each in range(53) if tip.size % (1 << each) == 0 and tip.size + (1 << each) <= size)
            expect(nodes, "it holds too few hashes of what lies round its range")
            tip = tip.after(nodes.pop(0), max(fitting))
        return tip

    @property
    def root(self) -> str:
        root = self.peaks[-1] if self.peaks else sha256()
        for peak in self.peaks[-2::-1]:
            root = sha256(b"\1", peak, root)
        return root.hex()


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Give the root of the tree of `size` leaves that a path leads to from the leaf at `index` (RFC 9162 2.1.3); ValueError."""
    expect(index < size and (size > 1) == bool(path), "a path in its seal is too short or too long")
    if size == 1:
        return leaf
    half = 1 << ((size - 1).bit_length() - 1)
    if index < half:
        return sha256(b"\1", root_from(leaf, index, half, path[:-1]), path[-1])
    return sha256(b"\1", path[-1], root_from(leaf, index - half, size - half, path[:-1]))


# --- seals (C2SP signed-note, tlog-checkpoint) ---------------------------------------------------
def read_key(text: str) -> Key:
    """Read a verifier key NAME+ID+KEY of Ed25519; ValueError."""
    name, _, rest = text.partition("+")
    identity, _, key = rest.partition("+")
    encoded = unbase64(key)
    expect(len(encoded) == 33 and encoded[0] == 1, f"{text!r} is no verifier key NAME+ID+KEY of Ed25519")
    expect(identity == sha256(name.encode(), b"\n", encoded)[:4].hex(), f"{text!r} has an id that is not its own")
    return name, bytes.fromhex(identity), encoded[1:]


def open_seal(note: str, keys: Sequence[Key]) -> dict[str, Any]:
    """Read a seal, and say who of `keys` signed it; ValueError where it is none, or one of them has a bad signature on it."""
    text, _, lines = note.rpartition("\n\n")
    found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)", text)
    origin, size, root = found.groups() if found else ("", "0", "")
    expect(found and lines.endswith("\n"), "its seal is no signed checkpoint: origin, size, root, signatures")
    signers: list[str] = []
    for line in lines[:-1].split("\n"):
        name, _, signed = line[2:].partition(" ")
        content = unbase64(signed)
        expect(line == f"\u2014 {name} {signed}" and len(content) > 4, f"{line[:80]!r} is no line of a signature")
        for pinned, identity, public in keys:
            if (pinned, pinned, identity) == (origin, name, content[:4]):
                good = is_signed(public, f"{text}\n".encode(), content[4:])
                expect(good is not False, f"the signature of {name!r} is not that key's over its seal")
                signers += [f"{name}+{identity.hex()}"] if good else []
    return {"origin": origin, "size": int(size), "root": unbase64(root).hex(), "signers": signers}


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool | None:
    """Tell whether an Ed25519 signature is good; None where nothing here can tell."""
    with suppress(ImportError):  # then `openssl` is asked
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey

        try:
            return PublicKey.from_public_bytes(public).verify(signature, message) is None
        except Exception:  # noqa: BLE001  # InvalidSignature, or ValueError where it is of another length
            return False
    with tempfile.TemporaryDirectory() as folder:
        der = bytes.fromhex("302a300506032b6570032100") + public  # SubjectPublicKeyInfo (RFC 8410)
        words = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"]
        for option, content in (("-inkey", der), ("-in", message), ("-sigfile", signature)):
            Path(folder, option).write_bytes(content)
            words += [option, str(Path(folder, option))]
        try:  # no word of it is the bundle's
            done = subprocess.run(words, capture_output=True, check=False, timeout=60)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return None
    refused = b"Verification Failure" in done.stdout + done.stderr  # otherwise it is too old to know how
    return True if done.returncode == 0 else False if refused else None


# --- the bundle ----------------------------------------------------------------------------------
class _Bundle:
    """A bundle as it is checked. erased: leaves that a record names, and whether it is sealed. sealed_heads: records of heads."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self.file = file
        self.report = report
        self.pages: list[tuple[Member, Member]] = []  # that were not read yet, the next one last
        self.erased: dict[str, bool] = {}
        self.sealed_heads: list[dict[str, Any]] = []
        self.signed, self.unrecorded = False, 0  # events whose erasure no seal covers
        self.nodes: list[bytes] = []  # of a range: of what lies left and right of it
        self.lines: list[Line] = []  # of its branches, as far as they were walked
        self.key_salt, self.uuid, self.counts = b"", "", report.counts

    def check(self, keys: Sequence[Key]) -> None:
        members = read_members(self.file)
        names = [name for name, _, _ in members]
        ends = 3 if "sealed.json" in names else 2
        expect(names[:1] == ["manifest.json"] and members[0][2] <= MANIFEST_BYTES_MAX, "it begins with no manifest")
        expect(names[-ends:] == ["ledger.jsonl", "sealed.json", "sha256"][:: 4 - ends], "it ends with no ledger")
        digest = hashlib.sha256()
        for member in members[:-1]:
            digest.update(f"{len(member[0])}:{member[0]}{member[2]}:".encode() + read_at(self.file, *member[1:]))
        whole = read_at(self.file, *members[-1][1:]) == digest.hexdigest().encode() + b"\n"
        expect(whole, "its contents are not those that its sha256 was made of: it was damaged or changed")
        branches = self._branches(parse(read_at(self.file, *members[0][1:])))
        expect((len(members) - ends) % 2, "headers stand without bodies")
        self.pages = list(zip(members[1:-ends:2], members[2:-ends:2]))[::-1]
        sealed = self._sealed(read_at(self.file, *members[-2][1:]), keys) if ends == 3 else frozenset[bytes]()
        self.report.unsealed += ["it holds no seal"] if ends == 2 else []
        for record in self._lines(members[-ends], 0, members[-ends][2] // RECORD_BYTES_MIN):
            for event in read_record(record).get("events", []):
                named = isinstance(event, list) and len(event) == 2 and type(event[0]) is int and fits(event[1], "hash")
                expect(named, "it erases no event")
                self.erased[event[1]] = record in sealed or self.erased.get(event[1], False)
        self._check_branches(branches)
        unsealed = self.counts["events"] - self.counts["sealed"]
        self.report.unsealed += [f"{unsealed} events that no such seal covers"] if unsealed else []
        self.report.unsealed += ["records of erasures that no such seal covers"] if self.unrecorded else []
        if self.counts["withheld"]:
            self.report.missing.append("bodies that were withheld: left out on purpose, which is no tampering")

    def _lines(self, member: Member, least: int = 1, most: int = PAGE_EVENTS_MAX) -> list[bytes]:
        content = read_at(self.file, *member[1:])
        expect(least <= content.count(b"\n") <= most, f"{member[0]} has not the lines that it can have")
        lines = content.split(b"\n")
        expect(not lines.pop(), f"{member[0]} does not end with the end of a line")
        return lines

    def _branches(self, manifest: Any) -> list[dict[str, Any]]:
        """Check the manifest; give its branches. A range is one, whose events up to base_size and from size on are not here."""
        kind = str(manifest.get("v") if isinstance(manifest, dict) else None)
        expect(kind in MANIFESTS, "its manifest is of a format that is not known here")
        shape(manifest, "its manifest", MANIFESTS[kind])
        self.uuid, self.report.session = manifest["session"], f"{manifest['id']} ({manifest['session']})"
        if kind == "everlog/1/range":
            self.report.kind = "range"
            self.report.unchecked += ("what is not in the range, or covered by its summaries: of it there are hashes",)
            expect(manifest["start"] < manifest["stop"] <= manifest["size"], "its range is none")
            self.nodes = [bytes.fromhex(node) for node in manifest["nodes"]]
            start = {"id": manifest["branch"], "writer": None, "base": None, "base_size": manifest["start"]}
            return [{**manifest, **start}]
        branches = manifest["branches"]
        self.key_salt = bytes.fromhex(manifest["key_salt"])
        expect(manifest["current"] < len(branches), "it names no current branch")
        expect(all(type(label) is str for label in manifest["labels"].values()), "it has a label that is no text")
        for place, branch in enumerate(branches):
            what = f"branch {place}"
            base, start = shape(branch, what, BRANCH)["base"], branch["base_size"]
            expect(base is None or base < place, f"{what} does not stand on a branch before it")
            low, high = (0, 0) if base is None else (branches[base]["base_size"] + 1, branches[base]["size"])
            expect(low <= start <= high and start <= branch["size"], f"{what} stands where nothing is")
        return [{**branch, "stop": branch["size"]} for branch in branches]

    def _sealed(self, raw: bytes, keys: Sequence[Key]) -> frozenset[bytes]:
        """Give the records that a good seal covers, and keep heads among them."""
        proof = shape(parse(raw), "its seal", SEAL)
        expect(canonical(proof) + b"\n" == raw, "its seal is not in its one form")
        seal = self.report.seal = open_seal(proof["note"], keys)
        records: list[bytes] = []
        for each in proof["records"]:
            record = shape(each, "a record in its seal", SEALED)["record"].encode()
            path = [bytes.fromhex(node) for node in each["path"]]
            root = root_from(sha256(b"\0", record), each["index"], seal["size"], path)
            expect(root.hex() == seal["root"], "a record does not stand in the ledger that is sealed")
            records.append(record)
        self.sealed_heads = [each for each in map(read_record, records) if each["kind"] == "head"]
        self.signed = bool(seal["signers"])
        if not self.signed:  # or neither `cryptography` nor a new enough `openssl` is here to tell
            self.report.unsealed.append(f"no key of --key is known to have signed its seal, of {seal['origin']}")
        return frozenset(records if self.signed else [])

    def _check_branches(self, branches: list[dict[str, Any]]) -> None:
        places = {branch["id"]: index for index, branch in enumerate(branches)}
        expect(len(places) == len(branches), "two of its branches have one id")
        expect(all(head["branch"] in places for head in self.sealed_heads), "its seal is of a branch that is not in it")
        wanted = {(branch["base"], branch["base_size"]) for branch in branches}
        wanted |= {(places[head["branch"]], head["size"]) for head in self.sealed_heads}
        tips: dict[tuple[int | None, int], Tip] = {(None, 0): Tip()}
        for index, branch in enumerate(branches):
            name, start = branch["id"][:8], (branch["base"], branch["base_size"])
            tip = tips[start] if start in tips else Tip().beyond(self.nodes, start[1])
            self.lines.append((*start, [bytearray() for _ in range(54)]))
            for line, contents in self._events(index):
                tip = self._check_event(name, tip, line, contents, branch["writer"])
                if (index, tip.size) in wanted:
                    tips[index, tip.size] = tip
            expect(tip.size == branch["stop"], f"{name}: its events end at {tip.size} and not at {branch['stop']}")
            tips[index, branch["size"]] = tip = tip.beyond(self.nodes, branch["size"])
            expect(tip.root == branch["root"] and not self.nodes, f"{name}: its {tip.size} events give another head")
            self.report.heads.append({"branch": branch["id"], "size": tip.size, "root": tip.root, "sealed": 0})
        expect(not self.pages, "it holds pages that are no branch's")
        for head in self.sealed_heads:
            index = places[head["branch"]]
            here, tip, name = self.report.heads[index], tips.get((index, head["size"])), head["branch"][:8]
            same = head["session"] == self.uuid or not branches[index].get("own", True)
            if head["size"] > here["size"]:
                self.report.missing.append(f"{name}: {head['size']} events were sealed, and {here['size']} are here")
            elif not same or tip is None or tip.root != head["root"]:
                self.report.faults.append(f"{name}: {head['size']} events were sealed that are not these")
            elif self.signed:
                here["sealed"] = max(here["sealed"], head["size"])
        for branch, here in zip(branches[::-1], self.report.heads[::-1]):
            if branch["base"] is not None:  # what is sealed of a line is sealed of the lines that it stands on
                below = self.report.heads[branch["base"]]
                below["sealed"] = max(below["sealed"], min(here["sealed"], branch["base_size"]))
            self.counts["sealed"] += max(0, min(here["sealed"], branch["stop"]) - branch["base_size"])

    def _events(self, branch: int) -> Iterator[tuple[bytes, bytes]]:
        """Give header and contents of each event of a branch, from its pages, which come next."""
        for number in range(1, len(self.pages) + 1):
            page = f"branches/{branch:04d}/{number:06d}"
            if [name for name, _, _ in self.pages[-1]] != [f"{page}.headers", f"{page}.bodies"]:
                return
            headers, bodies = map(self._lines, self.pages.pop())
            expect(len(headers) == len(bodies), f"{page}.headers and its bodies differ in length")
            yield from zip(headers, bodies)

    def _check_event(self, branch: str, tip: Tip, line: bytes, contents: bytes, writer: str | None) -> Tip:
        """Check an event; give the tip after it. Whatever is wrong with it, its leaf is that of its bytes."""
        self.counts["events"] += 1
        after = tip.after(leaf := sha256(b"\0", line), levels=self.lines[-1][2])
        try:
            header = read_header(line)
            after.recorded = max(tip.recorded, header["t"])
            expect(header["n"] == tip.size, f"it says that it stands at {header['n']}")
            expect(writer in (None, header["b"]), "it has another writer than its branch")
            if tip.previous is not None or tip.size == 0:  # of the first in a range, the one before is not here
                expect(header.get("p") == tip.previous, "it does not name the event before it")
            expect(header["t"] >= tip.recorded, "its time lies before that of the event before it")
            for each in header.get("g", []) if self.key_salt else []:  # of a range, what is covered is not all here
                same = each["a"] < each["z"] <= tip.size and self._covered(each["a"], each["z"]).hex() == each["h"]
                expect(same, "the hashes of what it covers are not those of the events there")
            self._check_contents(header, parse(contents), leaf.hex())
        except ValueError as error:
            self.report.faults.append(f"{branch}@{tip.size}: {error}")
            if len(self.report.faults) >= FAULTS_MAX:
                raise ValueError("there is so much of it that the rest was not looked at") from None
        return after

    def _covered(self, start: int, stop: int) -> bytes:
        """Give the root of the tree of the leaves [start, stop) of this line by themselves."""
        level, (base, shared, levels) = (stop - start - 1).bit_length(), self.lines[-1]
        half = start + (1 << level >> 1)
        if stop - start < 1 << level or start % (1 << level):
            return sha256(b"\1", self._covered(start, half), self._covered(half, stop))
        while stop <= shared and base is not None:
            base, shared, levels = self.lines[base]
        at = 32 * ((start >> level) - (shared >> level))
        return bytes(levels[level][at : at + 32])

    def _check_contents(self, header: dict[str, Any], contents: Any, leaf: str) -> None:
        gone = contents.get("gone") if isinstance(contents, dict) else None
        shape(contents, "what stands beside it", BESIDE + ("body:str salt:hash" if gone is None else "gone:str"))
        expect(contents["n"] == header["n"], "the body of another event stands beside it")
        expect(("caused_by" in contents) == ("r" in header), "what caused it is not named, or was not hashed")
        if "key" in contents:
            key = commit(self.key_salt, "key", contents["key"].encode()) if self.key_salt else None
            expect(key and key == header.get("k"), "its key is not the one that it was recorded with")
            self.counts["keys"] += 1
        attachments = contents.get("attachments", [])
        for each in attachments:
            shape(each, "an attachment", "name:str size:int" + (" salt:hash content:str" if gone is None else ""))
        recorded = gone in (None, "withheld") or (gone == "erased" and leaf in self.erased)
        expect(recorded, "its body is missing, and no record says that it was erased")
        if gone is None:
            self._check_bytes(header, contents, attachments)
        self.counts[gone or "bodies"] += 1
        self.unrecorded += gone == "erased" and not self.erased[leaf]

    def _check_bytes(self, header: dict[str, Any], contents: dict[str, Any], attachments: list[dict[str, Any]]) -> None:
        salt, body = bytes.fromhex(contents["salt"]), contents["body"].encode()
        expect(isinstance(parse(body), dict), "its body is no JSON object")
        expect(commit(salt, "body", body) == header["c"][0], "its body is not the one that was recorded")
        expect(len(attachments) == len(header["c"]) - 1, "its attachments are not those that were recorded")
        for each, committed in zip(attachments, header["c"][1:]):
            salt, content = bytes.fromhex(each["salt"]), unbase64(each["content"])
            same = commit(salt, "attachment", each["name"].encode() + b"\0" + content) == committed
            expect(same and len(content) == each["size"], "an attachment is not the one that was recorded")
        self.counts["attachments"] += len(attachments)


def read_record(raw: bytes) -> dict[str, Any]:
    """Read a record of the ledger in its one form; ValueError."""
    record = parse(raw)
    expect(isinstance(record, dict) and canonical(record) == raw, "a record of the ledger is not in its one form")
    expect(record.get("v") == "everlog/1/ledger", "a record of the ledger is of a format that is not known here")
    kind = str(record.get("kind"))
    return shape(record, "a record", RECORDS[kind]) if kind in RECORDS else {"kind": kind}


def read_header(line: bytes) -> dict[str, Any]:
    """Read an event's header in its one form; ValueError."""
    header = shape(parse(line), "its header", HEADER)
    expect(canonical(header) == line and len(line) <= HEADER_BYTES_MAX, "its header is not in its one form")
    covered = [shape(each, "a range that it covers", COVERED) for each in header.get("g", [])]
    ranges = header.get("g") != [] and len(covered) <= 16 and all(each["a"] < each["z"] for each in covered)
    keyed = "m" not in header or ("k" in header and header["m"] > 1)
    expect(ranges and keyed and 1 <= len(header["c"]) <= 17, "its header is not as an append makes it")
    return header


# --- the report ----------------------------------------------------------------------------------
def shown(text: str) -> str:
    """Give text of others for people: what could move a cursor or mislead the eye is written as its number."""
    return "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in text)


def sections(report: Report) -> list[tuple[str, list[str]]]:
    """Give a report in words."""
    seal = report.seal or {}
    signed = ", ".join(seal.get("signers", [])) or "nobody whose key was given"
    heads = [f"{each['branch']}  {each['size']}:{each['root']}" for each in report.heads]
    found = [
        ("What does not hold", report.faults),
        ("What is not here", report.missing),
        ("What no seal vouches for", report.unsealed),
        ("What it is", [f"{report.kind} {report.session}"] if report.session else []),
        ("What was counted", [", ".join(f"{count} {name}" for name, count in report.counts.items())]),
        ("Heads, to compare with those that you hold", heads),
        ("Its seal", [f"of {seal['origin']}, {seal['size']} records, signed by {signed}"] if seal else []),
        ("What was not checked", list(report.unchecked)),
    ]
    return [(title, [shown(line) for line in lines[:LISTED]]) for title, lines in found if lines]


def in_text(report: Report) -> str:
    found = [f"\n{title}:\n  " + "\n  ".join(lines) for title, lines in sections(report)]
    return f"{WORDS[report.code].upper()}: {shown(report.bundle)}" + "".join(found)


def in_html(report: Report) -> str:
    """Give a report as a page that asks nothing of anybody."""
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Verification of a bundle</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}h2{{font-size:1.1em}}li{{overflow-wrap:anywhere}}</style>
<h1>{WORDS[report.code].capitalize()}</h1><p>{html.escape(shown(report.bundle))}</p>
"""
    for title, found in sections(report):
        page += f"<h2>{title}</h2><ul>{''.join(f'<li>{html.escape(each)}</li>' for each in found)}</ul>\n"
    return page


def main(words: Sequence[str] | None = None) -> int:
    """Run as a program; give the exit code."""
    parser = argparse.ArgumentParser(description="Check an Everlog bundle offline.")
    parser.add_argument("bundle", help="the .everlog file")
    parser.add_argument("--key", action="append", default=[], help="a verifier key that you trust; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page too")
    try:
        given = parser.parse_args(words)
    except SystemExit as stopped:  # with 2 for a mistake, which means something else here
        return NOT_RUN if stopped.code else GOOD
    try:
        report = verify_bundle(given.bundle, given.key)
        if given.html:
            Path(given.html).write_text(in_html(report), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.stderr.write(shown(f"everlog_verify: {error}; nothing was decided") + "\n")
        return NOT_RUN
    facts = {"verdict": WORDS[report.code], "code": report.code, **vars(report)}
    said = (json.dumps(facts) if given.json else in_text(report)) + "\n"
    letters = sys.stdout.encoding or "utf-8"  # what the terminal cannot show is written as its number
    sys.stdout.write(said.encode(letters, "backslashreplace").decode(letters))
    return report.code


if __name__ == "__main__":
    sys.exit(main())
