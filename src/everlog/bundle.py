"""Bundle files (`.everlog`): a session as a deterministic tar, to keep, to hand on, and to take in elsewhere (FORMAT §6).

    manifest.json                    the session, its branches and their roots
    branches/BBBB/NNNNNN.headers     canonical headers, one a line; their SHA-256 leaves are what everything hangs on
    branches/BBBB/NNNNNN.bodies      for each header: body and salt and attachments, or why they are not there
    ledger.jsonl                     the records that say what was erased
    sealed.json                      where the store is sealed: the heads of its branches, and those records, up to one seal
    sha256                           of the names and contents of all members before it: finds damage, proves nothing

1. Names, order, owners, modes and times are fixed, so the same session gives the same bytes.
2. Reading trusts nothing: members are regular files of these names in this order, of bounded size, and no bit stands between them that
   is not in every bundle.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec

from everlog.attesting import attest, head_places, last_seal, read_attestation, record_places
from everlog.audit import all_sessions
from everlog.core import limits
from everlog.core.decide import EventRow, damaged_event, event_of, header_of
from everlog.core.event import DELETED, ERASED, WITHHELD, Cause, Head, PreparedAttachment, encode_attached
from everlog.core.header import Header, decode_header, encode_header
from everlog.core.ledger import HeadRecord, encode_record, read_erase_record, read_record
from everlog.core.merkle import leaf_hash, subtree_places
from everlog.core.position import parse_event_id
from everlog.core.prepare import Draw
from everlog.core.query import Query, compile_query
from everlog.core.query_text import parse
from everlog.errors import InvalidEventError, InvalidPlaceError, NotFoundError, TamperedError, UnavailableError
from everlog.parcels import (
    BUNDLE_FORMAT,
    EventParcel,
    Progress,
    SessionParcel,
    check_parcel,
    line_pages,
    pack_session,
)
from everlog.reader import View, head_at
from everlog.sealed import SealRow
from everlog.storage import SessionRow, Storage
from everlog.transfer import Transferred, take_checked

RANGE_FORMAT = "everlog/1/range"
FILE_NAME_CHARACTERS_MAX = 150  # of a session's name in that of its bundle: file systems take 255 bytes
MANIFEST_BYTES_MAX = 64 * 1024 * 1024
MEMBER_BYTES_MAX = 2 * 1024 * 1024 * 1024  # a page of events whose attachments are all of the largest size
BRANCHES_MAX = 100_000
RECORD_BYTES_MIN = 100  # no record of an erasure is as short
_END: Final = ("ledger.jsonl", "sha256")
_SEALED_END: Final = ("ledger.jsonl", "sealed.json", "sha256")
_GONE: Final[dict[int, Literal["erased", "withheld"]]] = {ERASED: "erased", WITHHELD: "withheld", DELETED: "erased"}


class Exported(msgspec.Struct, frozen=True):
    """A session that was written as a bundle. events: in it. bytes: of the file."""

    session: str
    path: str
    events: int
    bytes: int


class RangeManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a range says of itself: of which line it is, and to which head it leads. nodes: hex, of what lies left and right of it."""

    v: str = RANGE_FORMAT
    session: str
    id: str
    branch: str
    start: int
    stop: int
    size: int
    root: str
    nodes: list[str]


class _Version(msgspec.Struct):
    v: str = BUNDLE_FORMAT


