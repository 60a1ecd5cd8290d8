"""Calls of Anthropic's and OpenAI's clients: they return what they return unrecorded, and the log has what was said."""

import asyncio
import gc
import subprocess
import sys
from pathlib import Path

import pytest

import everlog
from core.secrets_made import TOKENS, drawn
from everlog.integrations.recorder import record, recorded
from integrations.providers import serving

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")


KEY = "the-key-of-the-client"
TOOL = {"type": "object", "properties": {"a": {"type": "integer"}, "headers": {"type": "string"}}}


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server):
    server.requests.clear()
    server.headers.clear()
    server.fail_with = None


@pytest.fixture
def session(tmp_path):
    with everlog.open(tmp_path / "s.db") as store:
        yield store.create("s")


def client_of(server, kind, *, asynchronous=False):
    if kind == "messages":
        make = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
        return make(api_key=KEY, base_url=server.url, max_retries=0)
    make = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return make(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0)


def resource_of(client, kind):
    if kind == "messages":
        return client.messages
    return client.chat.completions if kind == "chat" else client.responses


class Loop:
    """A loop of an agent as its author writes it, for one API."""

    def __init__(self, kind):
        self.kind = kind
        self.said = [{"role": "user", "content": "What is 1 + 2?"}]
        if kind == "chat":
            self.said.insert(0, {"role": "system", "content": "Be brief."})

    def create(self, client, **more):
        return resource_of(client, self.kind).create(**self.given(), **more)

    def given(self):
        said = [*self.said]
        match self.kind:
            case "messages":
                tool = {"name": "add", "input_schema": TOOL}
                return {"model": "m", "max_tokens": 9, "system": "Be brief.", "tools": [tool], "messages": said}
            case "chat":
                tool = {"type": "function", "function": {"name": "add", "parameters": TOOL}}
                return {"model": "m", "tools": [tool], "messages": said}
            case _:
                tool = {"type": "function", "name": "add", "parameters": TOOL, "strict": False}
                return {"model": "m", "instructions": "Be brief.", "tools": [tool], "input": said}

    def hear(self, answer):
        match self.kind:
            case "messages":
                self.said.append({"role": "assistant", "content": answer.content})
                results = [
                    {"type": "tool_result", "tool_use_id": block.id, "content": "3"}
                    for block in answer.content
                    if block.type == "tool_use"
                ]
                self.said += [{"role": "user", "content": results}] if results else []
            case "chat":
                message = answer.choices[0].message
                self.said.append(message)
                self.said += [
                    {"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls or []
                ]
            case _:
                self.said += answer.output
                self.said += [
                    {"type": "function_call_output", "call_id": item.call_id, "output": "3"}
                    for item in answer.output
                    if item.type == "function_call"
                ]

    def ask(self, text):
        self.said.append({"role": "user", "content": text})


KINDS = pytest.mark.parametrize("kind", ["messages", "chat", "responses"])
SAID = {
    "messages": ["user.message", "agent.thinking", "agent.message", "agent.tool_use", "agent.tool_result", "agent.message"],
    "chat": ["system.message", "user.message", "agent.tool_use", "agent.tool_result", "agent.message"],
    "responses": ["user.message", "agent.thinking", "agent.tool_use", "agent.tool_result", "agent.message"],
}  # fmt: skip
USED = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3}


def of_calls(session):
    return [event for event in session.events() if event.type.startswith("model.")]


def conversation(session):
    return [event.type for event in session.events() if not event.type.startswith("model.")]


def two_turns(kind, client):
    loop = Loop(kind)
    loop.hear(loop.create(client))
    loop.hear(loop.create(client))
    return loop


@KINDS
def test_a_loop_is_recorded_once_and_returns_what_it_would(session, server, kind):
    client = client_of(server, kind)
    plain = two_turns(kind, client)
    sent = [*server.requests]
    with record(session, client, actor="planner") as recording:
        assert type(recording) is type(client)
        assert two_turns(kind, recording).said == plain.said
    assert server.requests == sent * 2
    assert conversation(session) == SAID[kind]
    calls = of_calls(session)
    assert [event.type for event in calls] == ["model.request", "model.response"] * 2
    for event in calls[1::2]:
        assert event.outcome == "ok"
        assert event.data["usage"].items() >= USED.items()
        assert event.data["request"] == session.causes(event)[0].id
    assert session.last("agent.message").actor == "planner"
    assert session.state("usage").value["total"]["input_tokens"] == 20
    roles = [message["role"] for message in session.state("messages").value if message["role"] != "system"]
    assert roles[0] == "user"
    assert set(roles[1:]) == {"assistant"}
    client.close()


