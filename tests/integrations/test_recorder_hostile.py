"""Calls that are recorded where something is out of the ordinary: endless, secret, wrongly asked, or elsewhere at once."""

import asyncio
import json
import threading

import pytest

import everlog
from everlog.integrations import recorder
from everlog.integrations.recorder import record, recorded
from everlog.integrations.recorder_answers import pieces_of
from integrations.providers import serving

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

KEY = "the-key-of-the-client"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def session(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        yield store.create("s")


def openai_of(server, **named):
    return openai.OpenAI(**{"api_key": KEY, "base_url": f"{server.url}/v1", "max_retries": 0, **named})


def all_text(session):
    return json.dumps([[event.type, event.data, event.metadata] for event in session.events()])


def types(session):
    return [event.type for event in session.events()]


ONE_CALL = ["user.message", "model.request", "agent.message", "model.response"]


# --- functions that are decorated ----------------------------------------------------------------
def test_a_decorated_generator_records_until_it_ends(session, server):
    @recorded(session)
    def speak(client):
        for piece in client.chat.completions.create(model="m", messages=HI, stream=True):
            yield piece.id
        return "done"

    def whole(client):
        ids.append((yield from speak(client)))

    ids = []
    ids += list(whole(openai_of(server)))
    assert ids[0] == "done"
    assert set(ids[1:]) == {"chatcmpl-1"}
    assert types(session) == ONE_CALL


def test_a_decorated_async_generator_records_until_it_is_closed(session, server):
    @recorded(session)
    async def speak(client):
        async for piece in await client.chat.completions.create(model="m", messages=HI, stream=True):
            yield piece.id

    async def go():
        async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1") as client:
            whole = [each async for each in speak(client)]
            early = speak(client)
            assert await anext(early) == whole[0]
            await early.aclose()

    asyncio.run(go())
    last = session.last("model.response")
    assert types(session)[:4] == ONE_CALL
    assert last.outcome == "cancelled"


def test_a_decorated_function_may_have_a_client_of_its_own(session, server):
    own = openai_of(server)

    @recorded(session)
    def agent(question, client=own):
        return client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}])

    assert agent("hi").id == "chatcmpl-1"
    assert types(session) == ONE_CALL


def test_a_call_is_recorded_once_where_one_decorated_function_calls_another(session, server):
    @recorded(session)
    def inner(client):
        return client.chat.completions.create(model="m", messages=HI)

    @recorded(session)
    def outer(client):
        return inner(client.with_options(timeout=5))

    outer(openai_of(server))
    assert types(session) == ONE_CALL


def test_two_sessions_may_record_one_call(session, server, tmp_path):
    with everlog.open(tmp_path / "other.db") as store:
        other = store.create("s")
        with record(session, openai_of(server)) as one, record(other, one) as both:
            both.chat.completions.create(model="m", messages=HI)
        assert types(session) == types(other) == ONE_CALL


def test_a_recorder_may_be_entered_again(session, server):
    recording = record(session, openai_of(server))
    for text in ("one", "two"):
        with recording as client, recording:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    client.chat.completions.create(model="m", messages=HI)
    assert types(session) == ONE_CALL * 2


def test_what_is_no_session_is_refused_at_once(server):
    with pytest.raises(TypeError, match="session"):
        record("run-42", openai_of(server))


# --- secrets -------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_is_made_anew_for_each_call_is_not_recorded(session, server, stream):
    server.fail_with = 401
    keys = iter(["first-made-key", "second-made-key"])
    with record(session, openai_of(server, api_key=lambda: next(keys))) as client:
        for _ in range(2):
            with pytest.raises(openai.AuthenticationError, match="made-key"):
                client.chat.completions.create(model="m", messages=HI, stream=stream)
    assert "made-key" not in all_text(session)
    assert "[left out]" in all_text(session)


def test_what_headers_hold_is_not_recorded_where_an_error_repeats_it(session, server):
    server.fail_with = 401
    with record(session, openai_of(server, default_headers={"X-Api-Key": "in-a-default-header"})) as client:
        with pytest.raises(openai.AuthenticationError, match="in-a-default-header"):
            client.responses.create(model="m", input="hi", extra_headers={"Authorization": "Bearer in-an-extra-header"})
    assert "in-a-default" not in all_text(session)
    assert "in-an-extra" not in all_text(session)


