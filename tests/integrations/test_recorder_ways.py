"""Every way in which a program commonly calls Anthropic's and OpenAI's clients: it has from a recorded client what it has from its own.

Each way is tried twice, and what it gave, raised, warned of and sent is compared in all that a program can see of it.
"""

import asyncio
import copy
import gc
import importlib.util
import inspect
import io
import json
import os
import pickle
import threading
import warnings
import weakref
from collections import deque
from datetime import timedelta
from itertools import islice

import pytest

import everlog
from everlog.integrations.recorder import record, recorded
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.testing.clock import FixedClock
from everlog.writer import Settings
from integrations.providers import serving

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")


def http_of(module):
    """Give what a client sends with."""
    made = next(each for each in module.DefaultHttpxClient.__mro__ if each.__name__ == "Client")
    return importlib.import_module(made.__module__.partition(".")[0])


http = http_of(anthropic)
KEY = "the-key-of-the-client"
HI = [{"role": "user", "content": "hi"}]
M = {"model": "m", "max_tokens": 9, "messages": HI}
C = {"model": "m", "messages": HI}
R = {"model": "m", "input": "hi"}
PICTURE = b"\x89PNG\x00"


class Number(pydantic.BaseModel):
    n: int


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def session():
    with everlog.open("memory:") as store:
        yield store.create("s")


def client_of(server, api, *, asynchronous=False, **named):
    module, name = (anthropic, "Anthropic") if api == "anthropic" else (openai, "OpenAI")
    url = server.url if api == "anthropic" else f"{server.url}/v1"
    make = getattr(module, f"Async{name}" if asynchronous else name)
    return make(**{"api_key": KEY, "base_url": url, "max_retries": 0, **named})


def seen(value):
    """Give all that a program can see of a value."""
    if isinstance(value, BaseException):
        return [
            *(type(value), str(value), getattr(value, "status_code", None), sorted(vars(value))),
            *(type(value.__cause__), type(value.__context__)),
        ]
    if isinstance(value, pydantic.BaseModel):
        private = value.__pydantic_private__ or {}
        said = value.model_dump(mode="json", warnings=False)
        return [type(value), said, sorted(value.model_fields_set), sorted(private), getattr(value, "_request_id", None)]
    if hasattr(value, "http_response"):
        response = value.http_response
        held = [sorted(vars(each)) for each in (value, response, value._options)]
        return [
            type(value),
            repr(value),
            held,
            type(copy.copy(response.stream)).__name__,
            len(pickle.dumps(response)) > 0,
        ]
    if isinstance(value, (list, tuple)):
        return [seen(each) for each in value]
    if isinstance(value, dict):
        return {name: seen(each) for name, each in value.items()}
    return value if isinstance(value, (str, bytes, int, float, type(None), type)) else type(value)


def tried(way, client):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            given = way(client)
        except Exception as error:  # it is what is compared
            given = error
    told = [(each.category, str(each.message)) for each in warned if "unclosed" not in str(each.message)]
    return [seen(given), told]


def sent_to(server):
    made_anew = ("idempotency-key", "x-stainless-idempotency-key", "host")
    headers = [{name: v for name, v in each.items() if name.lower() not in made_anew} for each in server.headers]
    sent = [*server.requests], headers
    server.requests.clear()
    server.headers.clear()
    return sent


def compare(server, session, calls, way, clients, tried=tried):
    """Try a way with a client of its own, and with one that is recorded; give how the calls came out."""
    server.requests.clear()
    server.headers.clear()
    theirs, sent = tried(way, next(clients)), sent_to(server)
    recorder = record(session, next(clients))
    with recorder as client:
        ours = tried(way, client)
    assert ours == theirs
    again = sent_to(server)
    assert again == sent
    assert recorder.failures == []
    requests = list(session.events(types="model.request"))
    answers = list(session.events(types="model.response"))
    assert len(requests) == len(answers) == calls
    for event, body in zip(requests, again[0], strict=False):
        assert (session.saw(event).payload, session.saw(event).exact) == (body, True)
    return [event.data.get("unread") or event.outcome for event in answers]


# --- sync ------------------------------------------------------------------------------------------
@anthropic.beta_tool
def add(a: int, b: list[int]) -> str:
    """Add numbers."""
    return "3"


def helper(open_stream, final):
    def way(client):
        with open_stream(client) as stream:
            return [stream, list(stream), getattr(stream, final)(), stream.response if final == "" else None]

    return way


def read(open_stream):
    def way(client):
        stream = open_stream(client)
        return [stream, list(stream), stream.response.is_closed]

    return way