@KINDS
def test_what_each_call_saw_is_what_was_sent(session, server, kind):
    client = client_of(server, kind)
    with record(session, client) as recording:
        loop = two_turns(kind, recording)
        loop.ask("And 3 + 4?")
        loop.create(recording)
    requests = session.events(types="model.request")
    for event, sent in zip(requests, server.requests, strict=True):
        seen = session.saw(event)
        assert (seen.payload, seen.exact) == (sent, True)
    assert session.saw(session.last("agent.message")).payload == server.requests[-1]
    fork = session.fork(at="end", id="fork")
    assert fork.saw(session.last("model.request").position).exact
    client.close()


@KINDS
def test_another_process_goes_on_without_recording_anything_twice(session, server, kind):
    client = client_of(server, kind)
    with record(session, client) as recording:
        loop = two_turns(kind, recording)
    with record(session, client) as recording:
        loop.ask("And 3 + 4?")
        loop.create(recording)
    assert conversation(session) == [*SAID[kind], "user.message", "agent.message"]
    assert session.saw(session.last("model.request")).payload == server.requests[-1]
    client.close()


@KINDS
def test_a_conversation_that_was_cut_or_goes_another_way_is_told_apart(session, server, kind):
    client = client_of(server, kind)
    with record(session, client) as recording:
        loop = two_turns(kind, recording)
        begun = session.size()
        side = Loop(kind)
        side.said[-1] = {"role": "user", "content": "Another question."}
        side.create(recording)
        assert "user.message" in [event.type for event in session.slice(begun)]
        loop.ask("Go on.")
        loop.create(recording)
        assert session.saw(session.last("model.request")).payload == server.requests[-1]
        session.rewind(0)
        loop.create(recording)
    assert conversation(session)[0] == "session.rewound"
    assert conversation(session)[1:-1] == [*SAID[kind], "user.message"]
    assert session.saw(session.last("model.request")).exact
    client.close()


@KINDS
def test_a_stream_gives_its_pieces_and_is_recorded_as_if_it_came_at_once(session, server, kind):
    client = client_of(server, kind)
    loop = Loop(kind)
    more = {"stream_options": {"include_usage": True}} if kind == "chat" else {}
    plain = [piece.to_dict() for piece in loop.create(client, stream=True, **more)]
    with record(session, client) as recording:
        stream = loop.create(recording, stream=True, **more)
        assert [piece.to_dict() for piece in stream] == plain
        assert of_calls(session)[-1].outcome == "ok"
    streamed = [(event.type, event.data) for event in session.events() if event.type.startswith("agent.")]
    other = session.fork(at=0, id="other")
    with record(other, client) as recording:
        loop.create(recording)
    assert streamed == [(event.type, event.data) for event in other.events() if event.type.startswith("agent.")]
    answer = of_calls(session)[-1]
    assert answer.data["streamed"]
    assert answer.data["usage"] == of_calls(other)[-1].data["usage"]
    client.close()


@KINDS
def test_an_async_client_is_recorded_the_same(session, server, kind):
    async def story(stream):
        client = client_of(server, kind, asynchronous=True)
        loop = Loop(kind)
        async with record(session, client) as recording:
            if stream:
                pieces = [piece async for piece in await loop.create(recording, stream=True)]
                assert pieces
            else:
                loop.hear(await loop.create(recording))
                loop.hear(await loop.create(recording))
        await client.close()

    asyncio.run(story(False))
    assert conversation(session) == SAID[kind]
    asyncio.run(story(True))
    assert [event.outcome for event in of_calls(session)[1::2]] == ["ok"] * 3


@KINDS
@pytest.mark.parametrize("way", ["close", "drop", "end"])
def test_a_stream_that_is_left_early_is_recorded_as_far_as_it_came(session, server, kind, way):
    client = client_of(server, kind)
    loop = Loop(kind)
    loop.said.append({"role": "user", "content": "x"})
    with record(session, client) as recording:
        stream = resource_of(recording, kind).create(
            **{name: value for name, value in loop.given().items() if name != "tools"}, stream=True
        )
        for piece in stream:
            if "Said" in str(piece):
                break
        if way == "close":
            stream.close()
        elif way == "drop":
            del stream
            gc.collect()
        if way in ("close", "drop"):
            Loop(kind).create(recording)
            assert of_calls(session)[-3].outcome == "cancelled"
    left = of_calls(session)[1]
    assert (left.type, left.outcome) == ("model.response", "cancelled")
    assert "Said" in str(session[left.position - 1].data["content"])
    if way == "end":
        assert list(stream)  # it can be read on
        assert len(of_calls(session)) == 2
    client.close()


