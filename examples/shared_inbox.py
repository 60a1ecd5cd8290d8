"""Two agents share one session: each message is answered by one of them, and a helper's work is merged back.

python examples/shared_inbox.py STORE
"""

from __future__ import annotations

import sys
import threading

import everlog


def answer_all(store: everlog.Store, name: str, answered: list[str]) -> None:
    """Take messages that nobody works on, one after another, until none is left."""
    while (claim := store.claim("inbox", holder=name, ttl=10)) is not None:
        with claim:
            thought = claim.work.run().step("think", lambda text: text.upper(), claim.message.data["content"])
            claim.answer(f"{name} says: {thought}", actor=name)
            answered.append(claim.message.data["content"])


def main(store_path: str) -> None:
    """Let two agents work on six messages, then a helper on a fork."""
    with everlog.open(store_path) as store:
        inbox = store.get_or_create("inbox")
        for number in range(6):
            inbox.append("user.message", {"content": f"question {number}"}, key=f"q{number}")
        answered: list[str] = []
        agents = [threading.Thread(target=answer_all, args=(store, name, answered)) for name in ("ann", "bob")]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join()
        assert sorted(answered) == [f"question {number}" for number in range(6)], answered
        assert inbox.count(types="agent.message") == 6

        # A helper works on a fork of its own, under its own lease, while others go on here.
        helper = inbox.fork(id="helper", reason="to look into question 3")
        with helper.lease("helper", ttl=10):
            helper.append("state.set", {"path": "/found", "value": 42}, rationale="it was in the manual")
        inbox.append("note", {"content": "meanwhile, elsewhere"})
        merged = inbox.merge(helper, reason="the helper found it")
        print(f"{len(answered)} answered, each once; merged at {merged.position}: {inbox.state().value}")


if __name__ == "__main__":
    main(sys.argv[1])