def begun(open_stream, *leave):
    def way(client):
        stream = open_stream(client)
        given = [next(stream)] if leave[0] != "close" or len(leave) > 1 else []
        for each in leave:
            given.append(getattr(stream, each)() if each == "close" else each)
        return [given, stream.response.is_closed]

    return way


def dropped(count):
    def way(client):
        stream = client.messages.create(**M, stream=True)
        pieces = [next(stream) for _ in range(count)]
        alive = weakref.ref(stream), weakref.ref(stream.response)
        del stream
        return [pieces, *(each() is None for each in alive)]

    return way


def elsewhere(client):
    pieces = []
    stream = client.messages.create(**M, stream=True)
    thread = threading.Thread(target=lambda: pieces.extend(stream))
    thread.start()
    thread.join()
    return pieces


def within(client):
    with client.messages.create(**M, stream=True) as stream:
        next(stream)
        raise KeyError("of the program")


def thread_of_messages(client):
    thread = client.beta.messages.thread(model="m", max_tokens=9)
    return [thread.send(*HI), thread.send({"role": "user", "content": "more"}), list(thread.messages)]


def said_again(client):
    parsed = client.messages.parse(**M, output_format=None)
    return client.messages.create(**{**M, "messages": [*HI, {"role": "assistant", "content": parsed.content}, *HI]})


def failing():
    yield HI[0]
    raise KeyError("of the program")


def picture():
    file = io.BytesIO(b"before" + PICTURE)
    file.seek(6)
    return [
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": file}}]}
    ]  # fmt: skip


def raw_of(open_raw, count=None):
    def way(client):
        raw = open_raw(client)
        parsed = raw.parse()
        given = [raw, raw.status_code, parsed, raw.parse() is parsed]
        if "Stream" in type(parsed).__name__:
            given += [
                [*islice(parsed, count)],
                raw.http_response.is_closed,
                parsed.close(),
                raw.http_response.is_closed,
            ]
        return given

    return way


def unparsed(open_raw, how=None, count=None):
    def way(client):
        response = open_raw(client).http_response
        given = [[*islice(getattr(response, how)(), count)]] if how else []
        return [*given, response.is_closed, response.close(), response.is_closed]

    return way


def raw_dropped(client):
    raw = client.messages.with_raw_response.create(**M, stream=True)
    alive = [weakref.ref(raw), weakref.ref(raw.http_response), weakref.ref(raw.parse())]
    gone = [alive[2]() is None]
    del raw
    return [*gone, *(each() is None for each in alive)]


def parsed_twice(client):
    raw = client.messages.with_raw_response.create(**M, stream=True)
    first, second = raw.parse(), raw.parse(to=anthropic.Stream[anthropic.types.RawMessageStreamEvent])
    return [first is second, list(second), list(first)]


def with_headers(client):
    """As LangChain asks for an answer with its headers."""
    raw = client.chat.completions.with_raw_response.create(**C, stream=True)
    with raw.parse() as chunks:
        return [raw.headers["content-type"], list(chunks)]


def streaming(open_raw, *ways, count=None):
    def way(client):
        with open_raw(client) as raw:
            given = [raw]
            for each in ways:
                made = getattr(raw, each)()
                given += [[*islice(made, count)] if hasattr(made, "__next__") else made, raw.http_response.is_closed]
            if "json" in ways:
                given.append(pickle.loads(pickle.dumps(raw.http_response)).json())
        return [*given, raw.http_response.is_closed, raw.http_response.elapsed > timedelta(0)]

    return way


def of_middleware(client):
    passed = []

    def middle(request, following):
        passed.append(type(request))
        return following(request)

    return [client.with_middleware(middle).messages.create(**M), passed]


