"""Sessions of Strands in Everlog: each sentence of a repository's contract, asked of Strands' own too, then what ours adds."""

import base64
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from databases import address

pytest.importorskip("strands")

from hypothesis import given, settings
from hypothesis import strategies as st
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.multiagent import GraphBuilder
from strands.session.file_session_manager import FileSessionManager
from strands.session.repository_session_manager import RepositorySessionManager
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import everlog
from everlog.errors import FencedError, HeldError, InvalidEventError, SessionExistsError
from everlog.integrations.strands import EverlogSessionManager, EverlogSessionRepository
from everlog.integrations.strands_messages import recorded_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "integrations"
sys.path.insert(0, str(EXAMPLES))
from strands_agent import ScriptedModel, multiply  # noqa: E402

SESSION = Session(session_id="s", session_type=SessionType.AGENT)


@pytest.fixture(params=["theirs", "sqlite", "postgres"])
def either(request, tmp_path):
    """Strands' own repository, or ours."""
    if request.param == "theirs":
        yield FileSessionManager("bootstrap", storage_dir=str(tmp_path / "files"))
        return
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogSessionRepository(store)


@pytest.fixture(params=["sqlite", "postgres"])
def ours(request, tmp_path):
    with everlog.open(address(request.param, tmp_path / "store")) as store:
        yield EverlogSessionRepository(store)


def agent(**members):
    given = {"agent_id": "a", "state": {"k": "v"}, "conversation_manager_state": {"n": 1}, **members}
    return SessionAgent(**given)


def message(number, *blocks, role=None):
    said = {
        "role": role or ("assistant" if number % 2 else "user"),
        "content": list(blocks) or [{"text": f"m{number}"}],
    }
    return SessionMessage.from_message(said, number)


def begin(repository, count=0):
    repository.create_session(SESSION)
    repository.create_agent("s", agent())
    for number in range(count):
        repository.create_message("s", "a", message(number))
    return repository


def ids(messages):
    return [each.message_id for each in messages]


# --- the contract, sentence by sentence ------------------------------------------------------------
def test_a_session_is_read_as_it_was_made(either):
    assert either.create_session(SESSION) == SESSION
    assert either.read_session("s") == SESSION


def test_a_session_that_is_there_is_not_made_again(either):
    either.create_session(SESSION)
    with pytest.raises(SessionException):
        either.create_session(SESSION)


def test_what_was_never_made_reads_as_none(either):
    assert either.read_session("nobody") is None
    either.create_session(SESSION)
    assert either.read_agent("s", "nobody") is None
    either.create_agent("s", agent())
    assert either.read_message("s", "a", 0) is None
    assert either.read_multi_agent("s", "nobody") is None


def test_an_agent_is_read_as_it_was_recorded(either):
    given = agent(state={"deep": [1, {"b": None}]}, _internal_state={"model_state": {"x": b"\x00\xff"}})
    either.create_session(SESSION)
    either.create_agent("s", given)
    assert either.read_agent("s", "a") == given


def test_an_update_of_an_agent_keeps_when_it_was_created(either):
    begin(either)
    created = either.read_agent("s", "a").created_at
    later = agent(state={"k": "w"}, created_at="2030-01-01T00:00:00+00:00")
    either.update_agent("s", later)
    assert later.created_at == created
    assert either.read_agent("s", "a") == later


def test_an_update_of_an_agent_that_is_not_there_is_refused(either):
    either.create_session(SESSION)
    with pytest.raises(SessionException):
        either.update_agent("s", agent())


def test_agents_of_one_session_are_kept_apart(either):
    begin(either, 2)
    either.create_agent("s", agent(agent_id="b"))
    either.create_message("s", "b", message(0, {"text": "of b"}))
    assert len(either.list_messages("s", "a")) == 2
    assert either.read_message("s", "b", 0).message["content"] == [{"text": "of b"}]


