"""What is shown to the libraries of others: proofs, seals and time stamps of a real store, each also altered.

A case says whether it is good. `lax`: libraries that do not look at what was altered, and so take it.
"""

import threading
from base64 import b64decode, b64encode

import msgspec

import everlog
from everlog import NewEvent
from everlog.core.merkle import inclusion_proof
from everlog.core.note import parse_note
from everlog.core.proof import by_one_read
from everlog.seals import prove_ledger
from everlog.witnessing import WitnessKeeper, serve

EVENTS = 300
SIZES = (1, 2, 3, 7, 8, 13, 64, 100, 255, 256, 257, 300)


def b64(content):
    return b64encode(content).decode()


def flipped(content, bit=0):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- proofs --------------------------------------------------------------------------------------
def altered_paths(path):
    """Give the path with one thing altered, each way that there is."""
    for place, step in enumerate(path):
        yield f"bit of step {place}", [*path[:place], flipped(step, 8 * place), *path[place + 1 :]]
    yield "one more", [*path, bytes(32)]
    if path:
        yield "one less", path[:-1]
        yield "without the first", path[1:]
        yield "the last twice", [*path, path[-1]]
    if len(path) > 1:
        yield "turned round", path[::-1]
        yield "none", []


def inclusion(name, *, leaf, index, size, root, path):
    def case(what, *, leaf=leaf, index=index, root=root, path=path, good=False):
        return {
            "name": f"{name}: {what}",
            "leaf": b64(leaf),
            "index": index,
            "size": size,
            "root": b64(root),
            "path": [b64(step) for step in path],
            "good": good,
        }

    yield case("as it is", good=True)
    yield case("another leaf", leaf=flipped(leaf, 11))
    yield case("another root", root=flipped(root, 250))
    yield case("the next place", index=index + 1)
    if index:
        yield case("the place before", index=index - 1)
    for what, steps in altered_paths(path):
        yield case(what, path=steps)


def consistency(name, *, old, old_root, size, root, path):
    def case(what, *, old_root=old_root, root=root, path=path, good=False):
        return {
            "name": f"{name}: {what}",
            "old": old,
            "old_root": b64(old_root),
            "size": size,
            "root": b64(root),
            "path": [b64(step) for step in path],
            "good": good,
        }

    yield case("as it is", good=True)
    yield case("another old root", old_root=flipped(old_root, 9))
    yield case("another root", root=flipped(root, 9))
    if old != size:
        yield case("roots changed over", old_root=root, root=old_root)
    for what, steps in altered_paths(path):
        yield case(what, path=steps)