ANTHROPIC = {
    "create": (lambda c: c.messages.create(**M), ["ok"]),
    "of the beta": (lambda c: c.beta.messages.create(**M, betas=["x"]), ["ok"]),
    "an iterator": (lambda c: c.messages.create(**{**M, "messages": iter(HI)}), ["ok"]),
    "iterators in one": (
        lambda c: c.messages.create(
            **{**M, "messages": ({"role": "user", "content": ({"type": "text", "text": t} for t in "ab")} for _ in "12")}
        ),
        ["ok"],
    ),
    "an iterator that raises": (lambda c: c.messages.create(**{**M, "messages": failing()}), ["error"]),
    "another sequence": (lambda c: c.messages.create(**{**M, "messages": deque(HI)}), ["ok"]),
    "a file": (lambda c: c.messages.create(**{**M, "messages": picture()}), ["ok"]),
    "answers as they came": (said_again, ["ok", "ok"]),
    "more of everything": (
        lambda c: c.messages.create(**M, extra_body={"a": {"b": 1}}, extra_headers={"x-a": "b"}, extra_query={"q": "1"}, timeout=9),
        ["ok"],
    ),
    "an argument too few": (lambda c: c.messages.create(model="m"), []),
    "what JSON cannot say": (lambda c: c.messages.create(**{**M, "messages": [{"role": "user", "content": object()}]}), None),
    "parse": (lambda c: c.messages.parse(**M, output_format=Number), ["error"]),
    "stream": (read(lambda c: c.messages.create(**M, stream=True)), ["ok"]),
    "stream of the beta": (read(lambda c: c.beta.messages.create(**M, stream=True)), ["ok"]),
    "stream, closed early": (begun(lambda c: c.messages.create(**M, stream=True), "next", "close", "close"), ["cancelled"]),
    "stream, closed before": (begun(lambda c: c.messages.create(**M, stream=True), "close"), ["cancelled"]),
    "stream, dropped": (dropped(2), ["cancelled"]),
    "stream, dropped unread": (dropped(0), ["cancelled"]),
    "stream, in another thread": (elsewhere, ["ok"]),
    "stream, and its block raises": (within, ["cancelled"]),
    "helper": (helper(lambda c: c.messages.stream(**M), "get_final_message"), ["ok"]),
    "helper, its text": (helper(lambda c: c.messages.stream(**M), "get_final_text"), ["ok"]),
    "helper of the beta": (helper(lambda c: c.beta.messages.stream(**M), "get_final_message"), ["ok"]),
    "tool runner": (lambda c: list(c.beta.messages.tool_runner(**M, tools=[add])), ["ok", "ok"]),
    "tool runner, streaming": (lambda c: [list(each) for each in c.beta.messages.tool_runner(**M, tools=[add], stream=True)], ["ok", "ok"]),
    "thread": (thread_of_messages, ["ok", "ok"]),
    "raw": (raw_of(lambda c: c.messages.with_raw_response.create(**M)), ["ok"]),
    "raw, of the client": (raw_of(lambda c: c.with_raw_response.messages.create(**M)), ["ok"]),
    "raw, a stream": (raw_of(lambda c: c.messages.with_raw_response.create(**M, stream=True)), ["ok"]),
    "raw, a stream that is left": (raw_of(lambda c: c.messages.with_raw_response.create(**M, stream=True), 2), ["cancelled"]),
    "raw, a stream that is closed": (raw_of(lambda c: c.messages.with_raw_response.create(**M, stream=True), 0), ["cancelled"]),
    "raw, a stream that is dropped": (raw_dropped, ["cancelled"]),
    "raw, a stream of another type": (parsed_twice, ["ok"]),
    "raw, a stream's lines": (unparsed(lambda c: c.messages.with_raw_response.create(**M, stream=True), "iter_lines"), ["ok"]),
    "raw, a stream nobody reads": (unparsed(lambda c: c.beta.messages.with_raw_response.create(**M, stream=True)), [True]),
    "streaming": (streaming(lambda c: c.messages.with_streaming_response.create(**M), "parse", "json", "parse"), ["ok"]),
    "streaming, its lines": (streaming(lambda c: c.messages.with_streaming_response.create(**M), "iter_lines"), ["ok"]),
    "streaming, its bytes": (streaming(lambda c: c.messages.with_streaming_response.create(**M), "iter_bytes"), ["ok"]),
    "streaming, its text": (streaming(lambda c: c.messages.with_streaming_response.create(**M), "text", "iter_text"), ["ok"]),
    "streaming, unread": (streaming(lambda c: c.messages.with_streaming_response.create(**M)), [True]),
    "streaming, read twice": (streaming(lambda c: c.messages.with_streaming_response.create(**M), "iter_text", "read"), ["ok"]),
    "streaming, a stream": (streaming(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "parse"), ["ok"]),
    "streaming, a stream's bytes": (streaming(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "read"), ["ok"]),
    "streaming, a stream that is left": (streaming(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "parse", count=2), ["cancelled"]),
    "options": (lambda c: c.with_options(timeout=9).copy(max_retries=1).messages.create(**M), ["ok"]),
    "another key": (lambda c: c.with_options(api_key="another-key").messages.create(**M), ["ok"]),
    "middleware": (of_middleware, ["ok"]),
    "middleware that answers": (lambda c: c.with_middleware(lambda r, n: {"content": []}).messages.create(**M), ["ok"]),
    "its block": (lambda c: [c.__enter__() is c, c.messages.create(**M), c.close(), c.is_closed()], ["ok"]),
    "copied": (lambda c: copy.copy(c).messages.create(**M), ["ok"]),
    "post": (lambda c: c.post("/v1/messages", cast_to=object, body=M), ["ok"]),
    "post, its response": (lambda c: c.post("/v1/messages", cast_to=http.Response, body=M).json(), ["ok"]),
    "post, its response, open": (lambda c: list(c.post("/v1/messages", cast_to=http.Response, body={**M, "stream": True}, stream=True).iter_lines()), ["ok"]),
    "tokens, counted": (lambda c: c.messages.count_tokens(model="m", messages=HI), []),
    "batches": (lambda c: c.messages.batches.create(requests=[{"custom_id": "1", "params": M}]), []),
}  # fmt: skip

