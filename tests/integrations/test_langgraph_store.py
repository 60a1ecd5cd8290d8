"""LangGraph's long-term memory in Everlog: each sentence of its interface, on their own store in memory as well."""

import asyncio
import os
import random

import pytest

pytest.importorskip("langgraph.store.memory", reason="langgraph is not installed")

from langgraph.store.base import GetOp, InvalidNamespaceError, Item, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

import databases
import everlog
from everlog.errors import InvalidEventError, LimitError
from everlog.integrations.langgraph_store import EverlogStore
from everlog.making import Settings
from everlog.store import Store
from everlog.stores.memory import MemoryStorage
from everlog.testing import FixedClock


def embed(texts):
    """Vectors that say which of three words a text holds."""
    return [[float(word in text) for word in ("food", "sport", "music")] for text in texts]


async def aembed(texts):
    return embed(texts)


def letters(text):
    """Its keys without their order, which an interface of keys and values does not promise."""
    return sorted(text)


@pytest.fixture(params=["theirs", "sqlite", "postgres"])
def make(request, tmp_path):
    made = []

    def make(index=None):
        store = (
            InMemoryStore(index=index)
            if request.param == "theirs"
            else EverlogStore(databases.address(request.param, tmp_path), index=index)
        )
        made.append(store)
        return store

    yield make
    for store in made:
        if isinstance(store, EverlogStore):
            store.close()


@pytest.fixture
def store(make):
    return make()


def keys(items):
    return sorted(item.key for item in items)


def test_what_was_put_is_got(store):
    store.put(("users", "u1"), "name", {"first": "Ada", "tags": ["a", 1, None, 1.5, True], "deep": {"k": {}}})
    item = store.get(("users", "u1"), "name")
    assert (item.key, item.namespace) == ("name", ("users", "u1"))
    assert item.value == {"first": "Ada", "tags": ["a", 1, None, 1.5, True], "deep": {"k": {}}}
    assert item.created_at <= item.updated_at
    assert item.created_at.tzinfo is not None
    assert store.get(("users", "u1"), "other") is None
    assert store.get(("users",), "name") is None
    assert store.get(("users", "u1", "more"), "name") is None


def test_a_put_replaces_the_whole_value(store):
    store.put(("n",), "k", {"a": 1})
    before = store.get(("n",), "k")
    store.put(("n",), "k", {"b": 2})
    after = store.get(("n",), "k")
    assert after.value == {"b": 2}
    assert after.updated_at >= before.updated_at


def test_a_deleted_item_is_gone_and_may_come_again(store):
    store.put(("n",), "k", {"a": 1})
    store.delete(("n",), "k")
    store.delete(("n",), "never")
    assert store.get(("n",), "k") is None
    assert store.search(("n",)) == []
    store.put(("n",), "k", {"a": 2})
    assert store.get(("n",), "k").value == {"a": 2}


def test_a_put_of_none_deletes(store):
    store.put(("n",), "k", {"a": 1})
    store.batch([PutOp(("n",), "k", None)])
    assert store.get(("n",), "k") is None


@pytest.mark.parametrize("namespace", [(), ("a.b",), ("",), ("langgraph",), (1,)])
def test_a_namespace_of_another_form_is_refused(store, namespace):
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {"a": 1})


@pytest.mark.parametrize(
    "label",
    [
        "x" * 400,
        "line\nbreak",
        "ümlaut ☃",
        "a/b:c*?",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ],
)
def test_a_label_is_any_other_text(store, label):
    store.put((label, "in"), "k\n☃", {"a": 1})
    assert store.get((label, "in"), "k\n☃").value == {"a": 1}
    assert [item.namespace for item in store.search((label,))] == [(label, "in")]
    assert store.list_namespaces() == [(label, "in")]


def test_a_search_is_of_the_namespaces_that_begin_so(store):
    store.put(("a",), "1", {})
    store.put(("a", "b"), "2", {})
    store.put(("ab",), "3", {})
    store.put(("b", "a"), "4", {})
    assert keys(store.search(("a",))) == ["1", "2"]
    assert keys(store.search(())) == ["1", "2", "3", "4"]
    assert store.search(("c",)) == []


