"""Answers whose bytes a program reads itself: recorded as far as it reads them, and read no further than it does."""

import asyncio
import gzip
import json
import tracemalloc
import zlib

import pytest

import everlog
from everlog.integrations import recorder, recorder_answers
from everlog.integrations.recorder import record
from integrations import providers
from integrations.test_recorder_ways import HI, KEY, C, M, R, anthropic, http_of, openai, seen, tried, tried_later

FORMATS = {
    "messages": ("anthropic", lambda c: c.messages, M),
    "chat": ("openai", lambda c: c.chat.completions, C),
    "responses": ("openai", lambda c: c.responses, R),
}
PACKED = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def session():
    with everlog.open("memory:") as store:
        yield store.create("s")


class Sent:
    """A server's bytes, given in small pieces; `given` counts those that were taken."""

    def __init__(self, content, kind, packing=None, raising=None, size=30):
        self.headers = {"content-type": kind} | ({"content-encoding": packing} if packing else {})
        content = PACKED[packing](content) if packing else content
        self.pieces = [content[at : at + size] for at in range(0, len(content), size)]
        self.raising = raising
        self.given = self.ended = 0

    def each(self):
        for piece in self.pieces:
            self.given += 1
            yield piece
        if self.raising is not None:
            raise self.raising

    async def each_later(self):
        try:
            for piece in self.each():
                yield piece
        finally:
            self.ended += 1

    def client(self, api, *, asynchronous=False):
        def handle(request):
            content = self.each_later() if asynchronous else self.each()
            return http.Response(200, headers=self.headers, content=content)

        module, name = (anthropic, "Anthropic") if api == "anthropic" else (openai, "OpenAI")
        http = http_of(module)
        transport = http.MockTransport(handle)
        sending = http.AsyncClient(transport=transport) if asynchronous else http.Client(transport=transport)
        make = getattr(module, f"Async{name}" if asynchronous else name)
        return make(api_key=KEY, base_url="http://a.b", max_retries=0, http_client=sending)


def answer_of(name):
    return getattr(providers, name)({"model": "m", "messages": HI})