OPENAI = {
    "create": (lambda c: c.chat.completions.create(**C), ["ok"]),
    "an iterator": (lambda c: c.chat.completions.create(model="m", messages=iter(HI)), ["ok"]),
    "several choices": (lambda c: c.chat.completions.create(**C, n=2), ["ok"]),
    "parse": (lambda c: c.chat.completions.parse(**C, response_format=Number), ["error"]),
    "parse, plain": (lambda c: c.chat.completions.parse(**C), ["ok"]),
    "stream": (read(lambda c: c.chat.completions.create(**C, stream=True)), ["ok"]),
    "stream, closed early": (begun(lambda c: c.chat.completions.create(**C, stream=True), "next", "close"), ["cancelled"]),
    "stream, closed before": (begun(lambda c: c.responses.create(**R, stream=True), "close"), ["cancelled"]),
    "helper": (helper(lambda c: c.chat.completions.stream(**C), "get_final_completion"), ["ok"]),
    "response": (lambda c: c.responses.create(**R).output_text, ["ok"]),
    "response, parsed": (lambda c: c.responses.parse(**R, text_format=Number), ["error"]),
    "response, streamed": (read(lambda c: c.responses.create(**R, stream=True)), ["ok"]),
    "response, by its helper": (helper(lambda c: c.responses.stream(**R), "get_final_response"), ["ok"]),
    "response, in the background": (lambda c: c.responses.create(**R, background=True), ["ok"]),
    "response, going on": (lambda c: c.responses.create(**R, previous_response_id="r1"), ["ok"]),
    "response, of a stored prompt": (lambda c: c.responses.create(prompt={"id": "p"}), ["ok"]),
    "raw": (raw_of(lambda c: c.chat.completions.with_raw_response.create(**C)), ["ok"]),
    "raw, parsed": (raw_of(lambda c: c.chat.completions.with_raw_response.parse(**C)), ["ok"]),
    "raw, a stream": (raw_of(lambda c: c.responses.with_raw_response.create(**R, stream=True)), ["ok"]),
    "raw, a stream that is left": (raw_of(lambda c: c.responses.with_raw_response.create(**R, stream=True), 3), ["cancelled"]),
    "raw, a stream's lines": (unparsed(lambda c: c.chat.completions.with_raw_response.create(**C, stream=True), "iter_lines"), ["ok"]),
    "raw, a stream nobody reads": (unparsed(lambda c: c.responses.with_raw_response.create(**R, stream=True)), [True]),
    "raw, as LangChain asks": (with_headers, ["ok"]),
    "streaming": (streaming(lambda c: c.responses.with_streaming_response.create(**R), "parse", "json"), ["ok"]),
    "streaming, parsed": (streaming(lambda c: c.chat.completions.with_streaming_response.parse(**C), "parse"), ["ok"]),
    "streaming, parsed in vain": (streaming(lambda c: c.chat.completions.with_streaming_response.parse(**C, response_format=Number), "parse"), ["ok"]),
    "streaming, its lines": (streaming(lambda c: c.chat.completions.with_streaming_response.create(**C), "iter_lines"), ["ok"]),
    "streaming, its bytes": (streaming(lambda c: c.responses.with_streaming_response.create(**R), "iter_bytes", "text"), ["ok"]),
    "streaming, unread": (streaming(lambda c: c.responses.with_streaming_response.create(**R)), [True]),
    "streaming, a stream": (streaming(lambda c: c.chat.completions.with_streaming_response.create(**C, stream=True), "parse"), ["ok"]),
    "streaming, a stream's lines": (streaming(lambda c: c.responses.with_streaming_response.create(**R, stream=True), "iter_lines"), ["ok"]),
    "streaming, a stream that is left": (streaming(lambda c: c.responses.with_streaming_response.create(**R, stream=True), "parse", count=3), ["cancelled"]),
    "options": (lambda c: c.with_options(timeout=9).with_options(max_retries=1).responses.create(**R), ["ok"]),
    "its block": (lambda c: [c.__enter__() is c, c.responses.create(**R), c.close(), c.is_closed()], ["ok"]),
    "copied": (lambda c: copy.copy(c).responses.create(**R), ["ok"]),
    "post, its response": (lambda c: c.post("/responses", cast_to=http.Response, body=R).json(), ["ok"]),
    "post, its text": (lambda c: c.post("/responses", cast_to=str, body=R), ["ok"]),
    "post, bytes": (lambda c: c.post("/responses", cast_to=object, content=json.dumps(R).encode()), ["ok"]),
    "tokens, counted": (lambda c: c.responses.input_tokens.count(**R), []),
    "compacted": (lambda c: c.responses.compact(**R), []),
    "legacy": (lambda c: c.completions.create(model="m", prompt="x"), []),
    "embeddings": (lambda c: c.embeddings.create(model="e", input="x", encoding_format="float"), []),
}  # fmt: skip
BOTH = [("anthropic", name) for name in ANTHROPIC] + [("openai", name) for name in OPENAI]


