"""A loop on Anthropic's own client, recorded call by call. The provider is a script on loopback, so no key is needed.

python examples/integrations/recorder.py STORE

Run it again on the same store: what is known of the conversation is not recorded twice.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic

import everlog
from everlog.integrations.recorder import record

QUESTIONS = ("What is a log?", "And a lease?")


class Provider(BaseHTTPRequestHandler):
    """Says how many messages it was sent."""

    def do_POST(self) -> None:  # the name that http.server calls
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = f"You sent {len(request['messages'])} messages."
        answer = {
            "id": f"msg_{len(request['messages'])}",
            "type": "message",
            "role": "assistant",
            "model": request["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def converse(client: anthropic.Anthropic) -> None:
    """Ask, and ask again, as any program does: nothing here knows of a log."""
    messages: list[Any] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer = client.messages.create(model="scripted", max_tokens=100, messages=messages)
        messages.append({"role": "assistant", "content": answer.content})
        print(answer.content[0])


def main(store_path: str) -> None:
    """Record a conversation, and look at what the model saw at its last call."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with everlog.open(store_path) as store, anthropic.Anthropic(api_key="none", base_url=address) as plain:
            session = store.get_or_create("support-7")
            with record(session, plain, actor="helper") as client:
                converse(client)
            last = session.last("model.request")
            assert last is not None, "it was just recorded"
            seen = session.saw(last)
            print(len(seen.payload["messages"]), "messages were sent; exact:", seen.exact)
            print("tokens:", session.state("usage").value["total"]["input_tokens"])
            assert session.count(types="user.message") == len(QUESTIONS), "each was recorded once"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main(sys.argv[1])
