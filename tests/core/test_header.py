"""Headers: canonical bytes equal to RFC 8785's in the profile, nothing else accepted, commitments under 32-byte salts."""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core import limits
from everlog.core.header import (
    FORMAT,
    Header,
    commit_attachment,
    commit_body,
    commit_key,
    decode_header,
    encode_header,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "jcs"
OUTCOMES = ["ok", "error", "denied", "cancelled", "timeout", "unknown"]
ACTOR_CHARACTERS = "ABCabc019._:/+-"
SAFE = limits.SAFE_INTEGER_MAX
SALT = bytes(range(32))


def canonical(header: Header) -> bytes:
    """What RFC 8785's reference encoder gives for the header's present members."""
    return rfc8785.dumps(msgspec.to_builtins(header))


def random_header(random: Random) -> Header:
    def digest() -> str:
        return random.randbytes(32).hex()

    def sometimes(value: Any) -> Any:
        return value if random.random() < 0.5 else None

    def integer(low: int) -> int:
        return random.choice([low, 0, 1, SAFE, random.randint(low, SAFE), random.randint(0, 1000)])

    return Header(
        a=sometimes("".join(random.choices(ACTOR_CHARACTERS, k=random.randint(1, 128)))),
        b=random.randbytes(16).hex(),
        c=[digest() for _ in range(random.choice([1, 1, 1, 2, 17]))],
        g=sometimes([{"a": integer(0), "h": digest(), "z": integer(0)} for _ in range(random.choice([1, 2, 16]))]),
        k=sometimes(digest()),
        m=sometimes(random.randint(2, 10_000)),
        n=integer(0),
        o=sometimes(random.choice(OUTCOMES)),
        p=sometimes(digest()),
        r=sometimes(digest()),
        t=integer(-SAFE),
        v=FORMAT,
        w=sometimes(integer(-SAFE)),
        y="t" + "".join(random.choices("abz09_.", k=random.randint(0, 127))),
    )


def least_header(**members: Any) -> Header:
    return Header(**{"b": "0" * 32, "c": ["1" * 64], "n": 0, "t": 0, "v": FORMAT, "y": "note", **members})


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
safe_integers = st.integers(-SAFE, SAFE)
ranges = st.builds(lambda a, h, z: {"a": a, "h": h, "z": z}, safe_integers, digests, safe_integers)
headers = st.builds(
    Header,
    a=st.none() | st.text(ACTOR_CHARACTERS, min_size=1, max_size=20),
    b=st.binary(min_size=16, max_size=16).map(bytes.hex),
    c=st.lists(digests, min_size=1, max_size=3),
    g=st.none() | st.lists(ranges, max_size=3),
    k=st.none() | digests,
    m=st.none() | safe_integers,
    n=safe_integers,
    o=st.none() | st.sampled_from(OUTCOMES),
    p=st.none() | digests,
    r=st.none() | digests,
    t=safe_integers,
    v=st.just(FORMAT),
    w=st.none() | safe_integers,
    y=st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True),
)
# What a member of the profile may be: no floats, safe integers, no nulls, keys [a-z][a-z0-9_]{0,15}.
profile = st.recursive(
    st.text() | safe_integers | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True), inner),
    max_leaves=12,
)


def test_twenty_thousand_headers_have_the_bytes_of_rfc_8785_and_read_back() -> None:
    random = Random(8785)
    for _ in range(20_000):
        header = random_header(random)
        encoded = encode_header(header)
        assert encoded == canonical(header)
        assert decode_header(encoded) == header


@settings(max_examples=100, deadline=None)
@given(headers)
def test_any_header_has_the_bytes_of_rfc_8785_and_reads_back(header: Header) -> None:
    encoded = encode_header(header)
    assert encoded == canonical(header)
    assert decode_header(encoded) == header


@settings(max_examples=100, deadline=None)
@given(profile)
def test_any_value_of_the_profile_is_encoded_as_rfc_8785_says(value: object) -> None:
    assert msgspec.json.Encoder(order="sorted").encode(value) == rfc8785.dumps(value)


def test_every_code_point_is_escaped_as_rfc_8785_says() -> None:
    encode = msgspec.json.Encoder().encode
    for start in range(0, 0x110000, 0x100):
        if 0xD800 <= start < 0xE000:
            continue
        block = [chr(point) for point in range(start, start + 0x100)]
        assert encode(block) == rfc8785.dumps(block), f"U+{start:04X}"