@pytest.mark.parametrize(("api", "name"), BOTH, ids=lambda each: each.replace(" ", "_"))
def test_a_call_gives_what_it_would_and_is_recorded_or_passes_by(server, session, api, name):
    way, outcomes = (ANTHROPIC if api == "anthropic" else OPENAI)[name]
    clients = (client_of(server, api) for _ in range(2))
    if outcomes is None:
        recorder = record(session, next(clients))
        with recorder as client:
            assert tried(way, client) == tried(way, next(clients))
        assert recorder.failures == []
        return
    assert compare(server, session, len(outcomes), way, clients) == outcomes


# --- async -----------------------------------------------------------------------------------------
@anthropic.beta_async_tool
async def add_later(a: int, b: list[int]) -> str:
    """Add numbers."""
    return "3"


def read_later(open_stream):
    async def way(client):
        stream = await open_stream(client)
        return [stream, [piece async for piece in stream], stream.response.is_closed]

    return way


def help_later(open_stream, final):
    async def way(client):
        async with open_stream(client) as stream:
            return [stream, [each async for each in stream], await getattr(stream, final)()]

    return way


async def taken(made, count):
    if inspect.isawaitable(made):
        made = await made
    if not hasattr(made, "__aiter__"):
        return made
    items = []
    async for each in made:
        items.append(each)
        if len(items) == count:
            break
    return items


def raw_later(open_raw, *ways, count=None):
    async def way(client):
        async with open_raw(client) as raw:
            given = [[await taken(getattr(raw, each)(), count), raw.http_response.is_closed] for each in ways]
        return [raw, given, raw.http_response.is_closed, raw.http_response.elapsed > timedelta(0)]

    return way


def raw_stream_later(open_raw, count=None):
    async def way(client):
        raw = await open_raw(client)
        stream = raw.parse()
        stream = await stream if inspect.isawaitable(stream) else stream
        given = [raw, stream, await taken(stream, count), raw.http_response.is_closed]
        return [*given, await stream.close(), raw.http_response.is_closed]

    return way


def unparsed_later(count=None):
    async def way(client):
        response = (await client.messages.with_raw_response.create(**M, stream=True)).http_response
        lines = response.aiter_lines()
        given = [await taken(lines, count), await lines.aclose(), response.is_closed]
        return [*given, await response.aclose(), response.is_closed]

    return way


async def closed_later(client):
    stream = await client.messages.create(**M, stream=True)
    first = await anext(aiter(stream))
    await stream.close()
    return [first, stream.response.is_closed]


async def dropped_later(client):
    stream = await client.messages.create(**M, stream=True)
    response = stream.response
    async for _ in stream:
        break
    del stream, _
    gc.collect()
    for _ in range(20):  # turns of the loop in which what was dropped is closed
        await asyncio.sleep(0)
    return response.is_closed


def raw_dropped_later(how):
    async def way(client):
        raw = await client.messages.with_raw_response.create(**M, stream=True)
        response, stream = raw.http_response, raw.parse() if how == "parse" else None
        stream = await stream if inspect.isawaitable(stream) else stream
        async for _ in stream or response.aiter_bytes():
            break
        del raw, stream, _
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(0)
        return response.is_closed

    return way


