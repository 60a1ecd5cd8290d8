"""A run went wrong: find where, see why, try another way from there, and bring the better result back.

python examples/time_travel.py STORE
"""

from __future__ import annotations

import sys

import everlog
from everlog.core.event import Outcome


@everlog.reducer("failures", 1, initial=0, types=["agent.tool_result"])
def failures(state: int, event: everlog.Event) -> int:
    """Count tool results that failed."""
    return state + (event.outcome == "error")


def work(session: everlog.Session, plan: str, outcome: Outcome, why: str) -> None:
    """Do one step: plan it, call a tool, keep what came of it."""
    session.append("state.set", {"path": "/plan/next", "value": plan}, rationale=why, state="document")
    use = session.append("agent.tool_use", {"id": plan, "name": "bash", "input": {"cmd": plan}})
    session.append("agent.tool_result", {"tool_use_id": plan, "content": outcome}, outcome=outcome, caused_by=use)


def main(store_path: str) -> None:
    """Let a run fail, and mend it."""
    with everlog.open(store_path) as store:
        run = store.create(title="Mend the parser")
        work(run, "read", "ok", "to see what is there")
        work(run, "rewrite", "error", "it looked simple")
        work(run, "patch", "error", "the rewrite does not build")

        first = run.bisect(lambda state: state.value > 0, reducer="failures")
        assert first is not None
        print(f"it first failed at {first.position}: {first.data['tool_use_id']}")
        reason = run.why("/plan/next", at=first)[0]
        print(f"because {reason.after!r} was planned: {reason.rationale}")

        other = run.fork(at=reason.event, title="Mend the parser, another way")
        work(other, "test", "ok", "nothing covers the case")
        print("\n".join(run.diff(other).state_lines()))

        merged = run.merge(other, events="type:agent.tool_*", prefer="theirs", reason="the test shows the fault")
        print(f"merged at {merged.position}; the plan is now {run.state()['plan']}")
        assert run.state("failures") == 2
        assert run.state(verify=True)["plan"] == {"next": "test"}


if __name__ == "__main__":
    main(sys.argv[1])