@pytest.mark.parametrize("surrogate", ["\ud800", "\udbff", "\udc00", "\udfff", "a\ud83d", "\ude02\ud83d"])
def test_a_lone_surrogate_is_never_encoded(surrogate: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_header(least_header(a=surrogate))


def test_the_largest_header_that_the_limits_allow_fits_in_its_bound() -> None:
    digest = "f" * 64
    largest = Header(
        a="a" * limits.ACTOR_CHARACTERS_MAX,
        b="f" * 32,
        c=[digest] * (limits.ATTACHMENTS_MAX + 1),
        g=[{"a": SAFE, "h": digest, "z": SAFE}] * limits.SUMMARY_RANGES_MAX,
        k=digest,
        m=limits.APPEND_EVENTS_MAX,
        n=SAFE,
        o="cancelled",
        p=digest,
        r=digest,
        t=-SAFE,
        v=FORMAT,
        w=-SAFE,
        y="y" * limits.TYPE_CHARACTERS_MAX,
    )
    assert len(encode_header(largest)) <= limits.HEADER_BYTES_MAX


def test_absent_members_are_left_out() -> None:
    assert encode_header(least_header()) == (
        b'{"b":"' + b"0" * 32 + b'","c":["' + b"1" * 64 + b'"],"n":0,"t":0,"v":"everlog/1/event","y":"note"}'
    )


GOOD = encode_header(least_header(a="ada", o="ok"))


@pytest.mark.parametrize(
    ("what", "encoded"),
    [
        ("a space", GOOD.replace(b'"n":0', b'"n": 0')),
        ("a trailing newline", GOOD + b"\n"),
        ("another order", GOOD.replace(b'"n":0,"o":"ok"', b'"o":"ok","n":0')),
        ("a null", GOOD.replace(b'"n":0', b'"m":null,"n":0')),
        ("an escape that need not be", GOOD.replace(b'"ada"', b'"\\u0061da"')),
        ("an escaped slash", GOOD.replace(b"everlog/1/event", b"everlog\\/1\\/event")),
        ("a float", GOOD.replace(b'"n":0', b'"n":0.0')),
        ("an exponent", GOOD.replace(b'"n":0', b'"n":0e0')),
        ("a minus zero", GOOD.replace(b'"n":0', b'"n":-0')),
        ("a leading zero", GOOD.replace(b'"n":0', b'"n":00')),
        ("a duplicate key", GOOD.replace(b'"n":0', b'"n":1,"n":0')),
        ("an unknown member", GOOD.replace(b'"n":0', b'"l":1,"n":0')),
        ("a missing member", GOOD.replace(b'"n":0,', b"")),
        ("another format", GOOD.replace(b"everlog/1/event", b"everlog/2/event")),
        ("a string for a number", GOOD.replace(b'"n":0', b'"n":"0"')),
        ("a byte order mark", b"\xef\xbb\xbf" + GOOD),
        ("an array", b"[]"),
        ("nothing", b""),
    ],
)
def test_bytes_that_are_not_the_canonical_header_are_refused(what: str, encoded: bytes) -> None:
    assert decode_header(GOOD).a == "ada"
    assert encoded != GOOD, what
    with pytest.raises(ValueError, match=r"not a (canonical )?header"):
        decode_header(encoded)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        decode_header(GOOD.replace(b"ada", b"a\xffa"))


RANGE = b'{"a":0,"h":"' + b"2" * 64 + b'","z":4}'


@pytest.mark.parametrize(
    "other",
    [
        RANGE.replace(b'"a":0,', b"").replace(b"}", b',"a":0}'),
        RANGE.replace(b'"z":4', b'"z":4,"zz":5'),
        RANGE.replace(b',"z":4', b""),
        RANGE.replace(b"4}", b"4.0}"),
        RANGE.replace(b"4}", b"null}"),
        RANGE.replace(b"4}", b'"4"}'),
        b"1",
    ],
)
def test_a_covered_range_that_is_not_canonical_is_refused(other: bytes) -> None:
    good = encode_header(least_header(g=[{"a": 0, "h": "2" * 64, "z": 4}]))
    assert decode_header(good).g == [{"a": 0, "h": "2" * 64, "z": 4}]
    bad = good.replace(RANGE, other)
    assert bad != good
    with pytest.raises(ValueError, match=r"not a (canonical )?header"):
        decode_header(bad)


# --- commitments ---------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_a_salt_of_another_length_than_32_bytes_is_refused(length: int) -> None:
    salt = SALT[:length] + bytes(max(0, length - 32))
    for commit in (
        lambda: commit_body(salt, b"{}"),
        lambda: commit_attachment(salt, "a.txt", b"x"),
        lambda: commit_key(salt, "turn-7"),
    ):
        with pytest.raises(ValueError, match=f"{length} bytes where exactly 32"):
            commit()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_commitments_are_hmacs_of_what_the_format_says(salt: bytes, content: bytes) -> None:
    def expected(message: bytes) -> bytes:
        return hmac.new(salt, message, "sha256").digest()

    assert commit_body(salt, content) == expected(b"everlog/1/body\x00" + content)
    assert commit_attachment(salt, "é.txt", content) == expected(b"everlog/1/attachment\x00\xc3\xa9.txt\x00" + content)
    assert commit_key(salt, content.hex()) == expected(b"everlog/1/key\x00" + content.hex().encode())


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_equal_bodies_under_different_salts_have_different_commitments(one: bytes, other: bytes, body: bytes) -> None:
    assert (commit_body(one, body) == commit_body(other, body)) == (one == other)


# --- published vectors ---------------------------------------------------------------------------
def in_profile(value: object) -> bool:
    if isinstance(value, dict):
        return all(re.fullmatch(r"[a-z][a-z0-9_]{0,15}", key) and in_profile(member) for key, member in value.items())
    if isinstance(value, list):
        return all(in_profile(member) for member in value)
    if type(value) is int:
        return abs(value) <= SAFE
    return isinstance(value, (str, bool))


def parts(value: object) -> list[object]:
    members = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(part for member in members for part in parts(member))]


def test_published_inputs_agree_where_they_lie_in_the_profile() -> None:
    if not VECTORS.exists():
        pytest.skip(f"the shared test vectors are not beside this repository: no {VECTORS}")
    encode = msgspec.json.Encoder(order="sorted").encode
    agreed = 0
    for path in sorted(VECTORS.glob("input-*.json")):
        value = json.loads(path.read_bytes())
        expected = path.with_name(path.name.replace("input", "output")).read_bytes()
        assert rfc8785.dumps(value) == expected, f"the reference encoder fails its own vector {path.name}"
        for part in parts(value):
            if in_profile(part):
                encoded = encode(part)
                assert encoded == rfc8785.dumps(part), path.name
                assert encoded in expected, path.name
                agreed += 1
    assert agreed >= 20