def test_what_tools_deep_inside_log_in_with_is_left_out(session, server):
    policy = {
        "type": "allowlist",
        "allowed_domains": ["a.b"],
        "domain_secrets": [{"domain": "a.b", "name": "N", "value": "hidden-1"}],
    }
    shell = {"type": "shell", "environment": {"type": "container_auto", "network_policy": policy}}
    mcp = {"type": "mcp", "server_label": "l", "server_url": "http://a.b", "authorization": "hidden-2"}
    schema = {"type": "object", "properties": {"headers": {"type": "string"}}}
    named = {
        "type": "namespace",
        "name": "n",
        "description": "",
        "tools": [{"type": "function", "name": "f", "parameters": schema}],
    }
    found = {"type": "tool_search_output", "call_id": "c", "tools": [mcp]}
    with record(session, openai_of(server)) as client:
        client.responses.create(
            model="m", input=[*HI, found], tools=[shell, mcp, named], extra_body={"api_key": "hidden-3"}
        )
    text = all_text(session)
    assert "hidden" not in text
    assert json.dumps(schema) in text
    assert server.requests[-1]["tools"] == [shell, mcp, named]
    assert not session.saw(session.last("model.request")).exact


deep = []
for _ in range(100):
    deep = [deep]


@pytest.mark.parametrize("odd", [2**64, deep, "x" * 9_000_000], ids=["an integer", "a deep list", "a long text"])
def test_what_the_log_cannot_say_beside_the_messages_is_left_out_and_the_call_is_recorded(session, server, odd):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "default": odd}}}
    tools = [{"name": name, "input_schema": its} for name, its in (("ask", {}), ("tell", schema))]
    with anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0) as given:
        recording = record(session, given)
        with recording as client:
            client.messages.create(model="m", max_tokens=9, messages=HI, tools=tools, system="be brief")
    assert (recording.failures, types(session)[:2], types(session)[-1]) == ([], ONE_CALL[:2], ONE_CALL[-1])
    assert server.requests[-1]["tools"] == tools
    saw = session.saw(session.last("model.request"))
    assert not saw.exact
    assert [saw.payload[name] for name in ("messages", "system", "tools")] == [HI, "be brief", [tools[0], "[left out]"]]


def test_an_error_whose_message_holds_half_a_character_is_recorded(session, server):
    server.pieces = [{"error": {"message": "no \ud800", "type": "t", "param": None, "code": None}}]
    with openai_of(server) as given:
        recording = record(session, given)
        with recording as client, client.chat.completions.create(model="m", messages=HI, stream=True) as stream:
            with pytest.raises(openai.APIError, match="no"):
                list(stream)
    assert recording.failures == []
    assert session.last("model.response").data["error"]["message"] == "no ?"


# --- streams -------------------------------------------------------------------------------------
def test_a_stream_without_end_is_held_up_to_a_bound(session, server, monkeypatch):
    monkeypatch.setattr(recorder, "STREAM_CHARACTERS_MAX", 10_000)
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    pieces = [{**chunk, "choices": [{"index": 0, "delta": {"content": "x" * 100}}]} for _ in range(500)]
    recording = record(session, openai_of(server))
    with recording as client:
        server.pieces = pieces
        stream = client.chat.completions.create(model="m", messages=HI, stream=True)
        assert sum(len(piece.choices[0].delta.content) for piece in stream) == 50_000
    said = session.last("agent.message")
    assert 0 < len(said.data["content"]) <= 10_000
    assert len(recording.failures) == 1
    assert session.last("model.response").outcome is None


def test_what_a_stream_gives_is_copied_once_not_with_each_piece():
    """A text that is copied with each piece takes a minute for what a model says in one."""

    class Counted(str):
        __slots__ = ()

        def __radd__(self, other):
            raise AssertionError("put together too early")

        def __add__(self, other):
            raise AssertionError("put together too early")

    text = Counted("a")
    chat, anthropics, items = pieces_of("openai-chat"), pieces_of("anthropic"), pieces_of("openai-agents")
    for _ in range(3):
        chat.add({"choices": [{"delta": {"content": text, "tool_calls": [{"function": {"arguments": text}}]}}]})
        anthropics.add({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}})
        items.add({"type": "response.output_text.delta", "delta": text})
    message = chat.said()["choices"][0]["message"]
    assert [message["content"], message["tool_calls"][0]["function"]["arguments"]] == ["aaa", "aaa"]
    assert anthropics.said()["content"][0]["text"] == "aaa"
    assert items.said()["output"][0]["content"] == "aaa"


