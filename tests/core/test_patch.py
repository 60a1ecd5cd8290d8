"""Pointers, patches, merges and differences of JSON values: the RFCs' own examples, and properties."""

import copy

import hypothesis.strategies as st
import pytest
from hypothesis import given

from everlog.core.patch import Draft, apply_patch, diff_values, merge_three, merge_values, same
from everlog.core.pointer import MISSING, format_pointer, get_member, parse_pointer
from everlog.errors import InvalidQueryError, PatchError

KEYS = st.sampled_from(["a", "b", "", "a/b", "m~n", "é", "0"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -0.0]) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


# --- pointers (RFC 6901 §5) ---
RFC_6901 = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_pointers_name_what_the_rfc_says(pointer, value):
    tokens = parse_pointer(pointer)
    assert get_member(RFC_6901, tokens) == value
    assert format_pointer(tokens) == pointer


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/01", "/foo/-", "/foo/x", "/nope", "/foo/0/x", "/foo/-1"])
def test_a_pointer_to_nothing_gives_missing(pointer):
    assert get_member(RFC_6901, parse_pointer(pointer)) is MISSING


@pytest.mark.parametrize("bad", ["foo", "/~", "/a~2", None, 3])
def test_what_is_no_pointer_is_refused(bad):
    with pytest.raises(InvalidQueryError, match="JSON Pointer"):
        parse_pointer(bad)