_Salt = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Attachment(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    name: str
    size: int
    salt: _Salt | None = None
    content: str | None = None


class _Contents(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A line of .bodies: body is the body's own JSON text, as it was hashed."""

    n: int
    body: str | None = None
    salt: _Salt | None = None
    gone: Literal["erased", "withheld"] | None = None
    key: str | None = None
    caused_by: str | None = None
    attachments: list[_Attachment] = []


# --- writing -------------------------------------------------------------------------------------
def export_session(
    storage: Storage, session: SessionRow, path: str | os.PathLike[str], *, withhold: str | Query | None = None
) -> int:
    """Write a session as a bundle, whole or not at all; give the number of events in it.

    withhold: a query; bodies, keys and attachments of events that meet it are left out.
    """
    seal = last_seal(storage)  # before the branches are read: it vouches for no more than they hold
    parcel, pages = pack_session(storage, session)

    def write(writer: _Writer) -> None:
        writer.add("manifest.json", msgspec.json.format(msgspec.json.encode(parcel), indent=1) + b"\n")
        key_salt = bytes.fromhex(parcel.key_salt)
        for index, branch in enumerate(parcel.branches):
            line = _Line(parcel.id, branch.id, lambda _, writer=branch.writer: writer, key_salt)
            before = None if branch.base is None else next(pages(branch.base, branch.base_size - 1))[0].row.leaf
            writer.add_pages(index, line, before, pages(index, branch.base_size))
        writer.end(seal, ((branch.id, branch.size) for branch in parcel.branches if branch.own))

    return _write_whole(Path(path), _Writer(storage, _asked(storage, withhold)), write)


def export_range(
    storage: Storage,
    session: SessionRow,
    read_view: Callable[[], View],
    cuts: Callable[[View], tuple[int, int]],
    path: str | os.PathLike[str],
    *,
    withhold: str | Query | None = None,
) -> int:
    """Write the events between two cuts of a line, with what proves that they stand in it; give their number.

    read_view: reads the line. cuts: finds the cuts in it. The head that they lead to is sealed, where one is that holds them all. Keys are
    not shown: their salt is that of the whole family.
    """
    seal = last_seal(storage)
    view = read_view()
    start, stop = cuts(view)
    if start >= stop:
        raise InvalidPlaceError(f"there are no events from {start} to {stop}; nothing was written; name at least one")
    sealed = _sealed_head(storage, view, stop, seal)
    head = head_at(storage, view, view.size) if sealed is None else sealed
    places = [*subtree_places(0, start), *subtree_places(stop, head.size)]
    nodes = [node.hex() for node in storage.tree_nodes(view.lineage, places)]
    manifest = RangeManifest(
        session=session.id,
        id=session.name,
        branch=view.branch.id,
        start=start,
        stop=stop,
        size=head.size,
        root=head.root,
        nodes=nodes,
    )

    def write(writer: _Writer) -> None:
        writer.add("manifest.json", msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        key_salt = session.family.key_salt
        line = _Line(session.name, view.branch.id, lambda at: view.lineage.owner(at).writer, key_salt, keys=False)
        before = None if start == 0 else storage.leaf_at(view.lineage, start - 1)[0]
        writer.add_pages(0, line, before, line_pages(storage, view.lineage, start, stop))
        writer.end(seal, [] if sealed is None else [(view.branch.id, head.size)])

    return _write_whole(Path(path), _Writer(storage, _asked(storage, withhold)), write)


def _sealed_head(storage: Storage, view: View, stop: int, seal: SealRow | None) -> Head | None:
    """Give the first sealed head of a line that holds all up to `stop`; None where there is none."""
    place = None if seal is None else storage.head_place(view.branch.id, stop, seal.size)
    if place is None:
        return None
    head = read_record(storage.placed(place, place + 1)[0].record, HeadRecord).head
    return head if head.size <= view.size else None


def export_sessions(
    storage: Storage,
    chosen: Query,
    folder: str | os.PathLike[str],
    *,
    withhold: str | Query | None = None,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write each living session that meets a query as a bundle of its own into a folder, which is made where it is not there.

    progress: is told how many sessions are written.
    """
    into, asked = Path(folder), _asked(storage, withhold)
    try:
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"the folder {into} cannot be made ({error.strerror}); nothing was written; name another"
        ) from error
    exported: list[Exported] = []
    for session in all_sessions(storage, chosen):
        # With the random end of its id: names that differ in case alone are one file on some disks.
        name = quote(session.name, safe="")[:FILE_NAME_CHARACTERS_MAX].replace(".", "%2E")
        path = into / f"{name}.{session.id[-8:]}.everlog"
        with suppress(NotFoundError):  # it was deleted meanwhile
            count = export_session(storage, storage.session_by_id(session.id), path, withhold=asked)
            exported.append(Exported(session.name, str(path), count, path.stat().st_size))
            if progress is not None:
                progress(len(exported))
    return exported


def _asked(storage: Storage, withhold: str | Query | None) -> Query | None:
    return parse(withhold, now=storage.now()) if isinstance(withhold, str) else withhold


def _write_whole(target: Path, writer: _Writer, write: Callable[[_Writer], None]) -> int:
    """Write a bundle, whole or not at all; give the number of events in it."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as writer.tar:
                write(writer)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise UnavailableError(
            f"the bundle {target} cannot be written ({error.strerror}); nothing is there; choose another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return writer.count


class _Line(msgspec.Struct, frozen=True):
    """What the events of a line are written with. writer: of the event at a position. keys: whether they are shown."""

    session: str
    branch: str
    writer: Callable[[int], str]
    key_salt: bytes
    keys: bool = True


class _Writer:
    """Writes the members of a bundle in their order. tar: set while it is open."""

    tar: tarfile.TarFile

    def __init__(self, storage: Storage, withhold: Query | None) -> None:
        self._storage = storage
        self._meets = None if withhold is None else compile_query(withhold)
        self._digest = sha256()
        self._records: dict[int, bytes] = {}
        self.count = 0

    def add(self, name: str, content: bytes) -> None:
        _add(self.tar, name, content)
        self._digest.update(_framed(name, content))

    def add_pages(self, branch: int, line: _Line, previous: bytes | None, pages: Iterable[list[EventParcel]]) -> None:
        """Add events. previous: the leaf before them."""
        for number, page in enumerate(pages, start=1):
            headers: list[bytes] = []
            contents: list[bytes] = []
            for event in page:
                row, writer = event.row, line.writer(event.row.position)
                try:
                    header = header_of(row, writer=writer, previous=previous, key_salt=line.key_salt)
                    headers.append(encode_header(header))
                    seen = event_of(row, session=line.session, branch_id=line.branch, writer=writer)
                    withheld = self._meets is not None and self._meets(seen)
                    contents.append(msgspec.json.encode(_contents(event, withheld=withheld, keys=line.keys)))
                except (ValueError, msgspec.MsgspecError) as error:  # no UTF-8, a list that is none
                    raise damaged_event(line.session, row.position, f"it cannot be exported ({error})") from error
                previous = row.leaf
                if row.gone == ERASED:
                    entry = self._storage.erasure(row.leaf)
                    if entry is not None:
                        self._records[entry.number] = entry.record
            folder = f"branches/{branch:04d}/{number:06d}"
            self.add(f"{folder}.headers", b"\n".join(headers) + b"\n")
            self.add(f"{folder}.bodies", b"\n".join(contents) + b"\n")
            self.count += len(page)

    def end(self, seal: SealRow | None, branches: Iterable[tuple[str, int]]) -> None:
        """Add the ledger's records, and what a seal says of them and of branches, by id and size."""
        self.add("ledger.jsonl", b"".join(record + b"\n" for _, record in sorted(self._records.items())))
        if seal is not None:
            places = head_places(self._storage, seal, branches)
            places += record_places(self._storage, seal, self._records.values())
            self.add("sealed.json", attest(self._storage, seal, places))
        _add(self.tar, "sha256", self._digest.hexdigest().encode() + b"\n")


def _framed(name: str, content: bytes) -> bytes:
    """Give what the bundle's digest takes of a member: lengths keep names and contents apart."""
    return f"{len(name)}:{name}{len(content)}:".encode() + content


def _contents(event: EventParcel, *, withheld: bool, keys: bool) -> _Contents:
    row = event.row
    key = None if withheld or not keys else row.key
    cause = None if row.cause is None else Cause.unpack(row.cause).id
    if withheld or row.body is None or row.salt is None:
        gone = _GONE.get(row.gone or 0, "withheld")
        return _Contents(row.position, gone=gone, key=key, caused_by=cause)  # names of attachments may be personal
    attachments = [
        _Attachment(
            item.name,
            item.size,
            None if item.salt is None else item.salt.hex(),
            None if item.content is None else b64encode(item.content).decode(),
        )
        for item in event.attachments
    ]
    return _Contents(row.position, row.body.decode(), row.salt.hex(), None, key, cause, attachments)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Give a member as every bundle has it."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


# --- reading -------------------------------------------------------------------------------------
class Bundle:
    """An open bundle: its manifest, and its events in pages. Nothing in it is checked against hashes yet."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._tar = tarfile.open(self.path, mode="r:")  # noqa: SIM115  # closed by __exit__
        except FileNotFoundError:
            raise NotFoundError(f"there is no bundle at {self.path}") from None
        except (OSError, tarfile.TarError) as error:
            raise self._broken(f"it cannot be read as a tar ({error})") from error
        try:
            self._members = self._tar.getmembers()
        except (OSError, tarfile.TarError, ValueError) as error:
            self._tar.close()
            raise self._broken(f"it cannot be read as a tar ({error})") from error
        self._index: list[list[tuple[tarfile.TarInfo, tarfile.TarInfo]]] = []
        try:
            self.parcel = self._manifest()
            self._check_members()
            self._check_frame()
            self._check_digest()
            self.erased = self._erased_leaves()
            self.heads = self._sealed_heads() if self._ends == len(_SEALED_END) else {}
        except BaseException:
            self._tar.close()
            raise

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def pages(self, branch: int, start: int) -> Iterator[list[EventParcel]]:
        """Give the events of a branch from a position on, a member's at a time."""
        position = self.parcel.branches[branch].base_size
        for headers, bodies in self._index[branch]:
            head_lines = self._lines(headers)
            if position + len(head_lines) > start:
                body_lines = self._lines(bodies)
                if len(head_lines) != len(body_lines):
                    raise self._broken(f"{headers.name} and {bodies.name} differ in length")
                pairs = zip(head_lines, body_lines, strict=True)
                page = [self._event(header, body, headers.name) for header, body in pairs]
                yield page[max(0, start - position) :]
            position += len(head_lines)

    def _manifest(self) -> SessionParcel:
        if not self._members or self._members[0].name != "manifest.json" or not self._members[0].isreg():
            raise self._broken("it does not begin with manifest.json")
        if self._members[0].size > MANIFEST_BYTES_MAX:
            raise self._broken("its manifest is larger than any can be")
        try:
            if msgspec.json.decode(self._read(self._members[0]), type=_Version).v == RANGE_FORMAT:
                raise InvalidEventError(
                    f"{self.path} holds a range of a session, which can be checked and not taken in; nothing was taken; ask for a bundle of "
                    "the whole session"
                )
            parcel = msgspec.json.decode(self._read(self._members[0]), type=SessionParcel)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._broken(f"its manifest cannot be read ({error})") from error
        if parcel.v != BUNDLE_FORMAT:
            raise self._broken(f"it is of format {parcel.v[:50]!r}, and this Everlog reads {BUNDLE_FORMAT}")
        self._check_branches(parcel)
        return parcel

    def _check_branches(self, parcel: SessionParcel) -> None:
        branches = parcel.branches
        if not 1 <= len(branches) <= BRANCHES_MAX or not 0 <= parcel.current < len(branches):
            raise self._broken("its manifest names no current branch")
        texts = [parcel.session, parcel.family, *(text for each in branches for text in (each.id, each.writer))]
        if not all(re.fullmatch(r"[0-9a-f]{32}", text) for text in texts):
            raise self._broken("its manifest holds an id that is not 32 hex digits")
        if re.fullmatch(r"[0-9a-f]{64}", parcel.key_salt) is None:
            raise self._broken("its key salt is not 32 bytes")
        if parcel.parent is not None and re.fullmatch(r"[0-9a-f]{112}", parcel.parent) is None:
            raise self._broken("its parent is not an event's id with its leaf")
        for place, branch in enumerate(branches):
            below = None if branch.base is None else branches[branch.base] if 0 <= branch.base < place else branch
            floor = 0 if below is None else below.base_size + 1
            ceiling = 0 if below is None else below.size
            if below is branch or not floor <= branch.base_size <= ceiling or branch.size < branch.base_size:
                raise self._broken(f"its branch {place} does not stand on a branch before it")

    def _check_members(self) -> None:
        rest = self._members[1:]
        ending = tuple(member.name for member in rest[-len(_SEALED_END) :])
        if ending != _SEALED_END and ending[-len(_END) :] != _END:
            raise self._broken("it is cut off: it does not end with ledger.jsonl and sha256")
        self._ends = len(_SEALED_END) if ending == _SEALED_END else len(_END)
        self._index = [[] for _ in self.parcel.branches]
        for member in rest:
            if not member.isreg() or member.size > MEMBER_BYTES_MAX:
                raise self._broken(f"its member {member.name[:100]!r} is no regular file of a possible size")
        pages, at = rest[: -self._ends], 0
        for branch, index in enumerate(self._index):
            while at < len(pages) and pages[at].name == f"branches/{branch:04d}/{len(index) + 1:06d}.headers":
                if [page.name for page in pages[at + 1 : at + 2]] != [pages[at].name[:-7] + "bodies"]:
                    raise self._broken(f"its member {pages[at].name!r} stands alone")
                index.append((pages[at], pages[at + 1]))
                at += 2
        if at < len(pages):
            raise self._broken(f"its member {pages[at].name[:100]!r} is not one that a bundle has there")

    def _check_frame(self) -> None:
        """Check what stands between the members, which tar reads generously: it is the same in every bundle, bit by bit."""
        at = 0
        with open(self.path, "rb") as file:  # noqa: PTH123  # beside the one that tarfile reads
            for member in self._members:
                header = _member(member.name, member.size).tobuf(tarfile.USTAR_FORMAT)
                blocks = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                file.seek(at)
                whole = member.offset == at and file.read(len(header)) == header
                file.seek(at + len(header) + member.size)
                at += len(header) + blocks
                if not whole or any(file.read(blocks - member.size)):
                    raise self._broken(f"what stands round its member {member.name[:100]!r} was changed")
            file.seek(at)
            end = -(-(at + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - at
            if file.read(end + 1) != bytes(end):
                raise self._broken("its end was changed")

    def _check_digest(self) -> None:
        digest = sha256()
        for member in self._members[:-1]:
            digest.update(_framed(member.name, self._read(member)))
        if self._read(self._members[-1]) != digest.hexdigest().encode() + b"\n":
            raise self._broken("its contents are not those that its sha256 was made of: it was damaged or changed")

    def _erased_leaves(self) -> frozenset[str]:
        leaves: set[str] = set()
        for line in self._lines(member := self._members[-self._ends], 0, member.size // RECORD_BYTES_MIN):
            record = read_erase_record(line)
            if record is None or encode_record(record) != line or abs(record.t) > limits.SAFE_INTEGER_MAX:
                raise self._broken("its ledger holds what is no record of an erasure in its one form")
            leaves.update(leaf for _, leaf in record.events)
        return frozenset(leaves)

    def _sealed_heads(self) -> dict[tuple[int, int], str]:
        """Give the roots that are sealed, by index of the branch and size."""
        places = {branch.id: place for place, branch in enumerate(self.parcel.branches)}
        heads: dict[tuple[int, int], str] = {}
        try:
            for record in read_attestation(self._read(self._members[-2])):
                place = places.get(record.branch)
                if place is None or record.session != self.parcel.session:
                    raise ValueError(f"its seal is of the branch {record.branch[:32]}, which is none of the session's")
                if heads.setdefault((place, record.size), record.root) != record.root:
                    raise ValueError("its seal says two roots of one size")
        except ValueError as error:
            raise self._broken(str(error)) from error
        return heads

    def _read(self, member: tarfile.TarInfo) -> bytes:
        file = self._tar.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) != member.size:
            raise self._broken(f"it is cut off within {member.name}")
        return content

    def _lines(self, member: tarfile.TarInfo, least: int = 1, most: int = limits.PAGE_EVENTS_MAX) -> list[bytes]:
        if not least <= (count := (content := self._read(member)).count(b"\n")) <= most:
            raise self._broken(f"{member.name} has {count} lines where {least} to {most} can be")
        lines = content.split(b"\n")
        if lines.pop():
            raise self._broken(f"{member.name} does not end with the end of a line")
        return lines

    def _event(self, line: bytes, body_line: bytes, name: str) -> EventParcel:
        try:
            header = decode_header(line)
            contents = msgspec.json.decode(body_line, type=_Contents)
            if contents.n != header.n:
                raise ValueError(f"body {contents.n} stands beside header {header.n}")
            return EventParcel(_row(header, line, contents), _attachments(contents))
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise self._broken(f"an event in {name} cannot be read ({error})") from error

    def _broken(self, what: str) -> TamperedError:
        return TamperedError(
            f"the bundle {self.path} is not whole: {what}; nothing was taken; get it again from where it was made"
        )


def _row(header: Header, line: bytes, contents: _Contents) -> EventRow:
    gone = {None: None, "erased": ERASED, "withheld": WITHHELD}[contents.gone]
    cause = None
    if (header.r is None) != (contents.caused_by is None):
        raise ValueError("its cause is not named, or was not hashed")
    if header.r is not None:
        place = parse_event_id(contents.caused_by or "")
        if place is None:
            raise ValueError("its cause is not named")
        cause = Cause(place.writer, place.position, bytes.fromhex(header.r)).pack()
    covers = None
    if header.g is not None:
        covers = msgspec.json.encode([(each["a"], each["z"], each["h"]) for each in header.g]).decode()
    bare = [PreparedAttachment(item.name, item.size, None, None) for item in contents.attachments]
    return EventRow(
        header.n,
        header.y,
        header.a,
        header.o,
        header.t,
        header.w,
        cause,
        contents.key,
        header.m,
        bytes.fromhex(header.k) if header.k is not None and contents.key is None else None,
        covers,
        gone,
        encode_attached(bare),
        bytes.fromhex("".join(header.c)),
        leaf_hash(line),
        b"",
        None if contents.salt is None else bytes.fromhex(contents.salt),
        None if contents.body is None else contents.body.encode(),
    )


def _attachments(contents: _Contents) -> tuple[PreparedAttachment, ...]:
    return tuple(
        PreparedAttachment(
            item.name,
            item.size,
            None if item.salt is None else bytes.fromhex(item.salt),
            None if item.content is None else b64decode(item.content, validate=True),
        )
        for item in contents.attachments
    )


def import_bundle(
    target: Storage,
    draw: Draw,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Transferred:
    """Check a bundle whole, then take from it what the target lacks."""
    with Bundle(path) as bundle:
        latest = None if force else target.now() + limits.CLOCK_AHEAD_MICROS_MAX
        check_parcel(
            bundle.parcel,
            bundle.pages,
            latest=latest,
            erased=lambda leaf: leaf.hex() in bundle.erased,
            heads=bundle.heads,
        )
        return take_checked(target, draw, bundle.parcel, bundle.pages, progress)