def test_a_message_is_read_as_it_was_recorded(either):
    begin(either)
    given = message(0, {"text": "look"}, {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00"}}})
    either.create_message("s", "a", given)
    assert either.read_message("s", "a", 0) == given
    assert either.list_messages("s", "a") == [given]


def test_a_message_is_recorded_however_deep_it_is_and_however_small_its_parts(either):
    begin(either)
    deep = 1
    made = [message(0, {"toolResult": {"toolUseId": "", "status": "error", "content": [{"text": ""}] * 330_000}})]
    for _ in range(66):
        deep = [deep]
        made.append(message(len(made), {"toolUse": {"toolUseId": "x", "name": "y", "input": deep, "more": 1}}))
        made.append(message(len(made)))
        made[-1].message["metadata"] = deep
    for each in made:
        either.create_message("s", "a", each)
    assert either.list_messages("s", "a") == made


def test_a_message_id_is_an_integer(either):
    begin(either, 1)
    with pytest.raises(ValueError, match="message"):
        either.read_message("s", "a", "0")


def test_an_update_of_a_message_keeps_when_it_was_created_and_is_what_is_read(either):
    begin(either, 3)
    given = either.read_message("s", "a", 1)
    created = given.created_at
    given.redact_message = {"role": "assistant", "content": [{"text": "[redacted]"}]}
    given.created_at = "2030-01-01T00:00:00+00:00"
    either.update_message("s", "a", given)
    assert given.created_at == created
    assert either.read_message("s", "a", 1) == given
    assert [each.to_message()["content"][0]["text"] for each in either.list_messages("s", "a")] == [
        "m0",
        "[redacted]",
        "m2",
    ]
    given.message = {"role": "assistant", "content": [{"text": "other"}]}
    either.update_message("s", "a", given)
    assert either.read_message("s", "a", 1) == given


def test_an_update_of_a_message_that_is_not_there_is_refused(either):
    begin(either, 1)
    with pytest.raises(SessionException):
        either.update_message("s", "a", message(7))


def test_messages_are_listed_by_id_the_smallest_first(either):
    begin(either)
    for number in (3, 11, 2, 0):
        either.create_message("s", "a", message(number))
    assert ids(either.list_messages("s", "a")) == [0, 2, 3, 11]
    assert ids(either.list_messages("s", "a", limit=2, offset=1)) == [2, 3]
    either.create_message("s", "a", message(1))
    assert ids(either.list_messages("s", "a")) == [0, 1, 2, 3, 11]


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 5, 9, -1])
@pytest.mark.parametrize("offset", [0, 1, 4, 5, 9, -2])
def test_a_page_counts_from_the_oldest(tmp_path, limit, offset):
    pages = []
    for name in ("theirs", "ours"):
        folder = tmp_path / name
        folder.mkdir()
        with everlog.open(folder / "s.db") as store:
            chosen = (
                EverlogSessionRepository(store) if name == "ours" else FileSessionManager("b", storage_dir=str(folder))
            )
            pages.append(ids(begin(chosen, 5).list_messages("s", "a", limit=limit, offset=offset)))
    assert pages[0] == pages[1]


def test_messages_of_an_agent_that_was_never_recorded_are_refused(either):
    either.create_session(SESSION)
    with pytest.raises(SessionException):
        either.list_messages("s", "nobody")


def test_a_deleted_session_is_gone_and_its_name_is_free(either):
    begin(either, 2)
    either.delete_session("s")
    assert either.read_session("s") is None
    assert either.read_agent("s", "a") is None
    with pytest.raises(SessionException):
        either.delete_session("s")
    begin(either)
    assert either.list_messages("s", "a") == []


