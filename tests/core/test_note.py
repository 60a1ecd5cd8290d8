"""Signed notes, checkpoints and cosignatures: the published vector, what is refused, and no bit that can be flipped."""

import json
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog.core.ed25519 import check_public_key
from everlog.core.event import Head
from everlog.core.merkle import EMPTY_ROOT
from everlog.core.note import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    Note,
    VerifierKey,
    cosigned_message,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_number,
    parse_signatures,
    parse_verifier_key,
    signature_of,
)
from everlog.errors import TamperedError

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
# The example of C2SP's signed-note, as golang.org/x/mod/sumdb/note has it too.
VECTOR_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
VECTOR_NOTE = (
    "This is an example message.\n\n\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
ORIGIN = "example.com/log"
CHECKPOINT = Checkpoint(ORIGIN, Head(7, "ab" * 32))


class Signer:
    def __init__(self, seed, name=ORIGIN, kind=ED25519):
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = VerifierKey(name, kind, self.private.public_key().public_bytes_raw())

    def sign(self, text, seconds=0):
        message = cosigned_message(text, seconds) if self.key.kind == COSIGNATURE else text.encode()
        return signature_of(self.key, self.private.sign(message), seconds=seconds)


LOG = Signer(1)
WITNESS = Signer(2, "witness.example/w1", COSIGNATURE)


def signed(*signatures, text=str(CHECKPOINT)):
    return str(Note(text, signatures)).encode()


def test_the_published_note_opens_under_its_key_and_reads_back_the_same():
    key = parse_verifier_key(VECTOR_KEY)
    note = parse_note(VECTOR_NOTE.encode())
    assert open_note(note, [key]).signers == (key,)
    assert (str(key), str(note)) == (VECTOR_KEY, VECTOR_NOTE)
    if (VECTORS / "signed-note.json").exists():
        shared = json.loads((VECTORS / "signed-note.json").read_text())
        assert (shared["vkey"], shared["note"]) == (VECTOR_KEY, VECTOR_NOTE)


def test_no_bit_of_a_signed_checkpoint_can_be_flipped():
    raw = signed(LOG.sign(str(CHECKPOINT)))
    assert open_checkpoint(raw, origin=ORIGIN, keys=[LOG.key])[0] == CHECKPOINT
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            open_checkpoint(bytes(flipped), origin=ORIGIN, keys=[LOG.key])


def test_no_bit_of_a_cosigned_checkpoint_can_be_flipped_where_the_witness_must_have_seen_it():
    raw = signed(LOG.sign(str(CHECKPOINT)), WITNESS.sign(str(CHECKPOINT), 1_700_000_000))
    pinned = {"origin": ORIGIN, "keys": [LOG.key], "witnesses": [WITNESS.key], "quorum": 1}
    opened = open_checkpoint(raw, **pinned)[1]
    assert opened.signers == (LOG.key, WITNESS.key)
    assert opened.times == {"witness.example/w1": 1_700_000_000}
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            open_checkpoint(bytes(flipped), **pinned)


def test_a_signature_of_an_unknown_key_is_passed_over_and_counts_for_nothing():
    stranger = Signer(3)
    note = signed(stranger.sign(str(CHECKPOINT)), LOG.sign(str(CHECKPOINT)))
    assert open_checkpoint(note, origin=ORIGIN, keys=[LOG.key])[1].signers == (LOG.key,)
    with pytest.raises(TamperedError, match="no key that is pinned"):
        open_note(parse_note(signed(stranger.sign(str(CHECKPOINT)))), [LOG.key])


def test_one_bad_signature_of_a_pinned_key_rejects_the_whole_note():
    other = str(Checkpoint(ORIGIN, Head(8, "cd" * 32)))
    note = signed(LOG.sign(str(CHECKPOINT)), LOG.sign(other))
    with pytest.raises(TamperedError, match="is not that key's"):
        open_checkpoint(note, origin=ORIGIN, keys=[LOG.key])
    witnessed = signed(LOG.sign(str(CHECKPOINT)), WITNESS.sign(other, 5))
    with pytest.raises(TamperedError, match="is not that key's"):
        open_checkpoint(witnessed, origin=ORIGIN, keys=[LOG.key], witnesses=[WITNESS.key])


def test_the_origin_is_pinned_and_a_witness_alone_is_not_enough():
    elsewhere = str(Checkpoint("example.com/other", Head(7, "ab" * 32)))
    with pytest.raises(TamperedError, match="is of the log"):
        open_checkpoint(signed(LOG.sign(elsewhere), text=elsewhere), origin=ORIGIN, keys=[LOG.key])
    with pytest.raises(TamperedError, match="has not signed it"):
        open_checkpoint(
            signed(WITNESS.sign(str(CHECKPOINT), 5)), origin=ORIGIN, keys=[LOG.key], witnesses=[WITNESS.key]
        )
    with pytest.raises(TamperedError, match="0 of the witnesses"):
        open_checkpoint(
            signed(LOG.sign(str(CHECKPOINT))), origin=ORIGIN, keys=[LOG.key], witnesses=[WITNESS.key], quorum=1
        )


def test_a_key_of_one_kind_does_not_count_as_one_of_another():
    note_key = VerifierKey(WITNESS.key.name, ED25519, WITNESS.key.key)
    line = signature_of(note_key, WITNESS.sign(str(CHECKPOINT), 5).content[8:])
    with pytest.raises(TamperedError):
        open_note(parse_note(signed(line)), [WITNESS.key, note_key])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAE=",
        b"\n\n\xe2\x80\x94 name AAAAAAE=\n",
        b"text\n\n- name AAAAAAE=\n",
        b"text\n\n\xe2\x80\x94 name AAAAAA==\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAF=\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAE\n",
        b"text\n\n\xe2\x80\x94 na+me AAAAAAE=\n",
        b"text\n\n\xe2\x80\x94  AAAAAAE=\n",
        b"text\n\n\xe2\x80\x94 na\xc2\xa0me AAAAAAE=\n",
        b"text\r\n\n\xe2\x80\x94 name AAAAAAE=\n",
        b"te\x00xt\n\n\xe2\x80\x94 name AAAAAAE=\n",
        b"te\xffxt\n\n\xe2\x80\x94 name AAAAAAE=\n",
        b"text\n\n" + b"\xe2\x80\x94 name AAAAAAE=\n" * 101,
        b"text\n" * 100_000 + b"\n\xe2\x80\x94 name AAAAAAE=\n",
    ],
)
def test_what_is_not_exactly_a_note_is_refused(raw):
    with pytest.raises(ValueError):
        parse_note(raw)