async def parsed_raw(client):
    raw = await client.messages.with_raw_response.create(**M)
    parsed = raw.parse()
    return [raw, await parsed if inspect.isawaitable(parsed) else parsed]


ASYNC = {
    "create": ("anthropic", lambda c: c.messages.create(**M), ["ok"]),
    "an iterator": ("anthropic", lambda c: c.messages.create(**{**M, "messages": iter(HI)}), ["ok"]),
    "parse": ("anthropic", lambda c: c.messages.parse(**M, output_format=Number), ["error"]),
    "stream": ("anthropic", read_later(lambda c: c.messages.create(**M, stream=True)), ["ok"]),
    "stream, closed early": ("anthropic", closed_later, ["cancelled"]),
    "stream, dropped": ("anthropic", dropped_later, ["cancelled"]),
    "helper": ("anthropic", help_later(lambda c: c.messages.stream(**M), "get_final_message"), ["ok"]),
    "raw": ("anthropic", parsed_raw, ["ok"]),
    "raw, a stream": ("anthropic", raw_stream_later(lambda c: c.messages.with_raw_response.create(**M, stream=True)), ["ok"]),
    "raw, a stream that is left": ("anthropic", raw_stream_later(lambda c: c.messages.with_raw_response.create(**M, stream=True), 2), ["cancelled"]),
    "raw, a stream's lines": ("anthropic", unparsed_later(), ["ok"]),
    "raw, a stream that is dropped": ("anthropic", raw_dropped_later("parse"), ["cancelled"]),
    "streaming": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M), "parse", "json"), ["ok"]),
    "streaming, its bytes": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M), "iter_bytes"), ["ok"]),
    "streaming, unread": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M)), [True]),
    "streaming, a stream": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "parse"), ["ok"]),
    "streaming, a stream's lines": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "iter_lines"), ["ok"]),
    "streaming, a stream that is left": ("anthropic", raw_later(lambda c: c.messages.with_streaming_response.create(**M, stream=True), "parse", count=2), ["cancelled"]),
    "completion": ("openai", lambda c: c.chat.completions.create(**C), ["ok"]),
    "completion, streamed": ("openai", read_later(lambda c: c.chat.completions.create(**C, stream=True)), ["ok"]),
    "completion, by its helper": ("openai", help_later(lambda c: c.chat.completions.stream(**C), "get_final_completion"), ["ok"]),
    "response": ("openai", lambda c: c.with_options(timeout=9).responses.create(**R), ["ok"]),
    "response, by its helper": ("openai", help_later(lambda c: c.responses.stream(**R), "get_final_response"), ["ok"]),
    "completion, raw, a stream": ("openai", raw_stream_later(lambda c: c.chat.completions.with_raw_response.create(**C, stream=True)), ["ok"]),
    "response, raw, a stream": ("openai", raw_stream_later(lambda c: c.responses.with_raw_response.create(**R, stream=True)), ["ok"]),
    "response, raw, a stream that is left": ("openai", raw_stream_later(lambda c: c.responses.with_raw_response.create(**R, stream=True), 3), ["cancelled"]),
    "response, streaming": ("openai", raw_later(lambda c: c.responses.with_streaming_response.create(**R), "parse"), ["ok"]),
    "response, streaming, its text": ("openai", raw_later(lambda c: c.responses.with_streaming_response.create(**R), "text", "json"), ["ok"]),
    "response, streaming, a stream's lines": ("openai", raw_later(lambda c: c.responses.with_streaming_response.create(**R, stream=True), "iter_lines"), ["ok"]),
    "embeddings": ("openai", lambda c: c.embeddings.create(model="e", input="x", encoding_format="float"), []),
}  # fmt: skip


async def runner_later(client):
    return [message async for message in client.beta.messages.tool_runner(**M, tools=[add_later])]


async def gathered(client):
    return await asyncio.gather(*(client.responses.create(**R) for _ in range(4)))


ASYNC |= {"tool runner": ("anthropic", runner_later, ["ok", "ok"]), "at once": ("openai", gathered, ["ok"] * 4)}


def tried_later(way, client):
    troubles = []

    async def story():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: troubles.append(told))
        try:
            return await way(client)
        finally:
            await client.close()

    return [*tried(lambda _: asyncio.run(story()), client), troubles]