def test_the_helpers_that_stream_are_recorded_and_work(session, server):
    client = client_of(server, "messages")
    given = {name: value for name, value in Loop("messages").given().items() if name != "tools"}
    with record(session, client) as recording:
        with recording.messages.stream(**given) as stream:
            assert "".join(stream.text_stream) == "Said with 0 results."
            assert stream.get_final_message().usage.output_tokens == 5
        with recording.messages.stream(**given) as stream:
            next(iter(stream))
    assert [event.outcome for event in of_calls(session)[1::2]] == ["ok", "cancelled"]
    client.close()
    client = client_of(server, "chat")
    with record(session, client) as recording:
        given = {name: value for name, value in Loop("chat").given().items() if name != "tools"}
        with recording.chat.completions.stream(**given) as stream:
            assert stream.get_final_completion().choices[0].message.content == "Said with 0 results."
        given = {name: value for name, value in Loop("responses").given().items() if name != "tools"}
        with recording.responses.stream(**given) as stream:
            assert stream.get_final_response().output_text == "Said with 0 results."
    assert [event.outcome for event in of_calls(session)[5::2]] == ["ok", "ok"]
    client.close()


@KINDS
def test_raw_answers_are_the_clients_own(session, server, kind):
    client = client_of(server, kind)
    given = Loop(kind).given()
    with record(session, client) as recording:
        resource = resource_of(recording, kind)
        raw = resource.with_raw_response.create(**given)
        assert raw.headers["content-type"] == "application/json"
        assert raw.parse().model == "m"
        assert of_calls(session)[-1].data["usage"].items() >= USED.items()
        with resource.with_streaming_response.create(**given) as streaming:
            assert b'"model"' in b"".join(streaming.iter_bytes())
        assert of_calls(session)[-1].data["usage"].items() >= USED.items()
        assert recording.with_options(timeout=5).post is not client.post
        recording = recording.with_options(timeout=5)
        Loop(kind).create(recording)
        assert len(of_calls(session)) == 6
    client.close()


@KINDS
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_client_raises_is_raised_and_recorded_without_its_key(session, server, kind, asynchronous):
    server.fail_with = 400

    async def story():
        client = client_of(server, kind, asynchronous=asynchronous)
        module = anthropic if kind == "messages" else openai
        with record(session, client) as recording, pytest.raises(module.BadRequestError) as raised:
            made = Loop(kind).create(recording)
            if asynchronous:
                await made
        closing = client.close()
        if closing is not None:
            await closing
        return raised.value

    error = asyncio.run(story())
    assert KEY in str(error)  # the server said it
    failed = of_calls(session)[-1]
    assert failed.outcome == "error"
    assert (failed.data["error"]["kind"], failed.data["error"]["status"]) == ("BadRequestError", 400)
    assert KEY not in str([event.to_dict() for event in session.events()])


def test_a_server_that_is_not_there_is_recorded_as_that(session):
    client = openai.OpenAI(api_key=KEY, base_url="http://127.0.0.1:9", max_retries=0)
    with record(session, client) as recording, pytest.raises(openai.APIConnectionError):
        Loop("chat").create(recording)
    assert of_calls(session)[-1].data["error"]["kind"] == "APIConnectionError"
    client.close()


@KINDS
def test_an_answer_is_given_also_where_nothing_can_be_recorded(session, server, kind, tmp_path, caplog):
    client = client_of(server, kind)
    store = everlog.open(tmp_path / "closed.db")
    gone = store.create("s")
    store.close()
    recorder = record(gone, client)
    with recorder as recording:
        two_turns(kind, recording)
        assert list(Loop(kind).create(recording, stream=True))
    assert len(recorder.failures) == 3
    assert "was not recorded" in caplog.text
    store = everlog.open(tmp_path / "deleted.db")
    gone = store.create("s")
    recorder = record(gone, client)
    with recorder as recording:
        stream = Loop(kind).create(recording, stream=True)
        store.delete("s", reason="test")
        assert list(stream)
    assert len(recorder.failures) == 1
    store.close()
    client.close()


