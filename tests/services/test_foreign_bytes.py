"""Every parser of what others send, fed with bytes of all kinds: what is refused is refused as documented, what is taken is as it must be."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from everlog import verifier
from everlog.certificates import read_certificate
from everlog.core.header import FORMAT
from everlog.core.proof import ProvenEvent
from everlog.errors import InvalidEventError
from fuzz.parsers import PARSERS, seeds

quiet = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
PIECES = [
    b"", b"\x00", b"\n", b"\n\n", b"\xff", b"-1", b"0", b"00", b"1e999", b"null", b"[]", b"{}", b'"', b"\\ud800", b",", b"9" * 30, b"true",
    b"\x1e", b"\x1f", "\u2014 ".encode(), b"=", b"+", b"A", b"a",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_real_values_are_taken(name):
    if name == "stamp" and shutil.which("openssl") is None:
        pytest.skip("the program openssl, which makes a stamp, is not on this machine")
    taken = [PARSERS[name](each) for each in seeds(name)]
    assert any(taken)


@pytest.mark.parametrize("name", sorted(PARSERS))
@quiet
@given(raw=st.binary(max_size=200))
@example(raw=b"")
@example(raw=b"[" * 100_000)
@example(raw=b'{"v":' * 50_000)
@example(raw=b'{"zz":' * 50_000)
def test_whatever_comes_in_is_refused_as_documented(name, raw):
    PARSERS[name](raw)


@pytest.mark.parametrize("name", sorted(PARSERS))
@quiet
@given(data=st.data())
def test_what_was_changed_is_refused_as_documented_or_as_it_must_be(name, data):
    value = data.draw(st.sampled_from(seeds(name)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value)))
        cut = data.draw(st.sampled_from([0, 1, 1, 2, 8, 64]))
        value = value[:at] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=9)) + value[at + cut :]
    PARSERS[name](value)


def test_a_certificate_that_was_made_up_is_found_out_whatever_it_names():
    made = json.loads(seeds("certificate")[0])
    record = json.loads(made["records"][0]["record"])
    leaf = record["events"][0][1]
    others = [
        {"session": "\x7f"}, {"session": ""}, {"events": [[-1, leaf]]}, {"events": [[2**63, leaf]]}, {"events": []}, {"t": -1},
    ]  # fmt: skip
    for other in others:
        changed = dict(made["records"][0], record=json.dumps(record | other, separators=(",", ":")))
        assert not PARSERS["certificate"](json.dumps(made | {"records": [changed]}).encode())
    for other in ({"branch": "\x7f"}, {"branch": ""}, {"size": -(10**30)}, {"size": 2**63}):
        raw = json.dumps(made | other).encode()
        with pytest.raises(InvalidEventError, match="names no line of events"):
            read_certificate(raw)


@pytest.mark.parametrize(
    "said",
    [
        {"y": "Note"}, {"y": "a\x1b[31m"}, {"y": ""}, {"a": "ada@example.com"}, {"a": ""}, {"o": "fine"}, {"w": 2**63}, {"w": 10**30}, {"t": -1},
        {"m": 2}, {"m": 1, "k": "0" * 64}, {"m": 10**30, "k": "0" * 64}, {"k": "00"}, {"c": []}, {"c": ["00"]}, {"c": ["0" * 64] * 18},
        {"g": [{"a": 2, "h": "0" * 64, "z": 2}]}, {"g": [{"a": -1, "h": "0" * 64, "z": 2}]}, {"g": [{"a": 0, "h": "0", "z": 2}]},
        {"g": [{"a": 0, "h": "0" * 64, "z": 1}] * 17},
    ],
)  # fmt: skip
def test_what_no_append_records_is_not_taken_though_its_hashes_were_made_to_fit(said):
    assert not PARSERS["forged"](json.dumps([[said, {}]]).encode())
    if "c" not in said and "t" not in said:
        canonical = verifier.canonical(
            {"b": "a" * 32, "c": ["0" * 64], "n": 0, "t": 0, "v": FORMAT, "y": "note"} | said
        )
        with pytest.raises(ValueError, match="its header has a member|not a canonical header|not a header"):
            ProvenEvent(header=canonical.decode()).read()


@pytest.mark.parametrize(
    "beside",
    [
        {"key": "\x00"}, {"key": ""}, {"key": "k" * 600}, {"body": '{"metadata":5}'}, {"body": '{"rationale":[]}'}, {"body": '{"state":{}}'},
        {"attachments": [{"name": "../a", "size": 0, "salt": "0" * 64, "content": ""}]},
    ],
)  # fmt: skip
def test_what_no_append_takes_beside_a_header_is_not_taken(beside):
    said = {}
    if "attachments" in beside:
        said["c"] = [
            verifier.commit(bytes(32), "body", b'{"data":{"content":"x"}}'),
            verifier.commit(bytes(32), "attachment", b"../a\x00"),
        ]
    assert not PARSERS["forged"](json.dumps([[said, beside]]).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"id": "run"', b'"id": "r\\u0000n"'),
        (b'"title": null', b'"title": "\\u0000"'),
        (b'"of": "many"', b'"o,f": "many"'),
        (b'"metadata": "{', b'"metadata": "-1{'),
        (b'"metadata": "{\\"shapes\\":[1,null]}"', b'"metadata": "[]"'),
        (b'"created": ', b'"created": 9999999999'),
    ],
)
def test_a_session_that_is_called_as_none_can_be_is_not_taken(old, new):
    whole = seeds("members")[0]
    assert PARSERS["members"](whole) and old in whole
    assert not PARSERS["members"](whole.replace(old, new, 1))
