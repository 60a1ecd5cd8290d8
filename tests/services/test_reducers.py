"""Fingerprints: a snapshot is read only by the code that took it, helpers included."""

import importlib
import subprocess
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


def test_every_constant_counts_however_often_it_stands():
    def made(one, two, three):
        names = {"ONE": one, "TWO": two, "THREE": three}
        exec("def step(state, event):\n    return state + ONE * TWO + THREE", names)

        def held(state, event):
            return state + one * two + three

        return names["step"], held

    for place in (0, 1):
        prints = {
            fingerprint_code([], [made(*values)[place]]) for values in ((1, 2, 1), (1, 2, 2), (1, 1, 2), (2, 1, 1))
        }
        assert len(prints) == 4
        assert (
            len(
                {fingerprint_code([], [made(*values)[place]]) for values in ((True, False, True), (True, False, False))}
            )
            == 2
        )


ALONE = """
import dataclasses, decimal, enum, functools, re
import everlog

N = 3
SEEN = {"a", "b", ("c", 1)}
TABLE = {}
TABLE["itself"] = TABLE

def other(number):
    return number

class Base:
    offset = N

    @functools.cached_property
    def cached(self):
        return other(1)

    @property
    def plain(self):
        return 1

class Holder(Base):
    def __init__(self, held):
        self.held = held

    def use(self, state):
        return state + self.held + self.offset + self.cached

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass(frozen=True)
class Settings:
    step: int = 1

def loud(function):
    @functools.wraps(function)
    def wrapper(state):
        return function(state) + 10
    return wrapper

@loud
def wrapped(state):
    return state

@functools.lru_cache
def kept(state):
    return state + 20

HOLDER = Holder(1)
BOUND = Holder(5).use
AMOUNT = decimal.Decimal("1.5")
PATTERN = re.compile("x")
COLORS = {"k": Color.RED, other: 7}
PART = functools.partial(other, number=4)
SETTINGS = Settings(step=2)

@everlog.reducer("test.alone", 1, initial=0)
def alone(state, event):
    from sibling import helped
    return [HOLDER.use(state), BOUND(state), AMOUNT, PATTERN, COLORS, PART(), SETTINGS, wrapped(state), kept(state), SEEN, TABLE,
            helped(state)]
"""
SIBLING = """
import alone
def helped(state):
    return state + 30, alone.N
"""
PRINTED = """
import sys
sys.path.insert(0, sys.argv[1])
import alone
from everlog.reducers.registry import find_reducer
import everlog.state
for name in ("test.alone", "document", "messages", "usage"):
    print(find_reducer(name).fingerprint().hex())
"""


@pytest.fixture
def printed(tmp_path):
    """Give a function that writes two modules that import each other, and gives the fingerprints of a new process."""
    count = iter(range(100))

    def run(alone=ALONE, sibling=SIBLING):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        (folder / "alone.py").write_text(alone, encoding="utf-8")
        (folder / "sibling.py").write_text(sibling, encoding="utf-8")
        words = [sys.executable, "-c", PRINTED, str(folder)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    return run


def test_another_process_with_the_same_code_has_the_same_fingerprints(printed):
    first = printed()
    assert len(first) == 4
    assert printed() == first  # hashes of strings differ in it, and so does the order of sets


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("offset = N", "offset = N + 1"),
        ("N = 3", "N = 4"),
        ('("c", 1)', '("c", 2)'),
        ("    return number\n", "    return -number\n"),
        ("return other(1)", "return other(2)"),
        ("def plain(self):\n        return 1", "def plain(self):\n        return 2"),
        ("self.held + self", "self.held - self"),
        ("HOLDER = Holder(1)", "HOLDER = Holder(2)"),
        ("Holder(5).use", "Holder(6).use"),
        ('Decimal("1.5")', 'Decimal("1.6")'),
        ('re.compile("x")', 're.compile("x", re.I)'),
        ("RED = 1", "RED = 2"),
        ("other: 7", "other: 8"),
        ("number=4", "number=5"),
        ("Settings(step=2)", "Settings(step=3)"),
        ("+ 10", "+ 11"),
        ("+ 20", "+ 21"),
        ("class Holder(Base)", "class Holder"),
    ],
)
def test_whatever_a_reducer_reaches_changes_it(printed, old, new):
    assert old in ALONE
    assert printed(ALONE.replace(old, new))[0] != printed()[0]


def test_a_module_beside_it_that_is_imported_when_it_runs_changes_it(printed):
    assert printed(sibling=SIBLING.replace("30", "31"))[0] != printed()[0]


def test_what_cannot_be_read_is_of_one_process_alone(printed):
    strange = ALONE.replace("N = 3", "import threading\nN = 3\nAMOUNTS = threading.Lock()").replace(
        "[HOLDER", "[AMOUNTS, HOLDER"
    )
    assert printed(strange)[0] != printed(strange)[0]


def test_what_runs_counts_and_not_what_its_file_says_by_now(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "everlog_test_deployed.py"
    file.write_text("def step(state, event):\n    return state + 1\n", encoding="utf-8")
    module = importlib.import_module("everlog_test_deployed")
    before = fingerprint_code([], [module.step])
    file.write_text("def step(state, event):\n    return state + 1000\n", encoding="utf-8")
    assert fingerprint_code([], [module.step]) == before
    names = {"__name__": "everlog_test_deployed"}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    assert fingerprint_code([], [names["step"]]) != before


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
    first = made.fingerprint()
    assert first != before
    everlog.upcast("test.seen.one", 2)(UPCASTERS["test.seen.one"].pop(1))
    assert made.fingerprint() not in (before, first)
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