# --- patches (RFC 6902 appendix A) ---
@pytest.mark.parametrize(
    ("before", "ops", "after"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        (
            {"foo": "bar"},
            [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
            {"foo": "bar", "child": {"grandchild": {}}},
        ),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        ({"foo": None}, [{"op": "replace", "path": "/foo", "value": "x"}], {"foo": "x"}),
        ({"foo": 1}, [{"op": "add", "path": "", "value": [1]}], [1]),
        ({"foo": [1]}, [{"op": "copy", "from": "/foo", "path": "/bar"}, {"op": "add", "path": "/bar/-", "value": 2}],
         {"foo": [1], "bar": [1, 2]}),
        ({"n": 1}, [{"op": "test", "path": "/n", "value": 1.0}], {"n": 1}),
    ],
)  # fmt: skip
def test_patches_do_what_the_rfc_says(before, ops, after):
    kept = copy.deepcopy(before)
    assert apply_patch(before, ops) == after
    assert before == kept


@pytest.mark.parametrize(
    "ops",
    [
        [{"op": "test", "path": "/baz", "value": "bar"}],
        [{"op": "add", "path": "/baz/bat", "value": "qux"}],
        [{"op": "test", "path": "/~01", "value": "10"}],
        [{"op": "remove", "path": "/nope"}],
        [{"op": "replace", "path": "/nope", "value": 1}],
        [{"op": "add", "path": "/list/5", "value": 1}],
        [{"op": "add", "path": "/list/01", "value": 1}],
        [{"op": "remove", "path": "/list/-"}],
        [{"op": "remove", "path": ""}],
        [{"op": "move", "from": "/baz", "path": "/baz/in"}],
        [{"op": "test", "path": "/one", "value": True}],
        [{"op": "add", "path": "/x"}],
        [{"op": "fly", "path": "/x"}],
        [{"op": "add", "path": "x", "value": 1}],
        [{"op": "copy", "path": "/x"}],
        ["add"],
        [{"op": "add", "path": None, "value": 1}],
    ],
)
def test_what_cannot_be_done_is_refused_and_the_whole_patch_with_it(ops):
    before = {"baz": "qux", "list": [1], "one": 1}
    draft = Draft(before)
    draft.set("/mine", {"a": [1]})
    shown = copy.deepcopy(draft.value)
    with pytest.raises(PatchError):
        draft.patch([{"op": "add", "path": "/mine/a/-", "value": 2}, {"op": "add", "path": "/first", "value": 1}, *ops])
    assert draft.value == shown
    assert before == {"baz": "qux", "list": [1], "one": 1}


# --- merges (RFC 7386 appendix A) ---
@pytest.mark.parametrize(
    ("target", "merge", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merges_do_what_the_rfc_says(target, merge, result):
    kept = copy.deepcopy(target)
    assert merge_values(target, merge) == result
    assert target == kept


# --- setting ---
def test_set_makes_objects_on_the_way_and_replaces_in_arrays():
    draft = Draft({})
    draft.set("/plan/steps", ["a"])
    draft.set("/plan/steps/-", "b")
    draft.set("/plan/steps/0", "c")
    draft.set("/plan/steps/2", "d")
    assert draft.value == {"plan": {"steps": ["c", "b", "d"]}}
    for pointer in ("/plan/steps/9", "/plan/steps/x", "/plan/steps/0/y", "/plan/steps/5/y"):
        with pytest.raises(PatchError):
            draft.set(pointer, 1)
    assert draft.value == {"plan": {"steps": ["c", "b", "d"]}}
    with pytest.raises(PatchError, match="deeper"):
        draft.set("/x" * 64, 1)


def test_copies_of_copies_stay_within_the_depth_that_json_libraries_take():
    draft = Draft({"a": {}})
    with pytest.raises(PatchError, match="deeper"):
        for _ in range(200):
            draft.patch([{"op": "copy", "from": "/a", "path": "/a/b"}, {"op": "move", "from": "/a/b", "path": "/c"},
                         {"op": "add", "path": "/a", "value": {}}, {"op": "move", "from": "/c", "path": "/a/c"}])  # fmt: skip


def test_copies_cannot_double_a_value_without_end():
    draft = Draft({"a": ["x" * 1_000]})
    with pytest.raises(PatchError, match="the copy would make a value of"):
        for _ in range(60):
            draft.patch([{"op": "copy", "from": "/a", "path": "/a/-"}])
    assert len(str(draft.value)) < 10**8


# --- properties ---
@given(JSON, JSON)
def test_the_difference_applied_to_the_one_gives_the_other(one, other):
    kept = copy.deepcopy(one)
    assert same(apply_patch(one, diff_values(one, other)), other)
    assert one == kept
    assert diff_values(one, copy.deepcopy(one)) == []


@given(JSON, st.lists(st.tuples(st.sampled_from(["/a", "/b/0", "/b/-", "/a/b", "", "/0"]), JSON), max_size=6))
def test_a_draft_never_changes_what_it_was_given(start, changes):
    kept = copy.deepcopy(start)
    draft = Draft(start)
    values = [copy.deepcopy(value) for _, value in changes]
    for pointer, value in changes:
        before = copy.deepcopy(draft.value)
        try:
            draft.set(pointer, value)
        except PatchError:
            assert draft.value == before
    assert start == kept
    assert [value for _, value in changes] == values


@given(OBJECTS, OBJECTS, OBJECTS)
def test_merging_three_is_symmetric_up_to_conflicts(base, ours, theirs):
    one, conflicts = merge_three(base, ours, theirs)
    other, others = merge_three(base, theirs, ours)
    assert {c.pointer for c in conflicts} == {c.pointer for c in others}
    if not conflicts:
        assert same(one, other)
    assert same(merge_three(base, ours, base)[0], ours)
    assert same(merge_three(base, base, theirs)[0], theirs)


@given(st.dictionaries(st.sampled_from("abc"), JSON), st.dictionaries(st.sampled_from("def"), JSON), OBJECTS)
def test_disjoint_changes_merge_without_conflict(mine, yours, base):
    base = {f"base{key}": value for key, value in base.items()}
    merged, conflicts = merge_three(base, base | mine, base | yours)
    assert conflicts == []
    assert same(merged, base | mine | yours)


def test_true_is_not_one_and_the_order_of_members_says_nothing():
    assert not same(True, 1)
    assert not same([True], [1])
    assert same({"a": 1, "b": 2.0}, {"b": 2, "a": 1.0})
    assert diff_values({"a": 1}, {"a": True}) == [{"op": "replace", "path": "/a", "value": True}]


@pytest.mark.parametrize("kind", ["replace", "add", "set", "merge"])
def test_nothing_makes_a_value_deeper_than_can_be_loaded(kind):
    nested = 1
    for _ in range(55):
        nested = {"a": nested}
    draft = Draft({"a": 1})
    depth = 0
    with pytest.raises(PatchError, match="deeper than"):
        for depth in range(1, 400, 50):
            pointer = "/a" * depth
            if kind == "set":
                draft.set(pointer, nested)
            elif kind == "merge":
                draft.merge(nested, pointer)
            else:
                draft.patch([{"op": kind, "path": pointer, "value": nested}])
    assert len(str(draft.value)) < 2_000