@pytest.mark.parametrize("name", ASYNC, ids=lambda name: name.replace(" ", "_"))
def test_an_async_call_gives_what_it_would_and_is_recorded_or_passes_by(server, session, name):
    api, way, outcomes = ASYNC[name]
    clients = (client_of(server, api, asynchronous=True) for _ in range(2))
    assert compare(server, session, len(outcomes), way, clients, tried_later) == outcomes


# --- slow servers ----------------------------------------------------------------------------------
@pytest.fixture
def slow(server):
    """A server that begins, and then waits."""
    server.asked.clear()
    server.waiting = threading.Event()
    yield server
    server.waiting.set()
    server.waiting = None


def called(api):
    return (lambda c: c.messages.create(**M)) if api == "anthropic" else (lambda c: c.responses.create(**R))


def streamed(api, read, how="stream"):
    async def way(client):
        resource, given = (client.messages, M) if api == "anthropic" else (client.responses, R)
        if how == "body":
            async with resource.with_streaming_response.create(**given, stream=True) as raw:
                async for _ in raw.iter_bytes():
                    read.set()
        elif how == "raw":
            raw = await resource.with_raw_response.create(**given, stream=True)
            stream = raw.parse()
            async for _ in await stream if inspect.isawaitable(stream) else stream:
                read.set()
        else:
            async for _ in await resource.create(**given, stream=True):
                read.set()

    return way


async def cancelled(way, client, begun):
    task = asyncio.ensure_future(way(client))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel("by the program")
    with pytest.raises(asyncio.CancelledError):
        await task
    return task.cancelled()


@pytest.mark.parametrize("api", ["anthropic", "openai"])
@pytest.mark.parametrize("stream", [False, "stream", "raw", "body"])
def test_a_call_that_is_cancelled_is_cancelled_and_recorded_as_far_as_it_came(slow, session, api, stream):
    def way(client):
        read = threading.Event()
        return cancelled(streamed(api, read, stream) if stream else called(api), client, read if stream else slow.asked)

    clients = (client_of(slow, api, asynchronous=True) for _ in range(2))

    def tried_anew(way, client):
        slow.asked.clear()
        return tried_later(way, client)

    assert compare(slow, session, 1, way, clients, tried_anew) == ["cancelled"]