def test_what_tools_log_in_with_is_left_out_and_said_to_be(session, server):
    client = client_of(server, "responses")
    tool = {"type": "mcp", "server_label": "x", "server_url": "https://x", "authorization": "hidden-token"}
    own = {"type": "function", "name": "f", "parameters": TOOL, "strict": False}
    with record(session, client) as recording:
        recording.responses.create(
            model="m", input="Hello.", tools=[tool, own], extra_headers={"x-key": "hidden-header"}
        )
    assert server.requests[0]["tools"][0]["authorization"] == "hidden-token"
    shown = str([event.to_dict() for event in session.events()])
    assert "hidden" not in shown
    seen = session.saw(session.last("model.request"))
    assert (seen.exact, seen.payload["input"]) == (False, "Hello.")
    assert seen.payload["tools"][1] == own
    client.close()


@pytest.mark.parametrize("mode", ["redact", "reject"])
def test_a_store_that_looks_for_secrets_records_none(tmp_path, server, mode):
    secret = TOKENS["github-token"](drawn(1))
    with everlog.open(tmp_path / "s.db", redact=mode) as store, client_of(server, "messages") as client:
        session = store.create("s")
        recorder = record(session, client)
        with recorder as recording:
            loop = Loop("messages")
            loop.ask(f"My token is {secret}.")
            loop.hear(loop.create(recording))
            loop.hear(loop.create(recording))
        assert secret in str(server.requests[0])
        assert secret not in str([event.to_dict() for event in session.events()])
        assert len(recorder.failures) == (2 if mode == "reject" else 0)
        if mode == "redact":
            assert not session.saw(session.last("model.request")).exact
            assert session.count(types="agent.tool_result") == 1


def test_an_answer_that_is_said_again_otherwise_is_known_and_shown_as_it_was_sent(session, server):
    with client_of(server, "messages") as client, record(session, client) as recording:
        given = {"model": "m", "max_tokens": 5}
        said = [{"role": "user", "content": "question 0"}]
        for number in range(4):
            answer = recording.messages.create(messages=said, **given)
            said.append({"role": "assistant", "content": answer.content[0].text})  # a text, where a list of blocks came
            said.append({"role": "user", "content": [{"type": "text", "text": f"and {number}?"}]})
            said[0] = {
                "role": "user",
                "content": [{"type": "text", "text": "question 0", "cache_control": {"type": "ephemeral"}}],
            }
    assert conversation(session) == ["user.message", "agent.message"] * 4
    for event, sent in zip(session.events(types="model.request"), server.requests, strict=True):
        assert (session.saw(event).payload, session.saw(event).exact) == (sent, True)
    assert sum(len(str(event.data["recorded"])) for event in session.events(types="model.request")) < 3_000


def test_what_was_erased_is_gone_from_what_a_call_saw(session, server):
    client = client_of(server, "messages")
    with record(session, client) as recording:
        two_turns("messages", recording)
    session.erase([0], reason="asked for")
    seen = session.saw(session.last("model.request"))
    assert not seen.exact
    assert "What is 1 + 2?" not in str(seen.payload)
    client.close()


def test_other_calls_other_clients_and_calls_after_the_end_are_not_recorded(session, server):
    client = client_of(server, "chat")
    with record(session, client) as recording:
        recording.embeddings.create(model="e", input="x", encoding_format="float")
        Loop("chat").create(client)
    Loop("chat").create(recording)
    assert session.size() == 0
    with pytest.raises(TypeError, match="no client"):
        record(session, object())
    client.close()


def test_a_decorated_function_is_given_a_client_that_records(session, server):
    @recorded(session)
    def agent(question, client):
        return client.responses.create(model="m", input=question).output_text

    @recorded(lambda: session, argument="model", actor="helper")
    async def other(model):
        return (
            await model.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])
        ).content

    client = client_of(server, "responses")
    assert agent("Hello.", client=client) == "Said with 0 results."

    async def story():
        async with client_of(server, "messages", asynchronous=True) as asking:
            return await other(asking)

    assert asyncio.run(story())[0].text == "Said with 0 results."
    assert conversation(session) == ["user.message", "agent.message"] * 2
    with pytest.raises(TypeError, match="'client'"):
        recorded(session)(lambda: None)
    client.close()


def test_importing_it_imports_neither_client():
    code = "import sys, everlog.integrations.recorder; print({'openai', 'anthropic', 'agents'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_example_runs_and_records_nothing_twice(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "integrations" / "recorder.py"
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-W", "error", example, tmp_path / "s.db"], capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        assert "3 messages were sent; exact: True" in ran.stdout
