"""Summaries: a tree without gaps, the same for the same events, whoever writes it and however often."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

import everlog
from databases import address
from everlog import NewEvent
from everlog.context.extract import extract_events, extract_summaries
from everlog.context.tree import covered_ranges, key_of
from everlog.core.event import Body, Event, encode_body
from everlog.core.merkle import node_hash
from everlog.errors import FencedError, InvalidEventError, InvalidPlaceError, LimitError
from everlog.storage import Append

SMALL = {"leaf_tokens": 200, "fan_out": 3}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    with everlog.open(address(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture
def session(store):
    return store.create("s")


def talk(session, count, *, first=0):
    session.extend(
        [
            NewEvent(
                "user.message" if number % 2 == 0 else "agent.message",
                {"content": f"Please keep fact_{number} in /src/case{number}.py. " + "word " * 20},
            )
            for number in range(first, first + count)
        ]
    )


def shape(found):
    return [(each.start, each.stop, each.level) for each in found]


def check_tree(session):
    """Check that roots stand side by side, each covers what its parts cover, and hashes are those of the events."""
    roots = session.outline()
    at = 0
    for root in roots:
        assert root.start == at
        at = root.stop
        check_node(session, root)
    assert session.verify().ok
    return roots


def check_node(session, node):
    event = session[node.position]
    assert event.type == "summary"
    assert node.content is not None
    assert event.data["content"] == node.content
    ranges = covered_ranges(node.start, node.stop)
    assert (ranges[0][0], ranges[-1][1]) == (node.start, node.stop)
    assert all(one[1] == two[0] for one, two in zip(ranges, ranges[1:], strict=False))
    parts = session.expand(node)
    if node.level == 0:
        assert [event.position for event in parts] == list(range(node.start, node.stop))
        return
    assert (parts[0].start, parts[-1].stop) == (node.start, node.stop)
    assert {part.level for part in parts} == {node.level - 1}
    assert all(one.stop == two.start for one, two in zip(parts, parts[1:], strict=False))
    for part in parts:
        check_node(session, part)


def tree_hash(leaves):
    """Give the hash of RFC 6962, in the plainest way."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_hash(leaves[:split]), tree_hash(leaves[split:]))


# --- the tree ---
def test_the_tree_covers_the_log_without_gaps_and_carries_the_hash_of_what_it_covers(session):
    talk(session, 200)
    written = session.summarize(**SMALL)
    roots = check_tree(session)
    assert {event.type for event in written} == {"summary"}
    assert max(root.level for root in roots) >= 2
    for level in range(roots[0].level + 1):
        finer = session.outline(level)
        assert {each.level for each in finer} == {level}
    assert (session.outline(0)[0].start, session.outline(0)[-1].stop) == (0, roots[-1].stop)
    assert session.outline(at=0) == []
    assert session.outline(99) == []


def test_the_header_of_a_summary_has_the_tree_hashes_of_its_ranges(store, session):
    talk(session, 100)
    session.summarize(**SMALL)
    for summary in [*session.outline(0), *session.outline()]:
        (row,) = store.storage.rows(session.view().lineage, summary.position, summary.position + 1)
        covers = json.loads(row.covers)
        assert [(start, stop) for start, stop, _ in covers] == covered_ranges(summary.start, summary.stop)
        for start, stop, digest in covers:
            assert digest == tree_hash([bytes.fromhex(event.hash) for event in session[start:stop]]).hex()


@pytest.mark.parametrize("fan_out", [2, 3, 7, 16])
def test_every_fan_out_gives_a_tree(fan_out):
    with everlog.open("memory:") as store:
        session = store.create("s")
        talk(session, 300)
        session.summarize(fan_out=fan_out, leaf_tokens=100)
        roots = check_tree(session)
        for root in roots:
            assert root.level == 0 or len(session.expand(root)) == fan_out
        for level in {root.level for root in roots}:
            assert sum(root.level == level for root in roots) < fan_out


