"""Every parser of bytes that others send: what it is fed, what it may raise, and what must hold of all that it takes.

Each is a function of bytes that returns where they are refused as documented, or taken and as they must be. Hypothesis feeds them in
`tests/services/test_foreign_bytes.py`, atheris for as long as one likes: `python3 dev.py fuzz`.
"""

import atexit
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

import everlog
from authority import Authority
from everlog import NewEvent, verifier
from everlog.attesting import read_attestation
from everlog.certificates import read_certificate
from everlog.core.header import decode_header, encode_header
from everlog.core.ledger import HeadRecord, KeyRecord, encode_record, read_erase_record, read_record, record_hash
from everlog.core.merkle import leaf_hash, push_leaf, root_of_peaks
from everlog.core.note import (
    open_checkpoint,
    parse_checkpoint,
    parse_note,
    parse_signatures,
    parse_verifier_key,
)
from everlog.core.proof import (
    ConsistencyProof,
    EventProof,
    ForkProof,
    RangeProof,
    describe,
    parse_tlog_proof,
    read_proof,
)
from everlog.core.sealed_proof import read_sealed_proof
from everlog.core.tiles import decode_records, decode_tile, encode_records, parse_tile
from everlog.errors import InvalidEventError, LimitError, NotFoundError, TamperedError
from everlog.seals import append_seal, read_seals_file
from everlog.testing.clock import START_MICROS, FixedClock
from everlog.timestamps import check_stamp, read_authorities
from everlog.witnessing import WitnessKeeper

APART, NAMED = b"\x1e", b"\x1f"  # between members of a bundle, and their names: JSON holds neither


class Material(NamedTuple):
    """Real values to begin with, of a small store. store: it, open."""

    store: everlog.Store
    folder: Path
    key: str
    seal: bytes
    cosigned: bytes
    proofs: tuple[bytes, ...]
    sealed_proof: bytes
    headers: tuple[bytes, ...]
    records: tuple[bytes, ...]
    certificate: bytes
    bundles: tuple[bytes, ...]
    request: bytes
    keeper: WitnessKeeper
    stamp: bytes
    authorities: list[Any]