@pytest.mark.parametrize("api", ["anthropic", "openai"])
@pytest.mark.parametrize("stream", [False, "stream", "raw", "body"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_that_takes_too_long_raises_what_it_would(slow, session, api, stream, asynchronous):
    def way(client):
        if asynchronous:
            return (streamed(api, threading.Event(), stream) if stream else called(api))(client)
        resource, given = (client.messages, M) if api == "anthropic" else (client.responses, R)
        if stream == "raw":
            return list(resource.with_raw_response.create(**given, stream=True).parse())
        if stream == "body":
            with resource.with_streaming_response.create(**given) as raw:
                return raw.parse()
        return list(resource.create(**given, stream=True)) if stream else resource.create(**given)

    clients = (client_of(slow, api, asynchronous=asynchronous, timeout=0.1) for _ in range(2))
    assert compare(slow, session, 1, way, clients, tried_later if asynchronous else tried) == ["timeout"]
    assert "Timeout" in session.last("model.response").data["error"]["kind"]


class Forever:
    def __await__(self):
        yield


class Plain:
    """A client that never meets a network."""

    def __init__(self, answer=None):
        self.answer = answer

    async def post(self, path, *, cast_to, body, stream=False, options=None):
        if self.answer is None:
            await Forever()
        return self.answer

    def copy(self):
        return Plain(self.answer)


def test_a_call_that_is_dropped_while_it_waits_is_recorded_as_cancelled(session):
    """As a task that nobody holds: it is closed where it stands, and may await nothing more."""

    async def story():
        with record(session, Plain()) as client:
            call = client.post("/chat/completions", cast_to=dict, body=C)
            asking = call.send(None)
            asking._asyncio_future_blocking = False
            await asking
            assert call.send(None) is None
            call.close()

    asyncio.run(story())
    assert session.last("model.response").outcome == "cancelled"


def test_a_call_goes_on_where_the_loop_has_no_threads_any_more(session):
    async def story():
        await asyncio.get_running_loop().shutdown_default_executor()
        with record(session, Plain({"choices": [{"message": {"role": "assistant", "content": "hello"}}]})) as client:
            return await client.post("/chat/completions", cast_to=dict, body=C)

    assert asyncio.run(story())["choices"]
    assert session.last("model.response").outcome == "ok"


class Slow(MemoryStorage):
    """A store that takes as long as it is told to, once it is told so."""

    def __init__(self):
        super().__init__(clock=FixedClock(), draw=os.urandom)
        self.waits = False
        self.began, self.go_on = threading.Event(), threading.Event()

    def write(self, request):
        if self.waits:
            self.began.set()
            self.go_on.wait(20)
        return super().write(request)


def test_an_open_answer_is_closed_where_its_caller_is_cancelled_while_it_is_recorded():
    storage = Slow()
    store = Store(storage, Settings(os.urandom), url="memory:")
    session = store.create("s")

    class Open:
        """An answer whose bytes are still to come."""

        def __init__(self):
            self.http_response = self
            self.closed = False

        async def aclose(self):
            self.closed = True

    class Client(Plain):
        async def post(self, path, **named):
            storage.waits = True
            return self.answer

        def copy(self):
            return Client(self.answer)

    async def story():
        answer = Open()
        with record(session, Client(answer)) as client:
            raw = {"headers": {"X-Stainless-Raw-Response": "stream"}}
            call = asyncio.ensure_future(client.post("/responses", cast_to=object, body=R, options=raw))
            await asyncio.to_thread(storage.began.wait, 20)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            storage.go_on.set()
        return answer.closed

    assert asyncio.run(story())
    store.close()


# --- clients ---------------------------------------------------------------------------------------
def kin_of(server):
    named = {"base_url": server.url, "max_retries": 0}
    yield "azure", openai.AzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21", max_retries=0)
    yield "foundry", anthropic.AnthropicFoundry(api_key=KEY, **named)
    if importlib.util.find_spec("google.auth"):
        yield "vertex", anthropic.AnthropicVertex(region="r", project_id="p", access_token=KEY, **named)
    if importlib.util.find_spec("boto3"):
        aws = {"aws_access_key": "a", "aws_secret_key": "b", "aws_region": "us-east-1"}
        yield "bedrock", anthropic.AnthropicBedrock(**aws, **named)


def test_a_client_of_a_cloud_is_recorded_too(server):
    with everlog.open("memory:") as store:
        for name, client in kin_of(server):
            session = store.create(name)
            with record(session, client) as recording:
                assert type(recording) is type(client)
                resource = recording.messages if hasattr(client, "messages") else recording.chat.completions
                given = M if hasattr(client, "messages") else C
                resource.create(**given)
                recording.with_options(timeout=9)
            assert session.count(types="agent.message") == 1, name
            assert session.saw(session.last("model.request")).payload == given


@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_a_copy_is_the_client_in_all_that_can_be_seen(server, session, api):
    client = client_of(server, api, _strict_response_validation=True, timeout=7, default_headers={"x-a": "b"})
    with record(session, client) as recording:
        made = {"post", "copy", "with_options", "_everlog_recorder"}
        assert vars(recording).keys() - made == vars(client).keys() - made
        for name, value in vars(client).items():
            if isinstance(value, (str, int, float, bool, dict, type(None))):
                assert vars(recording)[name] == value, name
        for name in ("post", "copy", "with_options"):
            assert inspect.signature(getattr(recording, name)) == inspect.signature(getattr(client, name))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what was copied in part is closed
@pytest.mark.parametrize("api", ["anthropic", "openai"])
@pytest.mark.parametrize("way", [copy.deepcopy, pickle.dumps])
def test_a_client_that_cannot_be_copied_or_pickled_says_the_same(server, session, api, way):
    with record(session, client_of(server, api)) as client:
        same = tried(way, client) == tried(way, client_of(server, api))
    gc.collect()  # here, where it is expected
    assert same


# --- decorated functions ---------------------------------------------------------------------------
def test_an_async_generator_is_sent_to_and_raised_in_as_if_it_were_not_decorated(session):
    async def speak(client):
        heard = []
        try:
            while True:
                try:
                    heard.append((yield len(heard)))
                except ValueError as error:
                    heard.append(str(error))
        finally:
            said.append(heard)

    async def story(function):
        speaking = function(Plain())
        given = [await anext(speaking), await speaking.asend("one"), await speaking.athrow(ValueError("two"))]
        given.append(await anext(speaking))
        with pytest.raises(KeyError):
            await speaking.athrow(KeyError("three"))
        with pytest.raises(StopAsyncIteration):
            await anext(speaking)
        return given

    said = []
    assert asyncio.run(story(recorded(session)(speak))) == asyncio.run(story(speak)) == [0, 1, 2, 3]
    assert said == [["one", "two", None]] * 2