def test_a_search_gives_pages(store):
    for number in range(25):
        store.put(("n",), f"{number:02}", {"n": number})
    assert len(store.search(("n",))) == 10
    pages = [store.search(("n",), limit=10, offset=offset) for offset in (0, 10, 20)]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert keys(item for page in pages for item in page) == [f"{number:02}" for number in range(25)]
    assert store.search(("n",), offset=25) == []


FILTERS = [
    ({"n": 2}, "b"),
    ({"n": {"$eq": 2}}, "b"),
    ({"n": {"$ne": 2}}, "acd"),
    ({"n": {"$gt": 1, "$lte": 3}}, "bc"),
    ({"n": {"$gte": 3}}, "cd"),
    ({"n": {"$lt": 2}}, "a"),
    ({"kind": "x", "n": {"$gt": 1}}, "c"),
    ({"deep": {"k": 1}}, "ab"),
    ({"deep": {"k": {"$gt": 1}}}, "c"),
    ({"list": [1, 2]}, "a"),
    ({"list": [1]}, ""),
    ({"missing": None}, "abcd"),
    ({}, "abcd"),
]


@pytest.mark.parametrize(("filter", "expected"), FILTERS)
def test_a_filter_keeps_what_meets_all_of_it(store, filter, expected):
    store.put(("n",), "a", {"n": 1, "kind": "x", "deep": {"k": 1, "l": 2}, "list": [1, 2]})
    store.put(("n",), "b", {"n": 2, "kind": "y", "deep": {"k": 1}})
    store.put(("n",), "c", {"n": 3, "kind": "x", "deep": {"k": 2}, "list": [2, 1]})
    store.put(("n",), "d", {"n": 4, "kind": "y", "deep": {"k": 0}})
    assert keys(store.search(("n",), filter=filter)) == letters(expected)


def test_an_operator_that_is_none_is_refused(store):
    store.put(("n",), "a", {"n": 1})
    with pytest.raises(ValueError, match="in"):
        store.search(("n",), filter={"n": {"$in": [1]}})