@cache
def material() -> Material:
    """Make a store of many shapes, and what is proved, sealed, certified and exported of it."""
    folder = Path(tempfile.mkdtemp(prefix="everlog-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = everlog.open(folder / "store.db")
    session = store.create("run", labels={"of": "many"}, metadata={"shapes": [1, None]})
    session.extend([NewEvent("note", {"content": f"n{n} ✓"}, key=f"k{n}") for n in range(9)])
    session.append(
        "note", {"content": "see"}, attachments={"a": b"\x00\xff"}, caused_by=session[3], actor="a", outcome="ok"
    )
    other = session.fork(at=5, id="other")
    keys = store.keys(folder / "keys")
    key = keys.new(origin="example.com/log")
    session.erase([2], reason="asked")
    session.rewind(4, reason="back", events=[NewEvent("note", {"content": "on b2"})])
    seal = store.seal(keys=keys).note.encode()
    keeper = WitnessKeeper(folder / "witness", "example.com/w", [key], draw=bytes, clock=FixedClock())
    request = b"old 0\n\n" + seal
    lines = keeper.add_checkpoint(request).body.encode()
    proofs = (
        session.prove(1),
        session.prove(2, body=False),
        session.prove_range(0, 3),
        session.prove_consistency(2),
        session.prove_fork(other),
    )
    session.export(folder / "whole.everlog")
    other.export(folder / "other.everlog", withhold="type:note")
    session.export(folder / "range.everlog", start=1, stop=3)
    return Material(
        store,
        folder,
        key,
        seal,
        seal + lines,
        tuple(proof.encode() for proof in proofs),
        session.prove_sealed(1).encode(),
        tuple(session.prove(n).event.header.encode() for n in range(session.size())),
        tuple(row.record for row in store.storage.placed(0, 1_000)),
        session.certificate([2]).encode(),
        tuple((folder / f"{name}.everlog").read_bytes() for name in ("whole", "other", "range")),
        request,
        keeper,
        *_stamped(folder, seal),
    )


def _stamped(folder, seal):
    """Give a time stamp of the seal, and who it is trusted from; where there is no openssl, no stamp is good."""
    if shutil.which("openssl") is None:
        return b"", []
    authority = Authority(folder / "authority")
    query = TimestampRequestBuilder(seal, HashAlgorithm.SHA256).build()
    return authority.stamp(query.as_bytes()), read_authorities(authority.certificates)


# --- one function a parser: it tells whether the bytes were taken ---------------------------------
def note(raw):
    with suppress(ValueError):
        taken = parse_note(raw)
        assert str(taken).encode() == raw
        checkpoint = parse_checkpoint(taken.text)
        assert str(checkpoint) == taken.text
        verifier.open_seal(str(taken), [])  # which is no stricter
    with suppress(TamperedError):
        opened = open_checkpoint(raw, origin="example.com/log", keys=[parse_verifier_key(material().key)])[0]
        assert str(opened).encode() in material().seal  # its key signed nothing else
        return True
    return False


def signatures(raw):
    with suppress(ValueError):
        assert "".join(map(str, parse_signatures(raw))).encode() == raw
        return True
    return False


def key(raw):
    text = raw.decode("utf-8", "surrogateescape")
    with suppress(ValueError):
        verifier.read_key(text)
    with suppress(ValueError):
        assert str(parse_verifier_key(text)) == text
        return True
    return False


def proof(raw):
    with suppress(TamperedError):
        taken = read_proof(raw)
        assert taken.encode() == raw
        match taken:
            case EventProof() | RangeProof():
                taken.verify(taken.head)
            case ConsistencyProof():
                taken.verify(old=taken.old, new=taken.new)
            case ForkProof():
                taken.verify(one=taken.one, other=taken.other)
        return bool(describe(taken))
    return False


def tlog_proof(raw):
    with suppress(ValueError):
        assert parse_tlog_proof(raw).encode() == raw
        return True
    return False


def sealed_proof(raw):
    with suppress(TamperedError):
        taken = read_sealed_proof(raw)
        assert taken.encode() == raw
        found = taken.verify(material().key)
        assert str(found.checkpoint).encode() in material().seal  # its key signed nothing else
        assert taken.position == 1
        return True
    return False


def tile(raw):
    path, _, content = raw.partition(b"\n")
    text = path.decode("utf-8", "surrogateescape")
    with suppress(ValueError):
        taken = parse_tile(text)
        assert str(taken) == text
        if taken.level is None:
            assert encode_records(decode_records(content, taken.width)) == content
        else:
            assert b"".join(decode_tile(content, taken.width)) == content
        return True
    return False


def header(raw):
    try:
        theirs = verifier.read_header(raw)
    except ValueError:
        theirs = None
    try:
        assert encode_header(decode_header(raw)) == raw
    except ValueError:
        assert theirs is None, "the verifier takes a header that is none here"
        return False
    return True


def record(raw):
    taken = read_erase_record(raw) is not None
    with suppress(ValueError):
        verifier.read_record(raw)
    for kind in (HeadRecord, KeyRecord):
        with suppress(ValueError):
            assert encode_record(read_record(raw, kind)) == raw
            taken = True
    return taken


def certificate(raw):
    with suppress(InvalidEventError):
        taken = read_certificate(raw)
        replace = msgspec.structs.replace  # whoever makes one up makes its hashes too
        records = tuple(replace(each, hash=record_hash(each.record.encode()).hex()) for each in taken.records)
        with suppress(TamperedError, NotFoundError):
            taken.verify(material().key)
            sealed = read_certificate(material().certificate)
            assert {each.record for each in taken.records} <= {each.record for each in sealed.records}
        return material().store.check_certificate(replace(taken, records=records)).ok
    return False


def seals(raw):
    path = material().folder / "seals.txt"
    path.write_bytes(raw)
    append_seal(path, material().seal)
    assert path.read_bytes().endswith(material().seal)
    with suppress(TamperedError):
        found = read_seals_file(raw)
        path.write_bytes(raw)
        report = material().store.verify(keys=[material().key], seals=[path])
        return bool(found) and report.ok
    return False


def attestation(raw):
    with suppress(ValueError):
        return bool(read_attestation(raw))
    return False


def witness(raw):
    status = material().keeper.add_checkpoint(raw).status
    assert status in {200, 400, 403, 404, 409, 422}
    return status in {200, 409}  # it has cosigned what it is asked for first


def stamp(raw):
    with suppress(TamperedError):
        at = check_stamp(raw, material().seal, material().authorities)
        assert at == check_stamp(material().stamp, material().seal, material().authorities)
        return True
    return False


def bundle(raw):
    """A file as it comes: its frame, and what the verifier says of it."""
    path = material().folder / "given.everlog"
    path.write_bytes(raw)
    return _both(path)


def members(raw):
    """What is in a bundle, in a frame and under a digest that fit it, so that they are looked at."""
    path = material().folder / "given.everlog"
    path.write_bytes(_framed(raw))
    return _both(path)


def forged(raw):
    """A bundle that was made up, all its hashes too: for each event, what its header and what stands beside it say otherwise."""
    try:
        content = _forge([(dict(header), dict(beside)) for header, beside in verifier.parse(raw)])
    except (ValueError, TypeError, AttributeError):  # it says nothing of events
        return False
    path = material().folder / "given.everlog"
    path.write_bytes(_framed(content))
    return _both(path)


def _forge(said):
    writer, salt, peaks, previous = "ab" * 16, bytes(32), [], None
    headers, bodies = [], []
    for n, (header, beside) in enumerate(said):
        body = beside.get("body", '{"data":{"content":"x"}}')
        beside = {"n": n, "body": body, "salt": salt.hex()} | beside
        made = {"b": writer, "n": n, "t": START_MICROS + n, "v": "everlog/1/event", "y": "note"}
        made["c"] = [verifier.commit(salt, "body", str(body).encode("utf-8", "replace"))]
        made |= {} if previous is None else {"p": previous.hex()}
        made |= (
            {"k": verifier.commit(salt, "key", beside["key"].encode())} if isinstance(beside.get("key"), str) else {}
        )
        headers.append(
            verifier.canonical({name: value for name, value in (made | header).items() if value is not None})
        )
        bodies.append(verifier.canonical({name: value for name, value in beside.items() if value is not None}))
        previous = leaf_hash(headers[-1])
        push_leaf(peaks, n, previous)
    branch = {"id": "cd" * 16, "writer": writer, "base": None, "base_size": 0, "size": len(said), "root": root_of_peaks(peaks).hex(), "own": True}  # fmt: skip
    manifest = {
        "v": "everlog/1/bundle", "session": "ef" * 16, "id": "forged", "title": None, "labels": {}, "metadata": None, "parent": None,
        "created": START_MICROS, "family": "01" * 16, "key_salt": salt.hex(), "branches": [branch], "current": 0,
    }  # fmt: skip
    lines = [b"".join(line + b"\n" for line in each) for each in (headers, bodies)]
    names = [b"manifest.json", b"branches/0000/000001.headers", b"branches/0000/000001.bodies", b"ledger.jsonl"]
    parts = zip(names, [verifier.canonical(manifest), *lines, b""], strict=True)
    return APART.join(name + NAMED + content for name, content in parts)


def _both(path):
    """Have the importer and the verifier look at a bundle. What is taken must verify, and be no tampered one to the other."""
    said = verifier.verify_bundle(str(path), [material().key])
    assert said.code in {verifier.GOOD, verifier.TAMPERED, verifier.INCOMPLETE, verifier.UNSEALED}
    verifier.in_html(said)
    verifier.in_text(said).encode()
    with everlog.open("memory:") as target:
        try:
            target.import_bundle(path)
        except (TamperedError, LimitError, InvalidEventError):  # the last of a range, which is none to take in
            assert not list(target.sessions())
            return False
        unsigned = "signature of" in str(said.faults)  # the importer pins no key, and looks at none
        assert said.code != verifier.TAMPERED or unsigned, said.faults
        assert target.verify().ok
        for session in target.sessions():
            for event in target.session(session.id):
                assert event.occurred_at is None or event.occurred_at.tzinfo
                assert (
                    event.recorded_at.tzinfo,
                    event.data,
                    event.metadata,
                    event.rationale,
                    event.caused_by,
                ) is not None
        return True


def _framed(raw):
    digest, file = sha256(), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for part in raw.split(APART):
            name, _, content = part.partition(NAMED)
            name = name[:100].decode("latin-1").replace("\x00", "0")
            digest.update(f"{len(name)}:{name}{len(content)}:".encode() + content)
            _add(tar, name, content)
        _add(tar, "sha256", digest.hexdigest().encode() + b"\n")
    return file.getvalue()


def _add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    with suppress(ValueError, UnicodeError):  # a name that no such file can hold
        tar.addfile(member, io.BytesIO(content))


def _unframed(raw):
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        parts = [(each.name.encode(), tar.extractfile(each).read()) for each in tar.getmembers()]
    return APART.join(name + NAMED + content for name, content in parts if name != b"sha256")


PARSERS: dict[str, Callable[[bytes], bool]] = {
    each.__name__: each
    for each in (
        note, signatures, key, proof, tlog_proof, sealed_proof, tile, header, record, certificate, seals, attestation, witness,
        stamp, bundle, members, forged,
    )
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Give real values for a parser to begin with."""
    made = material()
    unframed = [_unframed(each) for each in made.bundles]
    lines = made.cosigned.partition(b"\n\n")[2]
    found: dict[str, list[bytes]] = {
        "note": [made.seal, made.cosigned],
        "signatures": [lines],
        "key": [made.key.encode(), made.keeper.verifier.encode()],
        "proof": list(made.proofs),
        "tlog_proof": [made.sealed_proof],
        "sealed_proof": [made.sealed_proof],
        "tile": [
            b"tile/0/x001/234.p/2\n" + bytes(64),
            b"tile/entries/000.p/2\n" + encode_records(made.records[:2]),
        ],
        "header": list(made.headers),
        "record": list(made.records),
        "certificate": [made.certificate],
        "seals": [made.seal + b"\n" + made.cosigned, made.cosigned + b"\n" + made.seal[:-40]],
        "attestation": [part.partition(NAMED)[2] for each in unframed for part in each.split(APART) if part.startswith(b"sealed")],
        "witness": [made.request, made.request.replace(b"old 0\n", b"old 3\n" + b"A" * 43 + b"=\n")],
        "stamp": [made.stamp, bytes.fromhex("30053003020102"), bytes.fromhex("30053003020100")],
        "bundle": list(made.bundles),
        "members": unframed,
        "forged": [
            b'[[{},{}],[{"a":"ada","o":"ok","w":-5},{"key":"k"}],[{"y":"my.type"},{"body":"{\\"data\\":null,\\"rationale\\":\\"r\\"}"}]]',
            b'[[{"m":2},{"key":"k"}],[{"y":"summary","g":[{"a":0,"h":"' + b"0" * 64 + b'","z":1}]},{}]]',
            b'[[{"r":"' + b"0" * 64 + b'"},{"caused_by":"ev_' + b"0" * 32 + b'_0"}]]',
        ],
    }  # fmt: skip
    return found[name]