@pytest.mark.parametrize("kept", ["held", "forked"])
def test_a_deletion_that_is_refused_for_one_agent_destroys_nothing_of_the_others(ours, kept):
    ours.create_session(SESSION)
    for name in ("a", "b"):
        ours.create_agent("s", agent(agent_id=name))
        ours.create_message("s", name, message(0))
    log = ours.session("s", "b")
    if kept == "held":
        log.hold(reason="a case")
    else:
        log.fork(id="elsewhere")
    with pytest.raises(HeldError if kept == "held" else SessionExistsError, match="nothing was deleted"):
        ours.delete_session("s")
    assert [len(ours.list_messages("s", name)) for name in ("a", "b")] == [1, 1]
    if kept == "held":
        log.release(reason="it is closed")
    else:
        ours.store.delete("elsewhere", reason="done")
    ours.delete_session("s")
    assert ours.store.sessions(prefix="strands/") == []


def test_an_agent_that_was_forked_from_a_later_one_is_deleted_with_it(ours):
    ours.create_session(SESSION)
    ours.create_agent("s", agent(agent_id="b"))
    ours.session("s", "b").fork(id="strands/s/a")
    ours.delete_session("s")
    assert ours.store.sessions(prefix="strands/") == []


class Several:
    """What a repository asks of several agents that work together."""

    def __init__(self, id, state):
        self.id = id
        self.state = state

    def serialize_state(self):
        return self.state


def test_the_state_of_several_agents_is_read_as_it_was_recorded_last(either):
    either.create_session(SESSION)
    either.create_multi_agent("s", Several("g", {"status": "running", "none": None}))
    either.create_multi_agent("s", Several("h", {}))
    assert either.read_multi_agent("s", "g") == {"status": "running", "none": None}
    assert either.read_multi_agent("s", "h") == {}
    with pytest.raises(SessionException):
        either.update_multi_agent("s", Several("nobody", {}))


def test_an_update_of_several_agents_replaces_their_state(either):
    either.create_session(SESSION)
    either.create_multi_agent("s", Several("g", {"status": "running", "left": 1}))
    either.update_multi_agent("s", Several("g", {"status": "done"}))
    assert either.read_multi_agent("s", "g") == {"status": "done"}


