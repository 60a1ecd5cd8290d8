"""Whatever comes in from outside, only documented errors come out, and what is recorded verifies."""

import json
import string
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import everlog
from everlog import NewEvent
from everlog.core.position import parse_address
from everlog.core.query_text import parse
from everlog.errors import EverlogError, InvalidPlaceError, InvalidQueryError, LimitError
from everlog.importers import FORMATS, Failure, import_paths, originals

quiet = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(max_size=40) | st.sampled_from(["", "\x00", "\ud800", "\u202e", "a" * 3_000, "session.created"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
odd_values = values | st.binary(max_size=9) | st.builds(object) | st.sets(st.integers(), max_size=2)
types = st.sampled_from(
    [
        "note",
        "user.message",
        "agent.tool_use",
        "agent.tool_result",
        "state.set",
        "x.a.b",
        "my.type",
        "error",
        "decision",
    ]
)


# --- append --------------------------------------------------------------------------------------
@quiet
@given(
    type=types | texts | odd_values,
    data=odd_values,
    members=st.fixed_dictionaries(
        {},
        optional={
            "actor": odd_values,
            "outcome": st.sampled_from(["ok", "error"]) | odd_values,
            "rationale": odd_values,
            "metadata": odd_values,
            "occurred_at": odd_values | st.datetimes(),
            "key": odd_values,
            "attachments": odd_values | st.dictionaries(texts, st.binary(max_size=20), max_size=2),
            "caused_by": odd_values,
            "expected": odd_values,
        },
    ),
)
def test_append_takes_an_event_or_says_what_is_wrong_with_it(type, data, members):
    with everlog.open("memory:") as store:
        session = store.create("s")
        try:
            event = session.append(type, data, **members)
        except EverlogError as error:
            assert len(error.message) > 10
            assert session.size() == 0
        except TypeError:
            assert session.size() == 0
        else:
            assert session[0] == event
            assert event.data == (None if data is None else data) or data != data or "nan" in repr(data)
        assert store.verify().ok


# --- parsers -------------------------------------------------------------------------------------
words = st.sampled_from(
    [
        "type:",
        "data.",
        "and",
        "or",
        "-",
        "*",
        "(",
        ")",
        '"',
        ":",
        ">",
        "<",
        "..",
        "label.",
        "session:",
        "actor:",
        "is:",
        "\\",
    ]
)
queries = st.lists(words | texts, max_size=12).map("".join) | st.lists(words | texts, max_size=12).map(" ".join)


@quiet
@given(queries)
def test_the_query_parser_takes_a_text_or_says_what_is_wrong_with_it(text):
    try:
        parse(text, now=0)
    except (InvalidQueryError, LimitError) as error:
        assert len(error.message) > 10


@quiet
@given(queries)
def test_a_query_that_parses_can_be_asked(text):
    with everlog.open("memory:") as store:
        session = store.create("s")
        session.append("user.message", {"content": "hello"})
        try:
            list(session.events(text))
            store.search(text)
        except (InvalidQueryError, LimitError):
            pass


marks = st.sampled_from(
    ["~", "@", "-", "1", ":", "T", "2026-01-01", "head", "start", "end", "..", "+", "%", "ev_", "s"]
)


@quiet
@given(st.lists(marks | texts, max_size=8).map("".join))
def test_the_address_parser_takes_a_text_or_says_what_is_wrong_with_it(text):
    try:
        parse_address(text)
    except EverlogError as error:
        assert isinstance(error, InvalidPlaceError) or len(error.message) > 10


# --- importers -----------------------------------------------------------------------------------
ids = st.sampled_from(["u1", "u2", "agent-1", "", "x" * 600]) | scalars | values
blocks = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            [
                "text",
                "thinking",
                "redacted_thinking",
                "tool_use",
                "tool_result",
                "message",
                "reasoning",
                "function_call",
            ]
        )
        | scalars
        | values,
        **dict.fromkeys(
            ("text", "thinking", "signature", "data", "content", "input", "is_error", "arguments", "output"), values
        ),
        **dict.fromkeys(("id", "name", "tool_use_id", "call_id", "role"), ids),
    },
)
contents = texts | st.lists(blocks | scalars, max_size=3) | values
roles = st.sampled_from(["user", "assistant", "system", "tool", "developer", "function"]) | scalars | values
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": roles,
        "content": contents,
        "id": ids,
        "model": scalars,
        "usage": st.dictionaries(
            st.sampled_from(["input_tokens", "output_tokens", "cache_read_input_tokens"]), scalars
        ),
        "tool_calls": st.lists(st.fixed_dictionaries({"id": ids, "function": blocks}), max_size=2) | values,
        "tool_call_id": ids,
        "reasoning_content": values,
    },
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            [
                "user",
                "assistant",
                "summary",
                "response_item",
                "event_msg",
                "session_meta",
                "turn_context",
                "note",
                "message",
            ]
        )
        | scalars
        | values,
        "message": messages | values,
        "payload": blocks | messages | values,
        "messages": st.lists(messages | values, max_size=3) | values,
        "trajectory": st.lists(
            st.dictionaries(st.sampled_from(["action", "observation", "state", "thought"]), values), max_size=2
        )
        | values,
        "history": st.lists(messages, max_size=3) | values,
        "role": roles,
        "content": contents,
        "data": values,
        "metadata": values,
        "timestamp": texts | st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00"]),
        "occurred_at": texts | st.sampled_from(["0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00Z"]),
        **dict.fromkeys(
            ("uuid", "parentUuid", "sessionId", "agentId", "session", "key", "actor", "id", "outcome"), ids
        ),
        "isSidechain": scalars,
        "rationale": values,
    },
)
json_lines = (entries | messages | blocks | values).map(lambda value: json.dumps(value).encode()) | st.binary(
    max_size=60
)


def imported(store, format, content, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        (result,) = import_paths(store, format, [path])
    return result


@quiet
@given(
    format=st.sampled_from(sorted(FORMATS)),
    found=st.lists(json_lines, max_size=5),
    whole=st.booleans(),
    end=st.booleans(),
)
def test_every_importer_takes_what_it_can_of_a_file_and_keeps_the_rest(format, found, whole, end):
    content = b"[" + b",".join(found) + b"]" if whole else b"\n".join(found) + b"\n" * end
    name = f"a.{string.ascii_letters[:3]}.jsonl" if not whole else "a.json"
    with everlog.open("memory:") as store:
        result = imported(store, format, content, name)
        assert store.verify().ok
        if isinstance(result, Failure):
            assert len(result.error.message) > 10
            return
        again = imported(store, format, content, name)
        assert not isinstance(again, Failure)
        assert again.events == 0
        kept = sum(len(list(originals(store.session(each)))) for each in result.sessions)
        lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
        if format in ("codex", "jsonl") and not any(b'"key"' in line or b'"id"' in line for line in lines):
            assert kept == len(lines)
        elif format == "claude-code":
            assert kept >= min(1, len(lines)), "lines of one uuid and one content are one item"
            assert kept <= len(lines)


@quiet
@given(batch=st.lists(st.builds(NewEvent, types | texts, values, key=st.none() | texts), max_size=5))
def test_a_batch_is_all_or_nothing(batch):
    with everlog.open("memory:") as store:
        session = store.create("s")
        try:
            events = session.extend(batch)
        except EverlogError:
            assert session.size() == 0
        else:
            assert session.size() == len({event.id for event in events})