def sent(name, stream, **named):
    answer = answer_of(name)
    if not stream:
        return Sent(json.dumps(answer).encode(), "application/json", **named)
    events = getattr(providers, f"{name}_events")(answer)
    lines = [f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n" for _, each in events]
    named_events = [f"event: {kind}\n" if kind else "" for kind, _ in getattr(providers, f"{name}_events")(answer)]
    text = "".join(a + b for a, b in zip(named_events, lines, strict=True))
    return Sent(text.encode(), "text/event-stream; charset=utf-8", **named)


def told(session):
    """What the session says of the last call, but for ids of events."""
    events = list(session.events())
    last = max(at for at, event in enumerate(events) if event.type == "model.request")
    data = [{name: value for name, value in event.data.items() if name != "request"} for event in events[last + 1 :]]
    return [(event.type, event.outcome) for event in events[last + 1 :]], data


WAYS = {
    "parse": lambda raw: raw.parse(),
    "json": lambda raw: raw.json(),
    "read": lambda raw: raw.read(),
    "text": lambda raw: raw.text(),
    "iter_bytes": lambda raw: list(raw.iter_bytes()),
    "iter_bytes, of a size": lambda raw: list(raw.iter_bytes(7)),
    "iter_lines": lambda raw: list(raw.iter_lines()),
    "iter_text": lambda raw: list(raw.iter_text()),
}


@pytest.mark.parametrize("packing", [None, *PACKED])
@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_is_recorded_the_same_however_it_is_read(name, packing):
    api, resource, given = FORMATS[name]
    stories = {}
    for stream in (False, True):
        for way, read in {"create": list, **WAYS}.items():
            if way in ("json", "parse") and stream:
                continue
            with everlog.open("memory:") as store:
                session = store.create("s")
                recording = record(session, sent(name, stream, packing=packing).client(api))
                with recording as client:
                    if way == "create":
                        made = resource(client).create(**given, **({"stream": True} if stream else {}))
                        list(made) if stream else None
                    else:
                        more = {"stream": True} if stream else {}
                        with resource(client).with_streaming_response.create(**given, **more) as raw:
                            read(raw)
                            assert session.count(types="model.response") == 1  # where it was read, not where it is left
                assert recording.failures == []
                stories[way, stream] = told(session)
        assert all(story == stories["create", stream] for (_, of), story in stories.items() if of == stream)
    assert "Said with 0 results." in str(stories["create", True])


@pytest.mark.parametrize("packing", [None, *PACKED])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_read_ahead_and_what_is_left_early_is_recorded_as_far_as_it_came(
    session, name, stream, packing, asynchronous
):
    api, resource, given = FORMATS[name]
    whole = sent(name, stream, packing=packing)
    count = len(whole.pieces) * 2 // 3

    def way(client):
        more = {"stream": True} if stream else {}
        with resource(client).with_streaming_response.create(**given, **more) as raw:
            taken = raw.http_response.iter_raw()
            for number in range(count):
                assert whole.given == number
                next(taken)
        return [raw, whole.given, raw.is_closed]

    async def way_later(client):
        more = {"stream": True} if stream else {}
        async with resource(client).with_streaming_response.create(**given, **more) as raw:
            taken = raw.http_response.aiter_raw()
            for number in range(count):
                assert whole.given == number
                await anext(taken)
            await taken.aclose()
            ended = whole.ended  # by who ended the reading, and not later by the loop
        return [raw, whole.given, ended, raw.is_closed]

    trying, way = (tried_later, way_later) if asynchronous else (tried, way)
    theirs = trying(way, whole.client(api, asynchronous=asynchronous))
    whole.given = whole.ended = 0
    recording = record(session, whole.client(api, asynchronous=asynchronous))
    with recording as client:
        assert trying(way, client) == theirs
    assert "AssertionError" not in str(theirs)
    assert recording.failures == []
    kinds, data = told(session)
    assert kinds[-1] == ("model.response", "cancelled")
    if not stream:
        assert data == [{"recorded": data[-1]["recorded"]}]
    elif not packing:
        assert "Said w" in str(data[:-1])
        assert data[-1]["streamed"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("how", ["lines", "parse"])
@pytest.mark.parametrize(
    ("error", "outcome"), [("ReadTimeout", "timeout"), ("ReadError", "error"), ("DecodingError", "error")]
)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_that_end_in_an_error_raise_it_and_are_recorded_with_it(session, name, error, outcome, how, asynchronous):
    api, resource, given = FORMATS[name]

    def way(client):
        raw = resource(client).with_raw_response.create(**given, stream=True)
        return list(raw.parse() if how == "parse" else raw.http_response.iter_lines())

    async def way_later(client):
        raw = await resource(client).with_raw_response.create(**given, stream=True)
        if how == "lines":
            return [each async for each in raw.http_response.aiter_lines()]
        stream = raw.parse()
        return [each async for each in (await stream if hasattr(stream, "__await__") else stream)]

    def broken():
        cut = sent(name, True, raising=getattr(http_of(anthropic if api == "anthropic" else openai), error)("no"))
        cut.pieces = cut.pieces[: len(cut.pieces) // 2]
        return cut.client(api, asynchronous=asynchronous)

    trying, way = (tried_later, way_later) if asynchronous else (tried, way)
    theirs = trying(way, broken())
    recording = record(session, broken())
    with recording as client:
        assert trying(way, client) == theirs
    assert recording.failures == []
    assert session.last("model.response").outcome == outcome
    assert session.count(types="model.response") == 1


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_among_the_events_that_were_read_is_recorded(session, name):
    api, resource, given = FORMATS[name]
    failed = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    body = Sent(
        b": ping\r\n\r\ndata: no JSON\r\n\r\nevent: error\r\ndata: " + json.dumps(failed).encode(), "text/event-stream"
    )
    with record(session, body.client(api)) as client:
        response = resource(client).with_raw_response.create(**given, stream=True).http_response
        assert len(list(response.iter_lines())) == 6
    last = session.last("model.response")
    assert (last.outcome, last.data["is_error"], last.data["error"]) == ("error", True, failed["error"])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"[1]", "application/json"),
        (b"no JSON", "application/json"),
        (b'{"output":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json"),
        (b"\x00\xff", "image/png"),
    ],
)
def test_what_is_no_answer_is_recorded_as_unread(session, content, kind):
    recording = record(session, Sent(content, kind).client("openai"))
    with recording as client, client.responses.with_streaming_response.create(**R) as raw:
        assert raw.read() == content
        assert session.last("model.response").data["unread"]
    assert recording.failures == []


def test_a_raw_answer_may_be_read_on_where_recording_has_ended(session):
    with record(session, sent("chat", True).client("openai")) as client:
        begun = client.chat.completions.with_raw_response.create(**C, stream=True).http_response.iter_raw()
        next(begun)
        unread = client.chat.completions.with_raw_response.create(**C, stream=True)
    assert [event.data.get("unread") or event.outcome for event in session.events(types="model.response")] == [
        "cancelled",
        True,
    ]
    assert list(begun)
    assert len(list(unread.parse())) == 5
    assert session.count(types="model.response") == 2


def test_what_is_left_unread_is_told_with_the_next_call(session):
    with record(session, sent("chat", True).client("openai")) as client:
        raw = client.chat.completions.with_raw_response.create(**C, stream=True)
        assert session.count(types="model.response") == 0  # it may still be read
        raw.http_response.close()
        list(client.chat.completions.create(**C, stream=True))
        assert [event.data.get("unread") for event in session.events(types="model.response")] == [True, None]


@pytest.mark.parametrize("lost", ["post_parser", "stream"])
def test_a_client_that_is_made_otherwise_gives_what_it_would(session, monkeypatch, lost):
    """Without the place where a stream is handed over its bytes are recorded; without those to watch, that they were not read."""
    client = sent("chat", True).client("openai")
    if lost == "stream":
        monkeypatch.setattr(recorder, "_bytes_kind", lambda kind: None)
    else:
        module = openai._legacy_response
        monkeypatch.setattr(
            module.LegacyAPIResponse, "_options", property(lambda raw: None, lambda raw, given: None), raising=False
        )
        monkeypatch.setattr(module, "is_given", lambda given: False)
        monkeypatch.setattr(module.LegacyAPIResponse, "parse", lambda raw: openai.Stream(
            cast_to=openai.types.chat.ChatCompletionChunk, response=raw.http_response, client=client))  # fmt: skip
    recording = record(session, client)
    with recording as given:
        assert len(list(given.chat.completions.with_raw_response.create(**C, stream=True).parse())) == 5
    assert recording.failures == []
    last = session.last("model.response")
    assert (last.data.get("unread"), last.outcome) == ((True, None) if lost == "stream" else (None, "ok"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_raw_answer_that_came_at_once_is_recorded(session, stream):
    """As a transport gives it that is put in the place of a server."""
    body = sent("chat", stream)
    body.each = lambda: b"".join(body.pieces)
    with record(session, body.client("openai")) as client:
        if stream:
            assert len(list(client.chat.completions.with_raw_response.create(**C, stream=True).parse())) == 5
        else:
            with client.chat.completions.with_streaming_response.create(**C) as raw:
                assert raw.json()
    assert (session.last("model.response").outcome, session.count(types="agent.message")) == ("ok", 1)


def test_a_stream_that_is_made_when_some_bytes_were_read_leaves_these_recorded(session):
    with record(session, sent("chat", True).client("openai")) as client:
        raw = client.chat.completions.with_raw_response.create(**C, stream=True)
        taken = raw.http_response.iter_raw()
        assert len([next(taken) for _ in range(20)]) == 20
        with pytest.raises(http_of(openai).StreamConsumed):
            list(raw.parse())
    assert session.last("model.response").outcome == "cancelled"
    assert "Said" in session.last("agent.message").data["content"]


def test_bytes_that_cannot_be_unpacked_raise_what_they_would(session):
    body = sent("chat", True, packing="gzip")
    body.pieces[0] = b"no gzip"

    def way(client):
        with client.chat.completions.with_streaming_response.create(**C, stream=True) as raw:
            return list(raw.iter_lines())

    theirs = tried(way, body.client("openai"))
    recording = record(session, body.client("openai"))
    with recording as client:
        assert tried(way, client) == theirs
    assert "DecodingError" in str(theirs)
    assert recording.failures == []
    assert session.last("model.response").outcome == "cancelled"


def test_a_stream_that_was_handed_over_is_read_without_us(session):
    with record(session, sent("chat", True).client("openai")) as client:
        raw = client.chat.completions.with_raw_response.create(**C, stream=True)
        assert "each" in repr(iter(raw.http_response.stream))
        raw.parse()
        assert "each" not in repr(iter(raw.http_response.stream))

    async def story():
        async with record(session, sent("chat", True).client("openai", asynchronous=True)) as client:
            raw = await client.chat.completions.with_raw_response.create(**C, stream=True)
            watched = repr(aiter(raw.http_response.stream))
            raw.parse()
            return ["each_async" in each for each in (watched, repr(aiter(raw.http_response.stream)))]

    assert asyncio.run(story()) == [True, False]


def test_bytes_without_end_are_held_up_to_a_bound(session, monkeypatch):
    monkeypatch.setattr(recorder, "STREAM_CHARACTERS_MAX", 1_000)
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x" * 100}}]}
    body = Sent(f"data: {json.dumps(chunk)}\n\n".encode() * 50, "text/event-stream")
    recording = record(session, body.client("openai"))
    with recording as client:
        response = client.chat.completions.with_raw_response.create(**C, stream=True).http_response
        assert len(response.read()) == sum(map(len, body.pieces))
    assert len(recording.failures) == 1
    assert session.last("model.response").outcome is None
    assert 0 < len(session.last("agent.message").data["content"]) <= 1_000


def test_a_body_that_is_dropped_where_a_loop_ends_troubles_nobody(session):
    async def way(client):
        raw = await client.messages.with_raw_response.create(**M, stream=True)
        async for _ in raw.http_response.aiter_bytes():
            break
        return seen(raw)

    recording = record(session, sent("messages", True).client("anthropic", asynchronous=True))
    with recording as client:
        assert tried_later(way, client) == tried_later(
            way, sent("messages", True).client("anthropic", asynchronous=True)
        )
    assert session.last("model.response").outcome == "cancelled"


def test_answers_that_are_read_by_turns_are_each_recorded(session):
    with record(session, sent("chat", True).client("openai")) as client:
        streams = [client.chat.completions.with_raw_response.create(**C, stream=True).parse() for _ in range(3)]
        for pieces in zip(*streams, strict=True):
            assert len(pieces) == 3
    assert [event.outcome for event in session.events(types="model.response")] == ["ok"] * 3
    assert session.count(types="agent.message") == 3


def test_many_tasks_read_raw_answers_at_once(session):
    async def one(client):
        async with client.responses.with_streaming_response.create(**R, stream=True) as raw:
            return [piece async for piece in raw.iter_lines()]

    async def story():
        async with record(session, sent("responses", True).client("openai", asynchronous=True)) as client:
            return await asyncio.gather(*(one(client) for _ in range(20)))

    assert len(asyncio.run(story())) == 20
    assert [event.outcome for event in session.events(types="model.response")] == ["ok"] * 20


@pytest.mark.parametrize("way", ["parse", "lines"])
def test_two_sessions_may_record_one_raw_answer(session, way):
    with everlog.open("memory:") as store:
        other = store.create("s")
        with record(session, sent("chat", True).client("openai")) as one, record(other, one) as both:
            raw = both.chat.completions.with_raw_response.create(**C, stream=True)
            assert len(list(raw.parse() if way == "parse" else raw.http_response.iter_lines())) > 4
        for each in (session, other):
            assert (each.last("model.response").outcome, each.count(types="agent.message")) == ("ok", 1)


def test_of_bytes_that_unpack_to_more_than_is_held_only_that_is_unpacked(session, monkeypatch):
    monkeypatch.setattr(recorder_answers, "UNPACKED_BYTES_MAX", 1_000_000)
    whole = b'{"id": "r", "model": "m", "choices": [{"message": {"role": "assistant", "content": "' + b"x" * 50_000_000
    body = Sent(whole + b'"}}]}', "application/json", packing="gzip", size=10_000)
    tracemalloc.start()
    with (
        record(session, body.client("openai")) as client,
        client.chat.completions.with_streaming_response.create(**C) as raw,
    ):
        assert sum(len(each) for each in raw.iter_bytes()) > 50_000_000
    assert tracemalloc.get_traced_memory()[1] < len(whole)
    tracemalloc.stop()
    assert session.last("model.response").data["unread"] is True
