"""Graphs on EverlogSaver beside the same on InMemorySaver: runs drawn at random leave the same history.

A graph with a fan-out, a subgraph that interrupts twice, and a node that fails now and then is called, resumed, updated and forked, with
each of the three durabilities.
"""

import operator
import random
import re
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langgraph.graph", reason="langgraph is not installed")

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

import everlog
from everlog.integrations.langgraph import EverlogSaver

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}")


class State(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    items: Annotated[list, operator.add]
    n: int


def build(saver, failures):
    def plan(state):
        if failures and failures.pop():
            raise RuntimeError("it failed")
        return {"items": ["planned"], "n": state.get("n", 0) + 1}

    def fan_out(state):
        return [Send("work", {"k": k, "n": state.get("n", 0)}) for k in range(state.get("n", 0) % 3 + 1)]

    def work(state):
        return {
            "items": [f"work {state['k']}"],
            "messages": [AIMessage(f"did {state['k']}", id=f"{state['n']}-{state['k']}")],
        }

    def say(state):
        return {"items": ["said"], "messages": [HumanMessage("from below", id=f"below {state.get('n', 0)}")]}

    def ask(state):
        if state.get("n", 0) % 2 == 0:
            return {"items": ["nothing to ask"]}
        return {"items": [f"{interrupt({'asked': state.get('n', 0)})} and {interrupt('again')}"]}

    below = StateGraph(State).add_node("say", say).add_node("ask", ask)
    below = below.add_edge(START, "say").add_edge("say", "ask").add_edge("ask", END).compile()
    graph = StateGraph(State).add_node("plan", plan).add_node("work", work).add_node("below", below)
    graph = graph.add_edge(START, "plan").add_conditional_edges("plan", fan_out, ["work"]).add_edge("work", "below")
    return graph.add_edge("below", END).compile(checkpointer=saver)


def called_alike(text, names):
    """A text whose ids are called by the order in which they came."""
    return UUID.sub(lambda found: names.setdefault(found[0], f"id {len(names)}"), text)


def history(graph, config):
    """Every state of a thread, the newest first, with its place in the tree."""
    told = []
    for state in graph.get_state_history(config):
        parent = (state.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        tasks = [(task.name, task.path, repr(task.error), task.interrupts, task.result) for task in state.tasks]
        said = [message.content for message in state.values.get("messages", [])]
        told.append((state.config["configurable"]["checkpoint_id"], parent, state.metadata, state.next, tasks))
        told.append((said, state.values.get("items"), state.values.get("n")))
    names = {}
    return [called_alike(repr(each), names) for each in told]


def go_on(graph, config, draw, step):
    """Make one call that the thread's state allows."""
    durability = draw.choice(["sync", "async", "exit"])
    state, chance, at, forks = graph.get_state(config), draw.random(), draw.random(), draw.random() < 0.5
    given = {"items": [f"given {step}"], "messages": [HumanMessage(f"question {step}", id=f"question {step}")]}
    if any(task.interrupts for task in state.tasks):
        graph.invoke(Command(resume=f"answer {step}") if chance < 0.7 else given, config, durability=durability)
    elif state.next:
        graph.invoke(None, config, durability=durability)
    elif chance < 0.6 or not state.values:
        graph.invoke(given, config, durability=durability)
    elif chance < 0.75:
        graph.update_state(config, {"items": [f"updated {step}"], "n": step}, as_node="plan")
    else:
        states = list(graph.get_state_history(config))
        config = states[int(at * len(states))].config
        if forks:
            config = graph.update_state(config, {"items": ["forked"]}, as_node="plan")
        graph.invoke(None, config, durability=durability)


def story(saver, seed):
    draw = random.Random(seed)
    graph = build(saver, [draw.random() < 0.5 for _ in range(3)])
    told = []
    for step in range(8):
        config = {"configurable": {"thread_id": draw.choice("ab")}}
        try:
            go_on(graph, config, draw, step)
        except RuntimeError as failure:
            told.append(str(failure))
        told.append(history(graph, config))
    return told


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_graph_goes_through_its_history_is_the_same(seed):
    with everlog.open("memory:") as store:
        ours, theirs = story(EverlogSaver(store), seed), story(InMemorySaver(), seed)
        assert ours == theirs
        assert store.verify().ok
