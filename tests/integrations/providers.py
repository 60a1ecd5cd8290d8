"""A scripted server on loopback that speaks Anthropic's and OpenAI's APIs, streams included, and refuses what they refuse."""

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {
    "messages": {"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 5},
    "chat": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
    "responses": {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    },
}


NAMES = {
    "/v1/messages": "messages",
    ":rawPredict": "messages",  # of Vertex
    "/invoke": "messages",  # of Bedrock
    "/chat/completions": "chat",
    "/responses": "responses",
}


class Server(ThreadingHTTPServer):
    """Keeps what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.headers = []
        self.fail_with = None
        self.fail_once = None
        self.pieces = None
        self.waiting = None  # an event: for it the server waits before an answer, or after a stream's first pieces
        self.asked = threading.Event()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no trouble
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Asks for the tool once where there is one, then says how many results it was given."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        self.server.asked.set()
        failing, self.server.fail_once = self.server.fail_with or self.server.fail_once, None
        if failing:
            return self.give(failing, {"error": {"type": "bad", "message": f"no: {self.headers}"}})
        name = next((NAMES[end] for end in NAMES if self.path.partition("?")[0].endswith(end)), None)
        if name is None:
            return self.give(
                200, {"object": "list", "data": [{"embedding": [0.5], "index": 0}], "model": "e", "usage": {}}
            )
        answer = globals()[name](body)
        if not body.get("stream"):
            self.wait()
            return self.give(200, answer)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        pieces = globals()[f"{name}_events"](answer)
        for number, (event, data) in enumerate(
            pieces if self.server.pieces is None else ((each.get("type"), each) for each in self.server.pieces)
        ):
            if number == 2:
                self.wait()
            line = f"event: {event}\n" if event else ""
            text = data if isinstance(data, str) else json.dumps(data)
            self.wfile.write(f"{line}data: {text}\n\n".encode())
            if text == "CUT":
                break
        self.close_connection = True

    def wait(self):
        if self.server.waiting is not None:
            self.server.waiting.wait(20)

    def give(self, status, answer):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


# --- Anthropic's Messages API ------------------------------------------------------------------------
def messages(body):
    results = [
        block
        for message in body["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    content = [{"type": "text", "text": f"Said with {len(results)} results."}]
    if body.get("tools") and not results:
        thought = {"type": "thinking", "thinking": "I add.", "signature": "sig"}
        content = [thought, content[0], {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1, "b": [2]}}]
    return {
        "id": f"msg_{len(body['messages'])}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "in-the-path"),
        "content": content,
        "stop_reason": "tool_use" if len(content) > 1 else "end_turn",
        "stop_sequence": None,
        "usage": USAGE["messages"],
    }


def messages_events(answer):
    start = {**answer, "content": [], "stop_reason": None, "usage": {**answer["usage"], "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": start}
    yield "ping", {"type": "ping"}
    for at, block in enumerate(answer["content"]):
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
        begun = {**block, **empty[block["type"]]}
        yield "content_block_start", {"type": "content_block_start", "index": at, "content_block": begun}
        for delta in _deltas(block):
            yield "content_block_delta", {"type": "content_block_delta", "index": at, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": at}
    ended = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 5}}
    yield "message_stop", {"type": "message_stop"}


def _deltas(block):
    if block["type"] == "text":
        return [{"type": "text_delta", "text": part} for part in halves(block["text"])]
    if block["type"] == "thinking":
        thoughts = [{"type": "thinking_delta", "thinking": part} for part in halves(block["thinking"])]
        return [*thoughts, {"type": "signature_delta", "signature": block["signature"]}]
    return [{"type": "input_json_delta", "partial_json": part} for part in halves(json.dumps(block["input"]))]


def halves(text):
    return text[: len(text) // 2], text[len(text) // 2 :]


# --- chat completions --------------------------------------------------------------------------------
def chat(body):
    results = [message for message in body["messages"] if message["role"] == "tool"]
    message = {"role": "assistant", "content": f"Said with {len(results)} results.", "refusal": None}
    if body.get("tools") and not results:
        call = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1,"b":[2]}'}}
        message |= {"content": None, "tool_calls": [call]}
    return {
        "id": f"chatcmpl-{len(body['messages'])}",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE["chat"],
    }


def chat_events(answer):
    message = answer["choices"][0]["message"]
    chunk = {"id": answer["id"], "object": "chat.completion.chunk", "created": 1, "model": answer["model"]}
    deltas = [{"role": "assistant", "content": "" if message["content"] else None}]
    deltas += [{"content": part} for part in halves(message["content"] or "") if part]
    for at, call in enumerate(message.get("tool_calls", [])):
        first, second = halves(call["function"]["arguments"])
        begun = {**call, "index": at, "function": {"name": call["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        deltas += [{"tool_calls": [{"index": at, "function": {"arguments": part}}]} for part in (first, second)]
    for delta in deltas:
        yield None, {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield None, {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield None, {**chunk, "choices": [], "usage": answer["usage"]}
    yield None, "[DONE]"


# --- the Responses API -------------------------------------------------------------------------------
def responses(body):
    given = body["input"] if isinstance(body.get("input"), list) else []
    results = [item for item in given if item.get("type") == "function_call_output"]
    if body.get("tools") and not results:
        output = [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "id": "fc_1", "call_id": "t1", "name": "add", "arguments": '{"a": 1,"b":[2]}',
             "status": "completed"},
        ]  # fmt: skip
    else:
        part = {"type": "output_text", "text": f"Said with {len(results)} results.", "annotations": []}
        output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}]
    return {
        "id": f"resp_{len(given)}",
        "object": "response",
        "created_at": 1,
        "model": body.get("model", "of-the-prompt"),
        "status": "queued" if body.get("background") else "completed",
        "output": [] if body.get("background") else output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": USAGE["responses"],
    }


def responses_events(answer):
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"type": "response.created", "sequence_number": 0, "response": begun}
    number = 1
    for at, item in enumerate(answer["output"]):
        place = {"output_index": at, "item_id": item["id"]}
        empty = {**item, "content": []} if "content" in item else item
        events = [{"type": "response.output_item.added", "item": empty, "output_index": at}]
        for part in item.get("content", []):
            blank = {**part, "text": ""}
            events.append({"type": "response.content_part.added", **place, "content_index": 0, "part": blank})
            for text in halves(part["text"]):
                events.append(
                    {"type": "response.output_text.delta", **place, "content_index": 0, "delta": text, "logprobs": []}
                )
        events.append({"type": "response.output_item.done", "item": item, "output_index": at})
        for event in events:
            yield event["type"], {**event, "sequence_number": number}
            number += 1
    yield "response.completed", {"type": "response.completed", "sequence_number": number, "response": answer}
