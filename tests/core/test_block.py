"""Blocks: every body comes back byte for byte, damage is told or refused, and a dictionary holds nothing that a body says."""

import json
import random
import re
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core.block import (
    DICTIONARY_SAMPLES_MIN,
    SHARED_BYTES_MIN,
    Codec,
    Entry,
    dictionary_digest,
    make_entry,
    mask,
    pack_shared,
    train,
    unpack_shared,
    zstd,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LONG = st.builds(
    lambda text, times: text * times,
    st.text(min_size=1, max_size=4),
    st.sampled_from([1, SHARED_BYTES_MIN // 4, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, 2 * SHARED_BYTES_MIN]),
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON | LONG | st.lists(LONG, max_size=3), max_size=4)
BODIES = OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False).encode()) | OBJECTS.map(
    lambda value: json.dumps(value, indent=1).encode()
)
ANY = BODIES | st.binary(max_size=60) | st.binary(max_size=4).map(lambda piece: piece * 9_000)  # JSON or not
SALTS = st.binary(min_size=32, max_size=32)


@pytest.fixture(scope="module")
def dictionary():
    made = train([json.dumps({"content": f"step {n}", "number": n, "outcome": "ok"}).encode() for n in range(200)])
    assert made is not None
    return made


@given(st.lists(st.tuples(SALTS, ANY), min_size=1, max_size=8), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_block_gives_back_every_body_and_salt(dictionary, given_bodies, with_dictionary):
    shared = {}
    entries = []
    for position, (salt, body) in enumerate(given_bodies):
        entry, long = make_entry(position, salt, body)
        entries.append(entry)
        shared |= long
    codec = Codec(dictionary if with_dictionary else None)
    packed = codec.pack(entries)
    assert packed.checksum == sha256(packed.content).digest()
    kept = {
        digest: unpack_shared(one.content, one.plain)
        for digest, one in ((d, pack_shared(p)) for d, p in shared.items())
    }
    assert all(sha256(plain).digest() == digest for digest, plain in kept.items())
    back = Codec(dictionary if with_dictionary else None).unpack(packed.content, packed.plain)
    assert [(each.position, each.salt, each.body(kept.__getitem__)) for each in back] == [
        (position, salt, body) for position, (salt, body) in enumerate(given_bodies)
    ]


@given(OBJECTS)
@settings(max_examples=60, deadline=None)
def test_each_long_string_leaves_its_body_once(value):
    body = json.dumps(value).encode()
    entry, shared = make_entry(0, bytes(32), body)
    strings = [text[1:-1].encode() for text in map(json.dumps, strings_of(value)) if len(text) - 2 >= SHARED_BYTES_MIN]
    assert set(shared.values()) == set(strings)
    assert len(entry.digests) == len(strings)
    assert sum(map(len, entry.pieces)) + sum(map(len, strings)) == len(body)


def strings_of(value):
    """Every string of a JSON value, names too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in strings_of(part)]
    return [each for part in value for each in strings_of(part)] if isinstance(value, list) else []


def test_a_long_string_behind_many_numbers_is_kept_once_too():
    image = "iVBORw0KGgo" * 5_000
    body = json.dumps({"mixed": ["a", *range(9_000), image]}).encode()
    assert list(make_entry(0, bytes(32), body)[1].values()) == [image.encode()]


# --- damage --------------------------------------------------------------------------------------
def block(count=20):
    """A block and its entries."""
    entries = [Entry(n, bytes([n]) * 32, (json.dumps({"content": f"text {n}" * 9}).encode(),)) for n in range(count)]
    return entries, Codec().pack(entries)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_changed_bytes_are_refused_or_have_another_checksum(data):
    entries, packed = block()
    content = bytearray(packed.content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[place:]
            case _:
                content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        if not content:
            break
    try:
        found = Codec().unpack(bytes(content), packed.plain)
    except ValueError:
        return
    assert found == entries or sha256(bytes(content)).digest() != packed.checksum
    for entry in found:
        entry.body(lambda digest: b"")


@pytest.mark.parametrize("plain", [-(2**40), -2, -1, 0, 1, 2**20])
def test_another_size_than_was_packed_is_refused(plain):
    _, packed = block()
    with pytest.raises(ValueError, match="does not decode"):
        Codec().unpack(packed.content, plain)
    with pytest.raises(ValueError, match="does not decode"):
        unpack_shared(pack_shared(b"x" * 5_000).content, plain)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    bomb = zstd.compress(bytes(256 * 1024 * 1024), 1)
    assert len(bomb) < 100_000
    largest = []

    class Watched:
        def __init__(self, **given):
            self.inner = zstd_decompressor(**given)

        def decompress(self, data, max_length=-1):
            found = self.inner.decompress(data, max_length=max_length)
            largest.append(len(found))
            return found

        @property
        def eof(self):
            return self.inner.eof

    zstd_decompressor = zstd.ZstdDecompressor
    monkeypatch.setattr(zstd, "ZstdDecompressor", Watched)
    for plain in (-2, 0, 1_000):
        with pytest.raises(ValueError, match="does not decode"):
            Codec().unpack(bomb, plain)
        with pytest.raises(ValueError, match="does not decode"):
            unpack_shared(bomb, plain)
    assert max(largest) <= 1_001
    with pytest.raises(ValueError, match="does not decode"):
        Codec().unpack(bomb[: len(bomb) // 2], 1_000)


@pytest.mark.parametrize(
    ("plain", "salts"),
    [
        (bytes.fromhex("ddffffffff"), 0),  # a list of four thousand million entries, none of which follows
        (bytes.fromhex("91dcffff"), 1),
        (b"", 0),
        (b"\xc0", 0),
        (msgspec.msgpack.encode([[1, [], []]]), 1),
        (msgspec.msgpack.encode([[1, [b"a", b"b"], []]]), 1),
        (msgspec.msgpack.encode([[1, [b"a"], [b"digest"]]]), 1),
        (msgspec.msgpack.encode([["1", [b"a"], []]]), 1),
        (msgspec.msgpack.encode([[1, [b"a"], []]]), 0),
        (msgspec.msgpack.encode([[1, [b"a"], []]]), 2),
        (msgspec.msgpack.encode([[[[[[]]]]]] * 3), 3),
        (b"\x91" * 100_000, 1),
    ],
)
def test_what_is_no_block_is_refused(plain, salts):
    with pytest.raises(ValueError, match="does not decode"):
        Codec().unpack(zstd.compress(plain) + bytes(32 * salts), len(plain))


def test_a_block_of_another_dictionary_is_refused(dictionary):
    entries, _ = block()
    packed = Codec(dictionary).pack(entries)
    with pytest.raises(ValueError, match="does not decode"):
        Codec().unpack(packed.content, packed.plain)


# --- dictionaries --------------------------------------------------------------------------------
@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_masked_bodies_hold_no_string_and_no_number(values):
    for value in values:
        masked = mask(json.dumps(value).encode(), {})
        assert (
            re.sub(rb'""|[0-]+|true|false|null|e[+-]', b"", masked).strip(b"{}[]:,. ").translate(None, b"{}[]:,. ")
            == b""
        )


def test_no_word_that_a_body_says_is_in_a_dictionary():
    chance = random.Random(7)
    secrets = [f"sk-{chance.getrandbits(160):040x}" for _ in range(400)]
    planted = [
        "hunter2-password",
        "alice@example.com",
        'quoted "hunter3" colon: ',
        "hunter4\\",
        "ключ-от-всего",
        "4929123456781234",
    ]
    bodies = []
    for number, secret in enumerate(secrets):
        value = {
            "content": f"use {secret} and {planted[number % 6]}",
            "authorization": planted[0],
            "nested": [{"token": secret, "list": planted}, planted[2], {planted[3]: "a name that is no name"}],
            "account": 4929123456781234,
            f"rare_{secret[3:20]}": number,  # a name of one body only
            "ratio": 3.14159,
        }
        bodies.append(json.dumps(value, ensure_ascii=number % 2 == 0).encode())
    made = train(bodies)
    assert made is not None and len(made) > 200
    for said in [
        *planted,
        *secrets,
        "example",
        "hunter",
        "password",
        "492912345",
        "14159",
        "rare_",
        *(s[3:15] for s in secrets),
    ]:
        assert said.encode() not in made
        assert json.dumps(said)[1:-1].encode() not in made
    for name in (b"authorization", b"nested", b"token"):
        assert name in made, "names that all bodies share are what it is for"
    assert dictionary_digest(made) == sha256(made).digest()[:16]
    assert train(bodies) == made


def test_a_dictionary_is_worth_it_and_too_little_teaches_nothing(dictionary):
    entries = [
        Entry(n, bytes(32), (json.dumps({"content": f"s{n}", "number": n, "outcome": "ok"}).encode(),))
        for n in range(4)
    ]
    assert len(Codec(dictionary).pack(entries).content) < len(Codec().pack(entries).content)
    assert train([b'{"a":1}'] * (DICTIONARY_SAMPLES_MIN - 1)) is None
    assert train([]) is None