def test_ranges_are_few_and_lie_side_by_side():
    for start, stop in [
        (0, 1),
        (1, 2),
        (0, 1_000_000),
        (1, 999_999),
        (123_457, 7_654_321),
        (5, 6),
        (31, 33),
        (2**40 + 1, 2**41 - 1),
    ]:
        ranges = covered_ranges(start, stop)
        assert len(ranges) <= 16
        assert (ranges[0][0], ranges[-1][1]) == (start, stop)
        assert all(one[1] == two[0] for one, two in zip(ranges, ranges[1:], strict=False))


def test_summarizing_again_writes_nothing_and_more_events_only_what_they_need(session):
    talk(session, 100)
    assert session.summarize(**SMALL)
    size = session.refresh().size
    assert session.summarize(**SMALL) == []
    assert session.refresh().size == size
    before = session.outline(0)
    talk(session, 50, first=100)
    assert session.summarize(**SMALL)
    assert session.outline(0)[: len(before)] == before
    check_tree(session)


def test_a_limit_stops_and_the_next_call_goes_on(store, session):
    talk(session, 100)
    other = store.create("other")
    talk(other, 100)
    other.summarize(**SMALL)
    done = []
    while written := session.summarize(limit=2, progress=lambda at, of: done.append((at, of)), **SMALL):
        assert len(written) <= 2
    assert shape(session.outline(0)) == shape(other.outline(0))
    assert all(at <= of for at, of in done)
    assert [each.content for each in session.outline()] == [each.content for each in other.outline()]


def test_a_summary_ends_where_no_use_waits_and_no_turn_goes_on_unless_it_takes_too_long():
    with everlog.open("memory:") as store:
        session = store.create("s")
        for number in range(60):
            turn = {"message_id": f"m{number}"}
            session.append("agent.message", {"content": "word " * 30, **turn})
            session.append("agent.tool_use", {"id": f"c{number}", "name": "t", "input": {}, **turn})
            session.append("agent.tool_result", {"tool_use_id": f"c{number}", "content": "word " * 30})
        session.summarize(**SMALL)
        assert {each.stop % 3 for each in session.outline(0)} == {0}
        waiting = store.create("w", events=[NewEvent("agent.tool_use", {"id": "x", "name": "t", "input": {}})])
        talk(waiting, 100)
        assert waiting.summarize(**SMALL), "one result that never comes does not keep the log from being summarized"
        check_tree(waiting)


def test_what_cannot_be_asked_for_is_refused(session):
    for wrong in (0, 1, 17, True, 2.0, "3", None):
        with pytest.raises(LimitError, match="fan_out"):
            session.summarize(fan_out=wrong)
    for wrong in (99, 100_001, True, 150.5, "x", None):
        with pytest.raises(LimitError, match="leaf_tokens"):
            session.summarize(leaf_tokens=wrong)
    for wrong in (0, -1, True, "x", None):
        with pytest.raises(LimitError, match="limit"):
            session.summarize(limit=wrong)
    talk(session, 3)
    with pytest.raises(InvalidPlaceError, match="no summary"):
        session.expand(0)
    assert session.refresh().size == 3


# --- at once ---
WRITER = """
import sys, everlog
with everlog.open(sys.argv[1]) as store:
    session = store.session("s")
    sys.stdin.readline()
    print(len(session.summarize(leaf_tokens=200, fan_out=3)))
"""


def test_processes_that_summarize_at_once_write_each_summary_once(tmp_path):
    path = str(tmp_path / "s.db")
    with everlog.open(path) as store:
        session = store.create("s")
        talk(session, 300)
        alone = store.create("alone")
        talk(alone, 300)
        expected = len(alone.summarize(**SMALL))
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        counts = [int(writer.communicate(timeout=60)[0]) for writer in writers]
        assert sum(counts) == expected == session.count(types="summary")
        assert min(counts) >= 0
        assert shape(check_tree(session)) == shape(alone.outline())


