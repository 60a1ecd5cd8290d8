"""Every parser of what others send, fed with bytes of all kinds: what is refused is refused as documented, what is taken is as it must be."""

import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

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