def of_session(session):
    """Proofs of a session's tree, at many sizes."""
    found = {"inclusion": [], "consistency": []}
    roots = {}
    for size in SIZES:
        for position in sorted({0, size // 2, size - 1}):
            proof = session.prove(position, at=size)
            roots[size] = bytes.fromhex(proof.head.root)
            path = [bytes.fromhex(step) for step in proof.path]
            leaf = proof.event.header.encode()
            found["inclusion"] += inclusion(
                f"event {position} of {size}", leaf=leaf, index=position, size=size, root=roots[size], path=path
            )
    for old in SIZES:
        for size in (size for size in SIZES if size >= old):
            proof = session.prove_consistency(old, size)
            path = [bytes.fromhex(step) for step in proof.path]
            found["consistency"] += consistency(
                f"session {old} to {size}", old=old, old_root=roots[old], size=size, root=roots[size], path=path
            )
    return found


def of_ledger(store, session, seals):
    """Proofs of the ledger's tree: of sealed heads, of every record, and from each seal to the last."""
    found = {"inclusion": [], "consistency": []}
    sealed = session.prove_sealed(17)
    last = seals[-1].head
    root = bytes.fromhex(last.root)
    assert sealed.note == seals[-1].note.encode()
    found["inclusion"] += inclusion(
        "sealed head", leaf=sealed.record, index=sealed.index, size=last.size, root=root, path=list(sealed.path)
    )
    for index, row in enumerate(store.storage.placed(0, last.size)):
        path = by_one_read(
            lambda node, index=index: inclusion_proof(index, last.size, node), store.storage.ledger_nodes
        )
        found["inclusion"] += inclusion(
            f"record {index}", leaf=row.record, index=index, size=last.size, root=root, path=list(path)
        )
    for seal in seals:
        found["consistency"] += consistency(
            f"ledger {seal.head.size} to {last.size}",
            old=seal.head.size,
            old_root=bytes.fromhex(seal.head.root),
            size=last.size,
            root=root,
            path=list(prove_ledger(store.storage, seal.head.size, last.size)),
        )
    return found


# --- notes ---------------------------------------------------------------------------------------
def with_signature(note, line, content):
    """Give a note with another signature of its `line`; content: key id and signature."""
    head, separator, lines = note.rpartition("\n\n")
    lines = lines.splitlines()
    lines[line] = f"{' '.join(lines[line].split(' ')[:2])} {b64(content)}"
    return head + separator + "\n".join(lines) + "\n"


def notes(name, note, keys, *, other):
    """A note under its keys, and altered. keys: of its lines, in their order. other: a note of the same keys over something else."""

    def case(what, text, *, pinned=keys, good=False, lax=()):
        return {"name": f"{name}: {what}", "note": text, "keys": list(pinned), "good": good, "lax": list(lax)}

    signatures = parse_note(note.encode()).signatures
    lines = note.splitlines()
    yield case("as it is", note, good=True)
    yield case("its log's key alone", note, pinned=keys[:1], good=True)
    yield case("another size", note.replace(f"\n{lines[1]}\n", f"\n{int(lines[1]) + 1}\n", 1))
    yield case("another root", note.replace(lines[2], b64(flipped(b64decode(lines[2]), 3)), 1))
    yield case("another origin", note.replace(lines[0], lines[0] + "x", 1))
    yield case("one line more", note.replace("\n\n", "\nmore\n\n", 1))
    yield case("no signature", note[: note.rindex("\n\n") + 2])
    yield case(
        "not its end", note[:-1], lax=("npm",) if len(signatures) > 1 else ()
    )  # it leaves out the line that has no end
    theirs = parse_note(other.encode()).signatures
    for place, signature in enumerate(signatures):
        whole = signature.id + signature.content
        lax = ("sigstore", "npm") if place else ()  # they look at the log's signature alone
        for bit in (32, 100, 8 * len(whole) - 9):
            yield case(f"bit {bit} of signature {place}", with_signature(note, place, flipped(whole, bit)), lax=lax)
        yield case(f"signature {place} of another", with_signature(note, place, theirs[place].id + theirs[place].content), lax=lax)  # fmt: skip
        if len(signatures) == 1:
            yield case("of an unknown key", with_signature(note, place, flipped(whole, 3)))


# --- all together --------------------------------------------------------------------------------
def make(folder, authority):
    """Make a store, seal it several times with a witness and an authority for time stamps; give the cases."""
    with everlog.open(folder / "store.db") as store:
        session = store.create("run")
        keys = store.keys(folder / "keys")
        key = keys.new(origin="example.com/log")
        keeper = WitnessKeeper(folder / "witness", "example.com/witness", [key], draw=bytes, clock=lambda: 1_700_000_000_000_000)  # fmt: skip
        seals = []
        with serve(keeper, "127.0.0.1", 0) as server, authority.serving():
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            witness = f"{keeper.verifier}@http://127.0.0.1:{server.server_address[1]}"
            for size in SIZES:
                new = range(session.size(), size)
                session.extend([NewEvent("note", {"content": f"fact {number} — ✓"}) for number in new])
                seals.append(store.seal(keys=keys, witnesses=[witness], timestamp=authority.url))
            server.shutdown()
            thread.join()
        assert session.size() == EVENTS and not any(seal.warnings for seal in seals)
        found = of_session(session)
        for kind, cases in of_ledger(store, session, seals).items():
            found[kind] += cases
        store.write_tiles(folder / "tiles")
        found["roots"] = [
            {"leaves": [b64(session.prove(n, body=False).event.header.encode()) for n in range(EVENTS)], "root": b64(bytes.fromhex(session.head.root))},
            {"leaves": [b64(row.record) for row in store.storage.placed(0, seals[-1].head.size)], "root": b64(bytes.fromhex(seals[-1].head.root))},
        ]  # fmt: skip
        stamps = []
        for place, seal in enumerate(seals[:3]):
            stamp = next((keys.folder / "timestamps").glob(f"{seal.head.size:016d}-*")).read_bytes()
            stamps.append({"name": f"stamp {place}", "stamp": b64(stamp), "note": seal.note, "good": True})
            stamps.append(
                {
                    "name": f"stamp {place}: of another",
                    "stamp": b64(stamp),
                    "note": seals[place + 1].note,
                    "good": False,
                }
            )
            for bit in (
                8 * len(stamp) - 4,
                8 * len(stamp) - 400,
                8 * (stamp.index(b"Z", 60) - 2),
            ):  # signature twice, time
                stamps.append({"name": f"stamp {place}: bit {bit}", "stamp": b64(flipped(stamp, bit)), "note": seal.note, "good": False})  # fmt: skip
    both = [key, keeper.verifier]
    alone = [without_witness(seal.note) for seal in seals]
    found["notes"] = [
        *notes("cosigned", seals[-1].note, both, other=seals[-2].note),
        *notes("signed", alone[-1], both[:1], other=alone[-2]),
    ]
    return found | {
        "stamps": stamps,
        "authorities": [authority.certificates.read_text(), (authority.folder / "tsa.pem").read_text()],
        "tiles": {"folder": str(folder / "tiles"), "size": seals[-1].head.size, "root": found["roots"][1]["root"]},
    }


def without_witness(note):
    parsed = parse_note(note.encode())
    return str(msgspec.structs.replace(parsed, signatures=parsed.signatures[:1]))
