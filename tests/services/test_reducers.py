"""Fingerprints: a snapshot is read only by the code that took it, helpers included."""

import importlib
import sys
import textwrap

import pytest

import everlog
from everlog import NewEvent
from everlog.core.upcast import UPCASTERS
from everlog.reducers.fingerprint import fingerprint_code
from everlog.reducers.registry import find_reducer, load_reducers

HELPER = """
LIMIT = 3
TABLE = {"a": [1, 2]}

def double(number):
    return inner(number) * 2

def inner(number):
    return number + LIMIT

class Tool:
    def use(self, number):
        return number
"""
MAIN = """
import everlog
from {package} import helper
from {package}.helper import double, Tool

def chosen(state):
    return helper.TABLE["a"][0] + double(state) + Tool().use(state)

@everlog.reducer("test.packaged", 1, initial=0)
def packaged(state, event):
    return chosen(state)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Give a function that writes a package and gives the fingerprint of its reducer."""
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(100))

    def make(helper=HELPER, main=MAIN):
        name = f"everlog_test_package_{tmp_path.name[-4:].strip('_')}_{next(count)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("", encoding="utf-8")
        (folder / "helper.py").write_text(textwrap.dedent(helper), encoding="utf-8")
        (folder / "main.py").write_text(textwrap.dedent(main).replace("{package}", name), encoding="utf-8")
        importlib.invalidate_caches()
        importlib.import_module(f"{name}.main")
        return find_reducer("test.packaged").fingerprint()

    return make


def test_the_same_code_has_the_same_fingerprint(package):
    assert package() == package()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ('"a": [1, 2]', '"a": [2, 2]'),
        ("inner(number) * 2", "inner(number) * 3"),
        ("number + LIMIT", "number - LIMIT"),
        ("        return number\n", "        return -number\n"),
    ],
)
def test_a_helper_that_changed_changes_it(package, old, new):
    assert old in HELPER
    assert package(helper=HELPER.replace(old, new)) != package()


@pytest.mark.parametrize(
    ("old", "new"),
    [('"test.packaged", 1', '"test.packaged", 2'), ("initial=0", "initial=1"), ("+ double", "- double"),
     ("initial=0)", 'initial=0, types=["note"])')],
)  # fmt: skip
def test_version_start_types_and_source_change_it(package, old, new):
    assert old in MAIN
    assert package(main=MAIN.replace(old, new)) != package()


def test_what_a_closure_holds_and_defaults_say_change_it():
    def make(factor, default=1):
        def step(state, event, *, add=default):
            return state * factor + add

        return step

    prints = {fingerprint_code([], [make(*given)]) for given in ((1,), (2,), (1, 2), (1, 3))}
    assert len(prints) == 4
    assert fingerprint_code([], [make(1)]) == fingerprint_code([], [make(1)])


def test_code_without_a_file_is_told_by_its_byte_code():
    def made(text):
        names = {}
        exec(text, names)
        return names["step"]

    one = made("def step(state, event):\n    return state + 1")
    assert fingerprint_code([], [one]) == fingerprint_code([], [made("def step(state, event):\n    return state + 1")])
    assert fingerprint_code([], [one]) != fingerprint_code([], [made("def step(state, event):\n    return state + 2")])


def test_recursive_and_mutual_helpers_end():
    def ping(number):
        return number if number <= 0 else pong(number - 1)

    def pong(number):
        return ping(number - 1)

    assert len(fingerprint_code([], [ping])) == 16


def test_an_upcaster_of_its_types_changes_it_and_another_does_not():
    made = everlog.Reducer("test.upcasted", 1, lambda state, event: state, types=("test.seen.*",))
    before = made.fingerprint()
    everlog.upcast("test.unseen", 1)(lambda data: data)
    assert made.fingerprint() == before
    everlog.upcast("test.seen.one", 1)(lambda data: data)
    assert made.fingerprint() != before
    del UPCASTERS["test.unseen"], UPCASTERS["test.seen.one"]
    assert made.fingerprint() == before


def test_changed_code_never_reads_a_stale_snapshot(tmp_path):
    policy = everlog.SnapshotPolicy(events=2, share=1e9, reducers=())
    with everlog.open(tmp_path / "s.db", snapshots=policy) as store:
        session = store.create("s")
        session.extend([NewEvent("note", {"content": "x"})] * 10)
        for factor in (1, 2):
            file = tmp_path / f"mine{factor}.py"
            file.write_text(
                "import everlog\n\n@everlog.reducer('test.sum', 1, initial=0)\n"
                f"def total(state, event):\n    return state + {factor}\n",
                encoding="utf-8",
            )
            assert load_reducers(str(file)) == ["test.sum"]
            assert session.state("test.sum").value == 10 * factor
            assert session.state("test.sum", at=7).value == 7 * factor
        current = [info.current for info in store.snapshots()]
        assert True in current
        assert False in current
    sys.modules.pop("everlog_user_mine1", None)
