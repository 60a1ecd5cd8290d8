"""A real loop: ask a model, do what it asks for, tell it, until it is done; over HTTP, in the shapes of two providers.

python examples/model_loop.py STORE

The model is a script on loopback that speaks Anthropic's Messages API and OpenAI's chat completions, and refuses what they refuse:
a tool call without its result. Kill the loop anywhere and run it again: it goes on to its end, and no tool runs twice. Killed inside a
tool, nobody knows whether that took effect: the tool is not run again, and the model is told so.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import everlog
from everlog import NewEvent
from everlog.errors import StepUnknownError

TOOLS = {"add": lambda given: str(given["a"] + given["b"])}
TASK = "What is 20 + 22? Use the tool."
UNKNOWN = "The process that ran this was killed. It is not known whether it took effect."


class Model(BaseHTTPRequestHandler):
    """Asks for the tool once, then says what it gave."""

    def do_POST(self) -> None:  # the name that http.server calls
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = anthropic(request) if self.path == "/v1/messages" else openai(request)
        body = json.dumps(answer).encode()
        self.send_response(400 if "error" in answer else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def anthropic(request: dict[str, Any]) -> dict[str, Any]:
    """Answer as Anthropic's Messages API."""
    waiting: set[str] = set()
    results: list[str] = []
    for message in request["messages"]:
        blocks = message["content"]
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if waiting - answered:
            return {"error": {"message": f"tool_use ids without tool_result: {sorted(waiting - answered)}"}}
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
        results += [part["text"] for block in blocks if block["type"] == "tool_result" for part in block["content"]]
    usage = {"input_tokens": 10, "output_tokens": 5}
    if not results:
        use = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 20, "b": 22}}
        return {"id": "msg_1", "content": [use], "stop_reason": "tool_use", "usage": usage}
    text = {"type": "text", "text": f"It is {results[-1]}."}
    return {"id": "msg_2", "content": [text], "stop_reason": "end_turn", "usage": usage}


def openai(request: dict[str, Any]) -> dict[str, Any]:
    """Answer as OpenAI's chat completions."""
    results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    called = [call["id"] for message in request["messages"] for call in message.get("tool_calls", [])]
    answered = [message["tool_call_id"] for message in request["messages"] if message["role"] == "tool"]
    if sorted(called) != sorted(answered):
        return {"error": {"message": "an assistant message with 'tool_calls' must be followed by tool messages"}}
    message: dict[str, Any] = {"role": "assistant", "content": f"It is {results[-1]}." if results else None}
    if not results:
        call = {"name": "add", "arguments": json.dumps({"a": 20, "b": 22})}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
    return {"id": "chatcmpl", "choices": [{"message": message}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


def post(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request, as a provider's client does."""
    asked = urllib.request.Request(url, json.dumps(request).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.load(answer)


def turn_of(provider: str, answer: dict[str, Any]) -> list[NewEvent]:
    """Give what a model said as events."""
    if provider == "anthropic":
        blocks = answer["content"]
        said = [NewEvent("agent.message", {"content": block["text"]}) for block in blocks if block["type"] == "text"]
        uses = [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    else:
        message = answer["choices"][0]["message"]
        said = [NewEvent("agent.message", {"content": message["content"]})] if message["content"] else []
        uses = [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls", [])
        ]
    return said + [NewEvent("agent.tool_use", {"id": use, "name": name, "input": given}) for use, name, given in uses]


def result_of(run: everlog.Run, use: dict[str, Any]) -> NewEvent:
    """Run a tool, once; give its result as an event."""
    said: dict[str, Any] = {"tool_use_id": use["id"]}
    try:
        said["content"] = run.step(f"tool {use['id']}", TOOLS[use["name"]], use["input"], policy="fail")
    except StepUnknownError:  # now and whenever this run is gone through again
        return NewEvent("agent.tool_result", {**said, "content": UNKNOWN, "is_error": True}, outcome="unknown")
    return NewEvent("agent.tool_result", said, outcome="ok")


def loop(store: everlog.Store, provider: str, base: str) -> str:
    """Work until the model says nothing but words; give them."""
    name = f"loop-{provider}"
    store.get_or_create(name, events=[NewEvent("user.message", {"content": TASK})])
    with store.wake(name, holder="loop", ttl=2, timeout=10) as woken, woken.run(policy="retry") as run:
        for number in range(10):
            messages = woken.state("messages")
            shape = messages.as_anthropic() if provider == "anthropic" else messages.as_openai_chat()
            path = "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"
            answer = run.step("model", lambda shape=shape, path=path: post(base + path, {"model": "scripted", **shape}))
            events = turn_of(provider, answer)
            woken.extend(
                events, key=f"turn {number}"
            )  # the key: what was recorded before a crash is not recorded again
            uses = [event.data for event in events if event.type == "agent.tool_use"]
            if not uses:
                return str(events[-1].data["content"])
            woken.extend([result_of(run, use) for use in uses], key=f"results {number}")
    raise AssertionError("the model did not come to an end")


def main(store_path: str) -> None:
    """Run the loop with each provider, twice: the second time everything is recorded already."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with everlog.open(store_path) as store:
            for provider in ("anthropic", "openai"):
                for _ in range(2):
                    print(f"{provider}: {loop(store, provider, base)}")
                assert store.session(f"loop-{provider}").count(types="agent.tool_result") == 1
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main(sys.argv[1])