# --- what ours adds --------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=6,
)
RESULT = st.sampled_from([{"text": "t"}, {"json": {"a": 1}}, {"text": "t", "x": 1}, {"image": {"format": "png"}}])
BLOCK = st.one_of(
    st.fixed_dictionaries({"text": TEXT}),
    st.fixed_dictionaries({"toolUse": st.fixed_dictionaries({"toolUseId": TEXT, "name": TEXT, "input": JSON})}),
    st.fixed_dictionaries(
        {
            "toolResult": st.fixed_dictionaries(
                {"toolUseId": TEXT, "content": st.lists(RESULT), "status": st.sampled_from(["success", "error", "odd"])}
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "reasoningContent": st.fixed_dictionaries(
                {"reasoningText": st.fixed_dictionaries({"text": TEXT}, optional={"signature": TEXT | st.none()})}
            )
        }
    ),
    st.fixed_dictionaries(
        {"image": st.fixed_dictionaries({"format": TEXT, "source": st.just({"bytes": b"\x00\x01"})})}
    ),
    st.dictionaries(TEXT, JSON, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(BLOCK, max_size=4), st.dictionaries(st.sampled_from(["tracking_id", "metadata", "x"]), JSON), st.booleans()
)
def test_any_message_comes_back_as_it_was(blocks, more, users):
    given = SessionMessage.from_message({"role": "user" if users else "assistant", "content": blocks, **more}, 0)
    with everlog.open("memory:") as store:
        repository = begin(EverlogSessionRepository(store))
        repository.create_message("s", "a", given)
        read = repository.read_message("s", "a", 0)
    assert json.dumps(read.to_dict(), sort_keys=True) == json.dumps(given.to_dict(), sort_keys=True)


def test_a_message_too_large_for_an_event_is_kept_beside_it(ours):
    begin(ours)
    given = message(0, {"image": {"format": "png", "source": {"bytes": b"\x01" * 6_000_000}}})
    ours.create_message("s", "a", given)
    assert ours.list_messages("s", "a") == [given]


@pytest.mark.parametrize(
    "block",
    [
        {"toolResult": {"toolUseId": "t", "status": "success", "content": [{"json": {"n": 2**70}}]}},
        {"image": {"format": "png", "source": {"bytes": b"\x01" * 6_500_000}}},
        {"text": "half \ud83d"},
    ],
    ids=["an integer of 2^70", "8 MiB", "half a character"],
)
def test_an_update_that_the_log_cannot_say_comes_back_all_the_same(ours, block):
    begin(ours)
    given = message(0, {"text": "before"}, block)
    ours.create_message("s", "a", given)
    for text in ("after", "at last"):
        given.message = {"role": "user", "content": [{"text": text}, block]}
        ours.update_message("s", "a", given)
    assert ours.read_message("s", "a", 0) == given
    assert ours.list_messages("s", "a") == [given]


def test_an_agents_session_reads_as_a_conversation(ours):
    begin(ours)
    ours.create_message("s", "a", message(0, {"text": "how much is it?"}))
    use = {"toolUse": {"toolUseId": "t", "name": "look", "input": {"at": 1}}}
    ours.create_message(
        "s", "a", message(1, {"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "well"}, use)
    )
    ours.create_message(
        "s", "a", message(2, {"toolResult": {"toolUseId": "t", "status": "error", "content": [{"text": "no"}]}})
    )
    session = ours.session("s", "a")
    assert [event.type for event in session.events()][1:] == [
        *("user.message", "agent.thinking", "agent.message", "agent.tool_use", "agent.tool_result"),
    ]
    messages = session.state("messages").value
    assert messages[1]["content"][-1]["result"]["is_error"] is True
    assert session.state().value["agent"]["state"] == {"k": "v"}
    assert ours.store.search("how much").hits[0].event.session == session.id
    picture = {"image": {"format": "png", "source": {"bytes": b"abc"}}}
    ours.create_message("s", "a", message(3, picture, role="user"))
    shown = session.context(10_000).messages[-1]["content"][-1]
    assert shown["source"]["data"] == base64.b64encode(b"abc").decode()


def test_a_message_under_an_id_that_another_has_is_refused_and_the_first_stays(ours):
    begin(ours, 2)
    first = ours.read_message("s", "a", 1)
    with pytest.raises(SessionException, match="another writer"):
        ours.create_message("s", "a", message(1, {"text": "mine"}))
    assert ours.read_message("s", "a", 1) == first


def test_the_same_message_again_is_recorded_once(ours):
    begin(ours)
    for each in (message(0), message(5), message(3)):
        for _ in range(2):
            ours.create_message("s", "a", each)
    assert ids(ours.list_messages("s", "a")) == [0, 3, 5]


def test_two_managers_of_one_session_conflict_and_lose_nothing(ours):
    def make():
        return Agent(
            agent_id="c",
            model=ScriptedModel(),
            tools=[multiply],
            callback_handler=None,
            session_manager=RepositorySessionManager("two", session_repository=ours),
        )

    make()("What is 6 times 7?")
    one, other = make(), make()
    one("And again?")
    kept = ours.list_messages("two", "c")
    with pytest.raises(SessionException, match="another writer"):
        other("And by me?")
    assert ours.list_messages("two", "c") == kept
    assert len(make().messages) == 8


def test_writers_that_race_each_have_their_messages_or_a_conflict(ours):
    begin(ours)
    taken = []

    def write(name):
        for number in range(15):
            try:
                ours.create_message("s", "a", message(number, {"text": name}))
                taken.append((number, name))
            except SessionException:
                continue

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = [(each.message_id, each.message["content"][0]["text"]) for each in ours.list_messages("s", "a")]
    assert read == sorted(taken)
    assert ids(ours.list_messages("s", "a")) == list(range(15))


def test_a_page_of_a_long_history_reads_only_that_page(tmp_path, monkeypatch):
    with everlog.open(tmp_path / "s.db", snapshots=False) as store:
        repository = begin(EverlogSessionRepository(store))
        session = repository.session("s", "a")
        for start in range(0, 3_000, 1_000):
            many = [message(number).to_dict() for number in range(start, start + 1_000)]
            session.extend([event for each in many for event in recorded_of(each, actor="a", body_bytes_max=10**6)])
        read = []
        reading = store.storage.read
        monkeypatch.setattr(
            store.storage, "read", lambda *args, **given: read.append(found := reading(*args, **given)) or found
        )
        assert ids(repository.list_messages("s", "a", offset=2_980)) == list(range(2_980, 3_000))
        assert ids(repository.list_messages("s", "a", limit=20)) == list(range(20))
        assert ids(repository.list_messages("s", "a", limit=20, offset=1_000)) == list(range(1_000, 1_020))
        assert sum(len(page.events) for page in read) < 100


def test_messages_and_states_that_follow_one_another_are_a_write_each_and_no_read(ours, monkeypatch):
    begin(ours, 2)
    ours.update_agent("s", agent())
    storage, calls = ours.store.storage, []
    for name in ("write", "read", "peek", "session", "find", "find_key", "sessions", "lineage", "snapshot_chain"):
        kept = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda *given, kept=kept, name=name: calls.append(name) or kept(*given))
    for number in range(2, 6):
        ours.create_message("s", "a", message(number))
        ours.update_agent("s", agent(state={"k": number}))
    assert calls == ["write"] * 8


def test_a_state_that_another_recorded_anew_meanwhile_is_gone_on_from(ours):
    begin(ours, 1)
    ours.update_agent("s", agent())
    other = EverlogSessionRepository(ours.store)
    again = agent(created_at="2020-01-01T00:00:00+00:00")
    other.create_agent("s", again)
    ours.update_agent("s", agent(state={"k": "w"}))
    found = ours.read_agent("s", "a")
    assert (found.created_at, found.state) == (again.created_at, {"k": "w"})
    other.delete_session("s")
    with pytest.raises(SessionException):
        ours.update_agent("s", agent())
    begin(other)
    ours.update_agent("s", agent(state={"k": "x"}))
    assert other.read_agent("s", "a").state == {"k": "x"}


def test_a_state_is_recorded_also_where_its_session_is_rewound_while_it_is_looked_at(ours, monkeypatch):
    begin(ours, 4)
    other = EverlogSessionRepository(ours.store)
    kept = everlog.Session.info

    def rewound(session):
        monkeypatch.setattr(everlog.Session, "info", kept)
        ours.store.session(session.id).rewind(2)
        return kept(session)

    monkeypatch.setattr(everlog.Session, "info", rewound)
    other.update_agent("s", agent(state={"k": "w"}))
    assert other.read_agent("s", "a").state == {"k": "w"}


def test_a_redacted_message_keeps_its_original_in_the_log_unless_it_is_to_be_erased(ours):
    begin(ours)
    erasing = EverlogSessionRepository(ours.store, erase_redacted=True)
    for repository, number in ((ours, 0), (erasing, 1)):
        secret = message(number, {"text": f"swordfish {number}"}, {"text": "more"}, role="user")
        repository.create_message("s", "a", secret)
        secret.redact_message = {"role": "user", "content": [{"text": "[redacted]"}]}
        repository.update_message("s", "a", secret)
    assert [each.to_message()["content"] for each in ours.list_messages("s", "a")] == [[{"text": "[redacted]"}]] * 2
    assert ours.read_message("s", "a", 0).message["content"][0] == {"text": "swordfish 0"}
    assert ours.read_message("s", "a", 1).message["content"] == [{"text": "[redacted]"}]
    assert [hit.event.key for hit in ours.store.search("swordfish").hits] == ["message:0"]
    assert all(b"swordfish 1" not in (event.raw or b"") for event in ours.session("s", "a"))
    assert ours.store.verify().ok


def test_redacting_destroys_what_earlier_updates_said_too(ours):
    begin(ours, 1)
    erasing = EverlogSessionRepository(ours.store, erase_redacted=True)
    said = message(0, {"text": "swordfish again"}, role="user")
    erasing.update_message("s", "a", said)
    said.redact_message = {"role": "user", "content": [{"text": "[redacted]"}]}
    erasing.update_message("s", "a", said)
    assert [each.to_message()["content"] for each in ours.list_messages("s", "a")] == [[{"text": "[redacted]"}]]
    assert all(b"swordfish" not in (event.raw or b"") for event in ours.session("s", "a"))


def test_redacting_destroys_what_another_writer_says_of_the_message_meanwhile(ours):
    begin(ours, 1)
    ours.update_message("s", "a", message(0, {"text": "said before"}, role="user"))
    meanwhile = [message(0, {"text": "swordfish"}, role="user")]
    storage, write = ours.store.storage, ours.store.storage.write

    def overtaken(*given, **named):
        if meanwhile:
            ours.update_message("s", "a", meanwhile.pop())
        return write(*given, **named)

    said = message(0, {"text": "said before"}, role="user")
    said.redact_message = {"role": "user", "content": [{"text": "[redacted]"}]}
    storage.write = overtaken
    EverlogSessionRepository(ours.store, erase_redacted=True).update_message("s", "a", said)
    assert meanwhile == []
    assert [each.to_message()["content"] for each in ours.list_messages("s", "a")] == [[{"text": "[redacted]"}]]
    assert all(b"swordfish" not in (event.raw or b"") for event in ours.session("s", "a"))


@pytest.mark.parametrize("odd", [float("nan"), 2**64, "half \ud83d"])
def test_a_state_that_the_log_cannot_say_is_refused_and_the_one_before_stays(ours, odd):
    begin(ours, 1)
    before = ours.read_agent("s", "a").state
    with pytest.raises(InvalidEventError, match="nothing was written"):
        ours.update_agent("s", agent(state={"k": odd}))
    assert ours.read_agent("s", "a").state == before


def test_what_others_erase_says_so_and_the_rest_stays(ours):
    begin(ours, 3)
    session = ours.session("s", "a")
    session.erase([session.find("message:1").position], reason="asked to")
    assert [each.message["content"][0]["text"] for each in ours.list_messages("s", "a")] == ["m0", "[erased]", "m2"]


def test_a_rewind_takes_an_agent_back(ours):
    begin(ours, 4)
    session = ours.session("s", "a")
    session.rewind(session.find("message:2").position)
    assert ids(ours.list_messages("s", "a")) == [0, 1]
    ours.create_message("s", "a", message(2, {"text": "otherwise"}))
    assert ids(ours.list_messages("s", "a")) == [0, 1, 2]


def test_a_fork_goes_on_from_any_message_and_the_original_stays(ours):
    begin(ours, 4)
    ours.create_multi_agent("s", Several("g", {"status": "running"}))
    ours.fork_session("s", "other", messages=2)
    ours.create_message("other", "a", message(2, {"text": "otherwise"}))
    assert [each.message["content"][0]["text"] for each in ours.list_messages("other", "a")] == [
        "m0",
        "m1",
        "otherwise",
    ]
    assert ids(ours.list_messages("s", "a")) == [0, 1, 2, 3]
    assert ours.read_agent("other", "a") == ours.read_agent("s", "a")
    assert ours.read_multi_agent("other", "g") == {"status": "running"}
    with pytest.raises(SessionException):
        ours.fork_session("s", "other")
    with pytest.raises(SessionException):
        ours.fork_session("nobody", "x")


def test_an_agent_that_another_holds_takes_no_message(ours):
    begin(ours, 1)
    with ours.store.wake(ours.session("s", "a").id, holder="somebody"):
        with pytest.raises(FencedError):
            ours.create_message("s", "a", message(1))
    ours.create_message("s", "a", message(1))


@pytest.mark.parametrize("id", ["a/b", "x" * 400, "", "sp\tace", "sha256-x", "ü", "@~%"])
def test_ids_may_be_any_text(ours, id):
    ours.create_session(Session(session_id=id, session_type=SessionType.AGENT))
    ours.create_multi_agent(id, Several(id, {"of": id}))
    assert ours.read_multi_agent(id, id) == {"of": id}
    ours.create_agent(id, agent(agent_id=id))
    ours.create_message(id, id, message(0))
    assert ours.read_session(id).session_id == id
    assert ours.read_agent(id, id).agent_id == id
    assert ids(ours.list_messages(id, id)) == [0]


# --- agents ----------------------------------------------------------------------------------------
def test_an_agent_goes_on_with_its_state_and_window(tmp_path):
    def make():
        return Agent(
            agent_id="c",
            model=ScriptedModel(),
            tools=[multiply],
            callback_handler=None,
            conversation_manager=SlidingWindowConversationManager(window_size=4),
            session_manager=EverlogSessionManager("s", store=tmp_path / "s.db"),
        )

    first = make()
    first("What is 6 times 7?")
    first.state.set("asked", 1)
    first("And again?")
    first._session_manager.close()
    second = make()
    assert second.messages == first.messages
    assert second.state.get("asked") == 1
    assert second.conversation_manager.removed_message_count == first.conversation_manager.removed_message_count > 0
    second._session_manager.close()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from strands import Agent, tool
from strands_agent import ScriptedModel
from everlog.integrations.strands import EverlogSessionManager

@tool
def multiply(one: int, other: int) -> str:
    "Multiply two numbers."
    os.kill(os.getpid(), signal.SIGKILL)

manager = EverlogSessionManager("s", store=sys.argv[2])
Agent(agent_id="c", model=ScriptedModel(), tools=[multiply], session_manager=manager, callback_handler=None)("What is it?")
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_agent_that_is_killed_in_a_tool_goes_on_with_all_it_said(kind, tmp_path):
    place = address(kind, tmp_path / "store")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(EXAMPLES), place], check=False, timeout=60)
    assert killed.returncode == -9
    manager = EverlogSessionManager("s", place)  # where FileSessionManager has its folder
    agent = Agent(agent_id="c", model=ScriptedModel(), tools=[multiply], session_manager=manager, callback_handler=None)
    assert "toolUse" in agent.messages[-1]["content"][0]
    said = str(agent("Are you there?"))
    assert "It is" in said
    uses = [b["toolUse"]["toolUseId"] for m in agent.messages for b in m["content"] if "toolUse" in b]
    results = [b["toolResult"]["toolUseId"] for m in agent.messages for b in m["content"] if "toolResult" in b]
    assert sorted(uses) == sorted(results)
    assert manager.session_repository.store.verify().ok
    manager.close()


def test_a_graph_of_agents_is_kept_and_restored(tmp_path):
    def make():
        builder = GraphBuilder()
        node = Agent(agent_id="n", name="n", model=ScriptedModel(), tools=[multiply], callback_handler=None)
        builder.add_node(node, "only")
        builder.set_session_manager(EverlogSessionManager("g", store=tmp_path / "s.db"))
        builder.set_graph_id("graph")
        builder.set_max_node_executions(5)
        return builder.build()

    graph = make()
    graph("What is 6 times 7?")
    state = graph.session_manager.session_repository.read_multi_agent("g", "graph")
    assert state["status"] == "completed"
    graph.session_manager.close()
    again = make()
    assert again.session_manager.session_repository.read_multi_agent("g", "graph") == state
    again.session_manager.close()


def test_the_example_goes_on_where_it_ended(tmp_path):
    words = [sys.executable, "-W", "error", str(EXAMPLES / "strands_agent.py"), str(tmp_path / "s.db")]
    said = [subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2)]
    assert said[0].startswith("It is 42; I was shown 3 messages.")
    assert said[1].startswith("It is 42; I was shown 7 messages.")