def test_a_compaction_that_comes_in_pieces_is_recorded_whole_and_nothing_counted_is_lost(session, server):
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    server.pieces = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 7, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "compaction", "content": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "all of it"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "compaction"},
            "usage": {"input_tokens": None, "output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    client = anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0)
    with record(session, client) as client:
        with client.beta.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            assert stream.get_final_message().content[0].content == "all of it"
    answer = session.last("model.response")
    assert answer.data["usage"] == {"input_tokens": 7, "output_tokens": 5}
    assert session.last("agent.message").data["content"] == [{"type": "compaction", "content": "all of it"}]


def test_a_call_that_is_retried_is_one_call(session, server):
    server.fail_once = 500
    with record(session, openai_of(server, max_retries=2)) as client:
        client.chat.completions.create(model="m", messages=HI)
    assert types(session) == ONE_CALL
    assert len(server.requests) == 2


# --- others at once ------------------------------------------------------------------------------
def test_a_conversation_that_another_recorder_went_on_with_is_known(session, server, tmp_path):
    """Two of one session, as two processes have them."""
    said = [*HI]
    with (
        everlog.open(tmp_path / "s.db") as again,
        record(session, openai_of(server)) as one,
        record(again.session("s"), openai_of(server)) as other,
    ):
        for client in (one, other, one, other):
            answer = client.chat.completions.create(model="m", messages=said)
            said += [answer.choices[0].message, {"role": "user", "content": f"and {len(said)}?"}]
    assert len([event for event in session.events() if event.type == "user.message"]) == 4
    assert len([event for event in session.events() if event.type == "agent.message"]) == 4


def test_many_threads_record_through_one_client(session, server):
    failed = []
    with record(session, openai_of(server)) as client:

        def converse(name):
            said = [{"role": "user", "content": name}]
            for turn in range(4):
                answer = client.chat.completions.create(model="m", messages=said)
                said += [answer.choices[0].message, {"role": "user", "content": f"{name} {turn}"}]

        threads = [threading.Thread(target=lambda n=n: converse(f"t{n}")) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    requests = [event for event in session.events() if event.type == "model.request"]
    assert len(requests) == 24
    assert all(session.saw(event).exact for event in requests)
    assert len([event for event in session.events() if event.type == "user.message"]) == 24


# --- garbage -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content", ["a\x00b", "\x1b[2J", "x" * 1_000_000, "", "\u202e", [{"type": "text", "text": "a", "n": 2**70}]]
)
def test_whatever_a_message_holds_is_shown_as_it_was_sent(session, server, content):
    with record(session, openai_of(server)) as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    shown = session.saw(session.last("model.request"))
    assert shown.exact
    assert shown.payload["messages"][0]["content"] == content


@pytest.mark.parametrize("body", [None, [], {"messages": 5}, {"model": "m"}, {"model": "m", "messages": [None, 5]}])
def test_a_body_that_is_none_reaches_the_server_as_it_is(session, server, body):
    def post(client):
        try:
            return client.post("/chat/completions", cast_to=object, body=body)
        except Exception as error:  # the server hangs up
            return type(error)

    plain = post(openai_of(server))
    with record(session, openai_of(server)) as client:
        assert post(client) == plain


def test_the_clients_others_are_as_they_were(session, server):
    whole = openai_of(server, default_headers={"a": "b"}, default_query={"q": "1"}, timeout=7)
    with record(session, whole) as client:
        assert type(client) is type(whole)
        assert client.timeout == whole.timeout
        assert client.with_options(timeout=3, max_retries=5).timeout == 3
        assert client.with_options(max_retries=5).max_retries == 5
        assert client._client is whole._client
        for name in ("embeddings", "files", "batches", "beta", "models", "images", "audio", "moderations"):
            assert type(getattr(client, name)) is type(getattr(whole, name))
        client.with_options(timeout=3).chat.completions.create(model="m", messages=HI)
        client.with_raw_response.chat.completions.create(model="m", messages=HI) if hasattr(
            client.with_raw_response, "chat"
        ) else None
        client.close()
        with pytest.raises(Exception, match="closed|Connection"):
            client.chat.completions.create(model="m", messages=HI)
    assert "chat" not in vars(whole)
    assert "post" not in vars(whole)


def test_an_async_client_under_another_event_loop_is_recorded_where_it_is(session):
    """One that never meets asyncio, as under trio."""

    class Client:
        async def post(self, path, *, cast_to, body):
            return {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}

        def copy(self):
            return Client()

    async def go():
        async with record(session, Client()) as client:
            return await client.post("/chat/completions", cast_to=dict, body={"model": "m", "messages": HI})

    with pytest.raises(StopIteration) as ended:
        go().send(None)
    assert ended.value.value["choices"]
    assert types(session) == ONE_CALL