def test_at_least_sixteen_signatures_are_read_and_the_last_empty_line_ends_the_text():
    note = b"one\n\ntwo\n\n" + b"\xe2\x80\x94 name AAAAAAE=\n" * 16
    assert parse_note(note).text == "one\n\ntwo\n"
    assert len(parse_note(note).signatures) == 16


def test_signatures_that_stand_alone_have_no_text_before_them():
    line = b"\xe2\x80\x94 name AAAAAAE=\n"
    assert b"".join(str(each).encode() for each in parse_signatures(line * 2)) == line * 2
    for raw in (b"text\n\n" + line, line + b"\n" + line, b"\n" + line, line + b"\n"):
        with pytest.raises(ValueError):
            parse_signatures(raw)


ROOT = b64encode(b"r" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"o\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",
        f"o\n{2**53}\n{ROOT}\n",
        f"o\n1\n{ROOT}\nextension\n",
        f"o\n1\n{ROOT}\n\n",
        f"o\n0\n{ROOT}\n",
        f"o\n1\n{b64encode(b'r' * 31).decode()}\n",
        f"o\n1\n{ROOT[:-2]}t=\n",
    ],
)
def test_what_is_not_exactly_a_checkpoint_is_refused(text):
    with pytest.raises(ValueError):
        parse_checkpoint(text)


def test_the_checkpoint_of_an_empty_log_is_one():
    text = f"o\n0\n{b64encode(EMPTY_ROOT).decode()}\n"
    assert str(parse_checkpoint(text)) == text


SMALL = [bytes(32), b"\x01" + bytes(31), bytes([0xEC, *[0xFF] * 30, 0x7F])]


@pytest.mark.parametrize("key", [b"", bytes(31), *SMALL, b"\xff" * 32, bytes([0xED, *[0xFF] * 30, 0x7F])])
def test_keys_under_which_a_signature_says_nothing_are_refused(key):
    with pytest.raises(ValueError):
        check_public_key(key)
    flipped = key[:-1] + bytes([key[-1] ^ 0x80]) if key else key
    with pytest.raises(ValueError):
        check_public_key(flipped)


def test_a_verifier_key_whose_id_is_not_its_own_is_refused():
    name, id_, encoded = VECTOR_KEY.split("+", 2)
    for text in (
        f"{name}+{id_}",
        f"{name}+530d903b+{encoded}",
        f"{name}x+{id_}+{encoded}",
        f"na me+{id_}+{encoded}",
        f"{name}+{id_}+{b64encode(b'x' + b64decode(encoded)[1:]).decode()}",
        f"{name}+{id_}+",
    ):
        with pytest.raises(ValueError):
            parse_verifier_key(text)


def test_a_time_past_what_a_cosignature_may_say_is_refused():
    line = WITNESS.sign(str(CHECKPOINT), 2**63)
    with pytest.raises(TamperedError):
        open_note(parse_note(signed(line)), [WITNESS.key])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_in_parsers_refuse_it_or_give_it_back(raw):
    for whole in (raw, VECTOR_NOTE.encode()[:40] + raw, b"x\n\n\xe2\x80\x94 n " + raw):
        for parse in (parse_note, parse_signatures):
            with suppress(ValueError):
                parse(whole)
        with suppress(ValueError):
            assert str(parse_note(whole)).encode() == whole
    text = raw.decode("utf-8", "replace")
    for parse in (parse_checkpoint, parse_verifier_key, parse_number):
        with suppress(ValueError):
            assert str(parse(text)) == text