def test_threads_that_summarize_while_another_appends_write_each_summary_once(store, session):
    talk(session, 100)
    failures = []

    def work(what):
        try:
            what()
        except Exception as error:
            failures.append(error)

    jobs = [lambda: store.session("s").summarize(**SMALL)] * 2
    jobs.append(lambda: [talk(store.session("s"), 10, first=100 + 10 * n) for n in range(10)])
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    session.summarize(**SMALL)
    check_tree(session)
    numbers = [event.data["number"] for event in session.events(types="summary")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_number_that_another_event_took_as_its_key_is_passed_over(session):
    session.append("note", {"content": "x"}, key=key_of(1))
    talk(session, 50)
    assert session.summarize(**SMALL)
    taken = session.refresh().size
    session.append(
        "note", {"content": "x"}, key=key_of(max(event.data["number"] for event in session.events(types="summary")) + 1)
    )
    talk(session, 50, first=50)
    assert session.summarize(**SMALL)
    assert taken
    assert session.summarize(**SMALL) == []
    check_tree(session)


def test_while_another_holds_the_session_nothing_is_summarized(store, session):
    talk(session, 50)
    with store.wake("s", holder="ann") as woken:
        with pytest.raises(FencedError):
            store.session("s").summarize(**SMALL)
        assert woken.summarize(**SMALL)
    check_tree(session)


# --- summarizers ---
def test_a_summarizer_is_given_what_is_covered_and_what_it_cost_is_recorded(session):
    talk(session, 60)
    given = []

    def model(covered):
        given.append(covered)
        return {
            "content": f"sum of {covered.start} to {covered.stop}",
            "usage": {"output_tokens": 5},
            "method": "model/x",
        }

    written = session.summarize(model, **SMALL)
    assert len(written) == len(given)
    assert {event.data["method"] for event in written} == {"model/x"}
    assert written[0].data["usage"] == {"output_tokens": 5}
    assert [event.position for event in given[0].events] == list(range(given[0].start, given[0].stop))
    above = next(covered for covered in given if covered.level == 1)
    assert above.texts[0] == f"sum of {given[0].start} to {given[0].stop}"
    assert above.events == ()
    assert all(covered.tokens > 0 for covered in given)
    assert session.outline()[0].content.startswith("sum of")
    check_tree(session)


async def coroutine(covered):
    await asyncio.sleep(0)
    return f"awaited {covered.start}"


def test_a_coroutine_is_awaited_on_both_faces(store, session, tmp_path):
    talk(session, 60)
    written = session.summarize(coroutine, **SMALL)
    assert written[0].data["content"] == "awaited 0"
    assert written[0].data["method"] == "coroutine"

    async def run():
        loop = asyncio.get_running_loop()
        seen = []

        async def here(covered):
            seen.append(asyncio.get_running_loop() is loop)
            return await coroutine(covered)

        async with await everlog.open_async("memory:") as opened:
            made = await opened.create("a")
            await made.extend([NewEvent("user.message", {"content": "word " * 100}) for _ in range(30)])
            summaries = await made.summarize(here, **SMALL)
            assert summaries[0].data["content"] == "awaited 0"
            assert summaries[0].data["method"].endswith("here")
            assert seen
            assert all(seen)
            assert (await made.outline())[0].content.startswith("awaited")

    asyncio.run(run())


def raising(_):
    raise ConnectionError("no route")


@pytest.mark.parametrize(
    "summarizer",
    [raising, lambda _: None, lambda _: "", lambda _: "  ", lambda _: 5, lambda _: {"content": 5}, lambda _: {"content": "x", "usage": 3},
     lambda _: "x" * 200_000, lambda _: [1], lambda _: {}],
)  # fmt: skip
def test_where_a_summarizer_fails_the_default_takes_its_place_and_the_event_says_so(summarizer):
    with everlog.open("memory:") as store:
        session = store.create("s")
        talk(session, 60)
        plain = store.create("p")
        talk(plain, 60)
        plain.summarize(**SMALL)
        written = session.summarize(summarizer, **SMALL)
        assert [event.data["content"] for event in written] == [
            event.data["content"] for event in plain.events(types="summary")
        ]
        assert all(event.data["fallback"] and event.data["method"] == "extract/1" for event in written)
        check_tree(session)


def test_usage_that_is_no_json_is_recorded_as_a_failure_and_not_raised():
    with everlog.open("memory:") as store:
        session = store.create("s")
        talk(session, 60)
        for odd in ({"cost": float("nan")}, {"cost": object()}, {3: 4}, {"n": 2**80}):
            assert (
                "fallback"
                in session.summarize(lambda _, odd=odd: {"content": "x", "usage": odd}, limit=1, **SMALL)[0].data
            )
        assert "fallback" in session.summarize(lambda _: "lone \ud800 surrogate", limit=1, **SMALL)[0].data
        check_tree(session)


# --- what was erased ---
def test_what_is_erased_is_gone_from_every_summary_that_stood_for_it(store, session):
    talk(session, 5)
    session.append("user.message", {"content": "Never tell: the deploy key is in vault item wxyz7731."})
    talk(session, 60, first=6)
    session.summarize(**SMALL)
    fork = session.fork("end", id="fork")
    talk(fork, 40, first=100)
    fork.summarize(**SMALL)
    session.rewind("end", reason="another line")
    talk(session, 40, first=200)
    session.summarize(**SMALL)
    deeper = fork.fork("end", id="deeper")
    talk(deeper, 40, first=300)
    deeper.summarize(**SMALL)

    def told():
        return [
            (line, event.position)
            for name in ("s", "fork", "deeper")
            for line in store.session(name).branches()
            for event in line.events()
            if event.raw is not None and b"wxyz7731" in event.raw
        ]

    assert {event.type for line, at in told() for event in [line.event(at)]} == {"user.message", "summary"}
    assert deeper.erase([5], reason="asked").positions == (5,), "asked of one line, it is gone from all"
    assert told() == []
    for name in ("s", "fork", "deeper"):
        again = store.session(name)
        assert "wxyz7731" not in str(again.context(4_000).payload)
        again.summarize(**SMALL)
        assert "wxyz7731" not in str(again.outline(0))
        check_tree(again)
    assert told() == []
    store.verify().raise_for_faults()


def test_what_an_erased_summary_covered_stands_in_its_place_and_is_summarized_again(session):
    talk(session, 120)
    session.summarize(**SMALL)
    before = session.outline()
    session.erase([before[0].position], reason="asked")
    roots = session.outline()
    assert roots[0].level == before[0].level - 1
    assert roots[-1] == before[-1]
    assert all(root.content for root in roots)
    context = session.context(4_000)
    assert "events 0 to -1" not in context.encoded.decode()
    session.summarize(**SMALL)
    assert session.outline()[-1].stop >= before[-1].stop
    check_tree(session)
    assert session.summarize(**SMALL) == []


def test_where_the_finest_is_erased_too_the_tree_ends_before_it_until_it_is_written_again(session):
    talk(session, 120)
    session.summarize(**SMALL)
    leaf = session.outline(0)[4]
    covering = [
        event.position
        for event in session.events(types="summary")
        if event.data["start"] <= leaf.start < event.data["stop"]
    ]
    session.erase(covering, reason="asked")
    assert session.outline()[-1].stop == leaf.start
    check_tree(session)
    assert session.summarize(**SMALL)
    assert session.outline()[-1].stop > leaf.stop
    check_tree(session)
    session.erase(
        [event.position for event in session.events(types="summary") if event.raw is not None], reason="asked"
    )
    assert session.outline() == []
    assert session.summarize(**SMALL)
    check_tree(session)


def test_events_that_were_erased_are_covered_and_say_nothing(session):
    talk(session, 60)
    session.erase([4, 5], reason="asked")
    session.summarize(**SMALL)
    assert "fact_4 " not in "".join(each.content for each in session.outline(0))
    check_tree(session)


# --- lines ---
def test_a_fork_and_a_rewind_keep_the_summaries_below_them_and_no_others(session):
    talk(session, 100)
    session.summarize(**SMALL)
    cut = session.refresh().size
    talk(session, 60, first=100)
    session.summarize(**SMALL)
    after = session.outline()
    fork = session.fork(at=cut)
    assert fork.outline() == session.outline(at=cut)
    talk(fork, 60, first=200)
    assert fork.summarize(**SMALL)
    check_tree(fork)
    assert session.outline() == after
    session.rewind(cut - 3, reason="wrong")
    talk(session, 60, first=300)
    session.summarize(**SMALL)
    check_tree(session)
    session.rewind(20, reason="all wrong")
    assert session.outline() == []
    session.summarize(**SMALL)


def test_an_import_and_a_copy_have_the_same_tree(store, session, tmp_path):
    talk(session, 100)
    session.summarize(**SMALL)
    session.export(tmp_path / "s.everlog")
    with everlog.open("memory:") as other:
        other.import_bundle(tmp_path / "s.everlog")
        copied = other.session("s")
        assert copied.outline() == session.outline()
        assert copied.summarize(**SMALL) == []
        talk(copied, 60, first=100)
        assert copied.summarize(**SMALL)
        check_tree(copied)


# --- of another make ---
def foreign(session, data, key=None):
    """Append a summary as another program would have, and a bundle would bring."""
    prepared = session._prepare(
        (
            NewEvent(
                "summary", {"content": "foreign", "start": 0, "stop": 2, "level": 0, "method": "x", **data}, key=key
            ),
        ),
        own_verb=True,
    )
    return session.storage.write(Append(session._row.id, session._batch(prepared))).events[0]


NODES = [
    [[10**18, 0, 5, 0, 1, 1]], [[-1, 0, 5, 0, 1, 1]], [[3, 0, 5, 0, 1, 1]], [[3, 0, 2, 0, 1, 1], [4, 2, 3, 0, 1, 1]], ["x"], [[1]],
    [[10**19, 10**19, 10**19, 10**19, 10**19, 10**19]], [[41, 0, 2, 0, 1, 1]], [{}],
]  # fmt: skip


@pytest.mark.parametrize("roots", NODES, ids=repr)
def test_a_list_of_roots_that_does_not_hold_ends_the_tree_and_breaks_nothing(store, roots):
    session = store.create("s")
    talk(session, 40)
    foreign(
        session,
        {"number": 1, "roots": roots, "children": roots, "system": [-5, 10**18, 3], "scale": 1e300, "leaf": -7},
        key=key_of(1),
    )
    session.outline()
    session.outline(0)
    context = session.context(2_000)
    assert context.tokens <= 2_000
    session.summarize(**SMALL)
    assert session.outline()
    check_tree(session)
    assert session.context(2_000).tokens <= 2_000


@pytest.mark.parametrize(
    "data",
    [{}, {"number": 1}, {"start": 10**15, "stop": 10**16}, {"start": 5, "stop": 1, "number": 1}, {"content": [{"type": "x"}], "number": 1},
     {"number": 1, "tokens": {"content": -(10**9), "covered": -5}}, {"number": 1, "stop": 10**15, "level": 10**15}, {"number": 10**18}],
    ids=repr,
)  # fmt: skip
def test_summaries_of_another_make_break_nothing(data):
    with everlog.open("memory:") as store:
        session = store.create("s")
        talk(session, 40)
        event = foreign(session, data, key=key_of(1) if "number" in data else None)
        session.outline()
        context = session.context(2_000, pins=[event])
        assert context.tokens <= 2_000
        with suppress(InvalidPlaceError):
            session.expand(event)
        session.summarize(**SMALL)
        check_tree(session)


def test_what_an_answer_says_of_tokens_is_taken_only_where_its_request_says_the_same():
    with everlog.open("memory:") as store:
        for number, asked in enumerate(["x_" + "9" * 30, "x_" + "9" * 5_000, "_", "ev_" + "0" * 32 + "_3"]):
            session = store.create(f"s{number}")
            session.append("model.response", {"request": asked, "usage": {"input_tokens": 100}})
            talk(session, 60)
            session.summarize(**SMALL)
            assert session.context().manifest.scale == 1.0
        for scale, tokens in ((1e-300, 2**63), (1e300, 5), (0, 5), ("x", 5)):
            session = store.create(f"m{scale}")
            request = session.append("model.request", {"model": "m", "manifest": {"tokens": tokens, "scale": scale}})
            session.append("model.response", {"request": request.id, "usage": {"input_tokens": 2**60}})
            talk(session, 60)
            session.summarize(**SMALL)
            assert session.context().manifest.scale == 1.0


def test_what_a_provider_counted_puts_the_estimate_right_once_it_is_summarized(session):
    talk(session, 60)
    context = session.context(2_000)
    request = session.record_request(context, model="m")
    session.append(
        "model.response", {"request": request.id, "usage": {"input_tokens": 2 * context.tokens}}, caused_by=request
    )
    talk(session, 60, first=60)
    session.summarize(**SMALL)
    later = session.context(2_000)
    assert (later.manifest.scale, later.manifest.counted) == (2.0, "usage")
    assert later.tokens <= 2_000
    assert len(later.encoded) <= 4_000


# --- the default ---
def event_of(kind, data, position=0):
    return Event("s", "0" * 32, "0" * 32, position, kind, None, None, 0, None, None, None, None, None,
                 b"\0" * 32, encode_body(Body(data)))  # fmt: skip


UNITS = ["a", "1", ".", " ", "\n", "a/", "-", "~", "@", "_", "A", "`", "。", "。 ", ". ", "a.", "./", "../", "https://a", '"', "[", "1:",
         "a/b.c ", "\t", "`a", "never ", "🎉", "a\n", "0" * 5 + " ", ", ", "a/a.", "\u2028"]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_a_text_of_one_kind_of_character_is_summarized_in_bounded_work(unit):
    text = (unit * 200_000)[:200_000]
    started = time.process_time()
    for kind, data in (
        ("user.message", {"content": text}),
        ("agent.tool_use", {"id": "a", "name": text, "input": {"x": text}}),
        ("agent.tool_result", {"tool_use_id": "a", "content": text, "is_error": True}),
        ("decision", {"choice": text}),
    ):
        assert len(extract_events([event_of(kind, data)])) <= 1_000
    for before in ("", "Tools: ", "Files: ", "- [", "- [note @"):
        assert len(extract_summaries([(0, before + text[:100_000])])) <= 2_000
    assert time.process_time() - started < 30, "a pattern that goes back and forth would take minutes"


def test_numbers_too_large_to_read_in_a_models_summary_are_text():
    for text in (
        "- [note @" + "9" * 5_000 + "] t",
        "Tools: a " + "9" * 5_000,
        "Tools: a 1 (" + "9" * 5_000 + " failed)",
    ):
        extract_summaries([(0, text)])


def test_the_default_says_what_was_asked_decided_done_and_what_is_open():
    events = [
        event_of("user.message", {"content": "Please fix the parser in /src/parse.py. Never touch the billing module! The key is in vault item wxyz7731."}, 0),
        event_of("agent.tool_use", {"id": "a", "name": "bash", "input": {"cmd": "pytest /src/test_a.py"}}, 1),
        event_of("agent.tool_result", {"tool_use_id": "a", "content": "boom at line 3\nmore", "is_error": True}, 2),
        event_of("decision", {"choice": "rewrite it"}, 3),
        event_of("agent.tool_use", {"id": "b", "name": "web", "input": {"url": "https://example.org/x"}}, 4),
    ]  # fmt: skip
    text = extract_events(events)
    for said in ("[constraint @0 user] Never touch the billing module!", "[goal @0 user] Please fix", "wxyz7731", "[error @2] bash: boom at line 3",
                 "[decision @3] rewrite it", "[open @4] web has no result yet", "Tools: bash 1 (1 failed), web 1", "/src/parse.py",
                 "Addresses: https://example.org/x"):  # fmt: skip
        assert said in text
    assert extract_events(events) == text
    again = extract_summaries([(0, text), (5, text)])
    assert "Never touch the billing module!" in again
    assert "Tools: bash 2 (2 failed), web 2" in again


def test_a_record_of_a_request_refuses_what_is_no_json(session):
    context = session.context()
    for odd in ({"t": float("nan")}, {"n": 2**70}, {"o": object()}):
        with pytest.raises(InvalidEventError, match="nothing was written"):
            session.record_request(context, model="m", params=odd)
    assert session.refresh().size == 0
