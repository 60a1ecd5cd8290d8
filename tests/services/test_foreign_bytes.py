"""Every parser of what others send, fed with bytes of all kinds: what is refused is refused as documented, what is taken is as it must be."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from everlog.certificates import read_certificate
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