def test_namespaces_are_listed_in_order(store):
    for namespace in [("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("b",), ("c", "b", "d")]:
        store.put(namespace, "k", {})
    assert store.list_namespaces() == [("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("b",), ("c", "b", "d")]
    assert store.list_namespaces(prefix=("a",)) == [("a", "b", "c"), ("a", "b", "d"), ("a", "x")]
    assert store.list_namespaces(suffix=("d",)) == [("a", "b", "d"), ("c", "b", "d")]
    assert store.list_namespaces(prefix=("*", "b")) == [("a", "b", "c"), ("a", "b", "d"), ("c", "b", "d")]
    assert store.list_namespaces(suffix=("b", "*")) == [("a", "b", "c"), ("a", "b", "d"), ("c", "b", "d")]
    assert store.list_namespaces(prefix=("a",), suffix=("c",)) == [("a", "b", "c")]
    assert store.list_namespaces(max_depth=1) == [("a",), ("b",), ("c",)]
    assert store.list_namespaces(max_depth=2, limit=2, offset=1) == [("a", "x"), ("b",)]


def test_a_batch_answers_in_order_and_reads_before_it_writes(store):
    store.put(("n",), "k", {"a": 1})
    results = store.batch(
        [
            PutOp(("n",), "k", {"a": 2}),
            GetOp(("n",), "k"),
            PutOp(("n",), "k", {"a": 3}),
            SearchOp(("n",)),
            ListNamespacesOp(match_conditions=(MatchCondition("prefix", ("n",)),)),
            PutOp(("m",), "k", {"a": 4}),
            GetOp(("m",), "k"),
        ]
    )
    assert [results[0], results[2], results[5], results[6]] == [None] * 4
    assert results[1].value == {"a": 1}
    assert [item.value for item in results[3]] == [{"a": 1}]
    assert results[4] == [("n",)]
    assert store.get(("n",), "k").value == {"a": 3}
    assert store.get(("m",), "k").value == {"a": 4}


def test_an_operation_that_is_none_is_refused(store):
    with pytest.raises(ValueError, match="operation"):
        store.batch([("get", "k")])


def test_the_async_methods_do_the_same(store):
    async def work():
        await store.aput(("n",), "a", {"n": 1})
        await store.aput(("n",), "b", {"n": 2})
        await store.adelete(("n",), "a")
        assert await store.aget(("n",), "a") is None
        assert (await store.aget(("n",), "b")).value == {"n": 2}
        assert keys(await store.asearch(("n",), filter={"n": 2})) == ["b"]
        assert await store.alist_namespaces() == [("n",)]

    asyncio.run(work())


@pytest.mark.parametrize("function", [embed, aembed])
def test_with_an_index_a_search_is_by_meaning(make, function):
    store = make({"dims": 3, "embed": function, "fields": ["text", "more[*].text"]})

    async def work():
        await store.aput(("n",), "food", {"text": "food", "n": 1})
        await store.aput(("n",), "both", {"text": "none", "more": [{"text": "sport"}, {"text": "food and music"}]})
        await store.aput(("n",), "sport", {"text": "sport"}, index=["text"])
        await store.aput(("n",), "unseen", {"text": "food"}, index=False)
        found = await store.asearch(("n",), query="food please", limit=10)
        assert [item.key for item in found][:2] == ["food", "both"]
        assert found[0].score == pytest.approx(1.0)
        assert found[1].score == pytest.approx(0.5**0.5)
        assert [item.score for item in found if item.key == "unseen"] == [None]
        assert [item.key for item in await store.asearch(("n",), query="sport", limit=1, filter={"text": "sport"})] == [
            "sport"
        ]

    asyncio.run(work())


def test_a_time_to_live_is_refused_where_it_is_not_kept(store):
    with pytest.raises(NotImplementedError):
        store.put(("n",), "k", {"a": 1}, ttl=5)


# --- beside their own store ----------------------------------------------------------------------
LABELS = ["a", "b", "ab", "*", "ü", "x y", "a/b", "n\n", "%", "A", "langgraph-store", "sha256-x", "~"]
KEYS = ["k", "l", "m", "", "ü\n", "k\0"]
NUMBERS = [1, 0, -1.5, 2**53 + 1, 10**18]
JSON = [
    *NUMBERS,
    None,
    True,
    False,
    "x",
    "",
    "1",
    [],
    [1, [2, None]],
    {},
    {"k": 1},
    {"k": {"l": [1]}},
    {"k": None},
    "$gt",
]
MEMBERS = ["f", "g", "$h", "", "a.b", "ü"]


class Theirs(InMemoryStore):
    """InMemoryStore without what it alone does: emptied namespaces and an item's old vectors stay, two items cannot have one text."""

    def _handle_list_namespaces(self, op):
        for namespace in [namespace for namespace, items in self._data.items() if not items]:
            del self._data[namespace]
        return super()._handle_list_namespaces(op)

    def _extract_texts(self, put_ops):
        for namespace, key in put_ops:
            self._vectors[namespace].pop(key, None)
        return super()._extract_texts(put_ops)

    def _insertinmem_store(self, to_embed, embeddings):
        for places, embedding in zip(to_embed.values(), embeddings, strict=True):
            for namespace, key, path in places:
                self._vectors[namespace][key][path] = embedding


class Batches:
    """Batches drawn at random, of their store and of two of ours on one Everlog store."""

    def __init__(self, seed, store, *, indexed):
        self.draw = random.Random(seed)
        fields = self.draw.choice([["f", "g"], ["$"], ["a.b", "f[*]"]])
        self.index = {"dims": 5, "embed": self.embed, "fields": fields} if indexed else None
        self.store, self.theirs = store, Theirs(index=self.index)
        self.ours = [EverlogStore(store, index=self.index), EverlogStore(store, index=self.index)]

    @staticmethod
    def embed(texts):
        return [[float(text.count(letter)) for letter in "abcx1"] for text in texts]

    def namespace(self):
        known = list(self.theirs._data)
        if known and self.draw.random() < 0.7:
            return self.draw.choice(known)
        return tuple(self.draw.choice(LABELS) for _ in range(self.draw.randrange(1, 4)))

    def filter(self):
        value, number = self.draw.choice(JSON), self.draw.choice(NUMBERS)
        wanted = [value, {"$eq": value}, {"$ne": value}, {"$gt": number}, {"$lte": number, "$gte": -2}, {"$lt": number}]
        return {self.draw.choice(MEMBERS): self.draw.choice(wanted) for _ in range(self.draw.randrange(1, 3))}

    def operation(self):
        draw = self.draw
        match draw.random():
            case chance if chance < 0.45:
                value = {draw.choice(MEMBERS): draw.choice(JSON) for _ in range(draw.randrange(4))}
                index = draw.choice([None, None, False, ["f"], ["g", "f"]]) if self.index else None
                return PutOp(self.namespace(), draw.choice(KEYS), value if draw.random() < 0.75 else None, index)
            case chance if chance < 0.6:
                return GetOp(self.namespace(), draw.choice(KEYS))
            case chance if chance < 0.8:
                query = draw.choice([None, "a", "x 1", "b ü"]) if self.index else None
                prefix = draw.choice([(), self.namespace(), self.namespace()[:1]])
                return SearchOp(prefix, draw.choice([None, self.filter()]), 1_000, 0, query)
            case _:
                paths = [self.namespace(), self.namespace()[:1], ("*",), ("*", "a"), ()]
                conditions = [
                    MatchCondition(draw.choice(["prefix", "suffix"]), draw.choice(paths))
                    for _ in range(draw.randrange(3))
                ]
                return ListNamespacesOp(
                    tuple(conditions) or None,
                    draw.choice([None, 0, 1, 2, 3]),
                    draw.choice([100, 2, 0]),
                    draw.choice([0, 1, 5]),
                )

    def run(self, batches):
        for _ in range(batches):
            operations = [self.operation() for _ in range(self.draw.choice([1, 1, 1, 2, 4]))]
            if self.draw.random() < 0.05:
                self.ours[0] = EverlogStore(self.store, index=self.index)
            try:
                theirs = self.theirs.batch(operations)
            except (TypeError, ValueError):  # it compares what is no number with one
                continue
            ours = self.draw.choice(self.ours).batch(operations)
            assert [plain(result) for result in ours] == [plain(result) for result in theirs]


def plain(result):
    """A result that compares: without its times, and of a search in an order that both can have."""
    if isinstance(result, list) and result and not isinstance(result[0], tuple):
        return sorted(map(plain, result), key=repr)
    if isinstance(result, Item):
        score = getattr(result, "score", None)
        return result.namespace, result.key, repr(result.value), None if score is None else round(score, 5)
    return result


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_asked_is_answered_as_by_their_own_store(seed, indexed):
    with everlog.open("memory:") as opened:
        Batches(seed, opened, indexed=indexed).run(60)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_whatever_is_asked_is_answered_as_by_their_own_store_where_it_lasts(kind, tmp_path):
    with everlog.open(databases.address(kind, tmp_path)) as opened:
        Batches(0, opened, indexed=True).run(40)
        assert opened.verify().ok


# --- what Everlog has beside it ------------------------------------------------------------------
@pytest.fixture
def ours(tmp_path):
    with EverlogStore(tmp_path / "s.db") as store:
        yield store


def test_an_update_keeps_when_the_item_was_made(ours):
    ours.put(("n",), "k", {"a": 1})
    made = ours.get(("n",), "k")
    ours.put(("n",), "k", {"a": 2})
    assert ours.get(("n",), "k").created_at == made.created_at


def test_what_was_put_last_is_found_first_in_whichever_namespace():
    clock = FixedClock()
    with Store(MemoryStorage(clock=clock, draw=os.urandom), Settings(os.urandom), url="memory:") as opened:
        ours = EverlogStore(opened)
        for namespace, key in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("a", "1")]:
            clock.advance(seconds=1)
            ours.put((namespace,), key, {})
        assert [item.key for item in ours.search(())] == ["1", "4", "3", "2"]
        assert [item.key for item in ours.search((), limit=2, offset=1)] == ["4", "3"]


def test_without_an_index_what_says_most_of_the_words_comes_first(ours):
    ours.put(("n",), "one", {"text": "Ada likes tea"})
    ours.put(("n",), "two", {"text": "Ada likes green TEA in the morning"})
    ours.put(("n",), "none", {"text": "nothing of it"})
    found = ours.search(("n",), query="green tea")
    assert [(item.key, item.score) for item in found] == [("two", 1.0), ("one", 0.5), ("none", None)]


def test_what_an_item_was_stays_and_comes_back_by_a_rewind(ours):
    ours.put(("n",), "k", {"a": 1})
    ours.put(("n",), "k", {"a": 2})
    ours.session(("n",)).rewind(1)
    assert ours.get(("n",), "k").value == {"a": 1}


def test_what_is_remembered_is_bounded_by_its_bytes_and_what_was_asked_for_last_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("everlog.integrations.langgraph_store._SHELVES_BYTES_MAX", 20_000)
    with EverlogStore(tmp_path / "memory.db") as store:
        for number in range(10):
            for key in ("a", "a", "b", "c"):
                store.put((f"n{number}",), key, {"text": "x" * 2_000})
            store.delete((f"n{number}",), "c")
            assert store.get(("n0",), "a").value == {"text": "x" * 2_000}
            assert 4_000 < store._shelves[("n0",)].held < 4_500
        assert list(store._shelves)[-2:] == [("n9",), ("n0",)]
        assert sum(shelf.held for shelf in store._shelves.values()) <= 20_000
        store.put(("large",), "k", {"text": "y" * 30_000})
        assert (store.get(("large",), "k").key, list(store._shelves)) == ("k", [("large",)])
        assert [item.namespace for item in store.search(("n3",))] == [("n3",), ("n3",)]


def test_another_process_sees_what_was_put_and_deleted(tmp_path, ours):
    ours.put(("n",), "k", {"a": 1})
    with everlog.open(tmp_path / "s.db") as opened:
        other = EverlogStore(opened, index={"dims": 3, "embed": embed})
        assert other.get(("n",), "k").value == {"a": 1}
        other.put(("n",), "k", {"a": 2})
        other.close()
        assert ours.get(("n",), "k").value == {"a": 2}
        opened.delete("langgraph-store:n", reason="forgotten")
        assert ours.get(("n",), "k") is None
        other.put(("n",), "k", {"a": 3})
        assert ours.get(("n",), "k").value == {"a": 3}


def test_an_item_whose_last_value_was_erased_is_what_it_was_before(ours):
    ours.put(("n",), "k", {"a": 1})
    ours.put(("n",), "k", {"secret": 2})
    ours.session(("n",)).erase([1], reason="a secret")
    with EverlogStore(ours.store) as again:
        assert again.get(("n",), "k").value == {"a": 1}


def test_a_reader_that_changes_what_it_was_given_changes_nothing_else(ours):
    ours.put(("n",), "k", {"a": []})
    ours.get(("n",), "k").value["a"].append(1)
    ours.search(("n",))[0].value["a"].append(2)
    assert ours.get(("n",), "k").value == {"a": []}


def test_what_was_erased_is_not_given_by_who_has_read_it_before(tmp_path, ours):
    with EverlogStore(tmp_path / "s.db") as other:
        ours.put(("n",), "k", {"secret": 1})
        assert other.get(("n",), "k").value == ours.get(("n",), "k").value == {"secret": 1}
        ours.session(("n",)).erase([0], reason="a secret")
        for each in (ours, other):
            assert each.get(("n",), "k") is None
            assert each.search(("n",)) == []


@pytest.mark.parametrize(
    ("value", "count", "error"),
    [(object(), 1, InvalidEventError), ("x" * 8_400_000, 1, LimitError), (1, 10_001, LimitError)],
    ids=["no JSON", "more than an item may have", "more than one namespace takes"],
)
def test_a_batch_that_one_namespace_refuses_is_written_in_none(ours, value, count, error):
    puts = [PutOp(("two",), str(number), {"a": value}) for number in range(count)]
    with pytest.raises(error, match="nothing was written"):
        ours.batch([PutOp(("one",), "k", {"a": 1}), *puts])
    assert ours.list_namespaces() == []
    assert ours.store.sessions() == []
