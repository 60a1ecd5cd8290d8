"""Files as they are found: torn, growing, damaged, huge, gone; and imports again after a rewind or an erasure."""

import json
import os
import subprocess
import sys
import threading

import pytest

import everlog
from databases import address
from everlog.errors import InvalidEventError, NotFoundError
from everlog.importers import Failure, follow_paths, import_paths, originals

MEMORY_BYTES_MAX = 150_000_000  # measured: 75 MB


EVERYWHERE = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def store(request, tmp_path):
    with everlog.open(address(getattr(request, "param", "sqlite"), tmp_path / "store")) as opened:
        yield opened


def entry(number, text="text"):
    message = {"role": "user", "content": f"{text} {number}"}
    return {"uuid": f"u{number}", "type": "user", "timestamp": "2026-01-01T00:00:00Z", "message": message}


def encoded(entries):
    return b"".join(json.dumps(each).encode() + b"\n" for each in entries)


def run(store, *paths, format="claude-code"):
    return list(import_paths(store, format, paths))


def test_a_file_imported_at_every_byte_of_its_growth_ends_as_it_is(store, tmp_path):
    entries = [entry(number) for number in range(3)]
    content = encoded(entries)
    path = tmp_path / "s.jsonl"
    for size in range(1, len(content) + 1):
        path.write_bytes(content[:size])
        run(store, path)
    session = store.session("s")
    whole = [item for item in originals(session) if not isinstance(item, bytes)]
    assert whole == entries
    assert all(item == content[content.find(item) :][: len(item)] for item in originals(session) if item not in entries)


@EVERYWHERE
def test_a_torn_last_line_is_kept_and_reported_and_its_rest_imported_later(store, tmp_path):
    content = encoded([entry(0), entry(1)])
    path = tmp_path / "s.jsonl"
    path.write_bytes(content[:-20])
    (torn,) = run(store, path)
    assert [(problem.line, "torn" in problem.reason) for problem in torn.problems] == [(2, True)]
    assert list(originals(store.session("s"))) == [entry(0), content.splitlines()[1][:-19]]
    path.write_bytes(content)
    (whole,) = run(store, path)
    assert (whole.events, whole.known, whole.problem_count) == (1, 1, 0)


@EVERYWHERE
def test_a_file_that_is_followed_waits_for_the_rest_of_a_line(store, tmp_path):
    entries = [entry(number) for number in range(4)]
    content = encoded(entries)
    folder = tmp_path / "p"
    folder.mkdir()
    path = folder / "s.jsonl"
    path.write_bytes(content[: len(content) // 2])

    def grow():
        with path.open("ab") as file:
            file.write(content[len(content) // 2 :])

    timer = threading.Timer(1.0, grow)
    timer.start()
    results = list(follow_paths(store, "claude-code", [folder], idle=2.0))
    timer.join()
    assert sum(result.events for result in results) == 4
    assert not any(result.problems for result in results)
    assert list(originals(store.session("s"))) == entries


BAD = [
    b"not json",
    b'{"type": "user", "uuid": "bad\xff", "message": {"content": "x"}}',
    b'{"a": 1, "a": 2}',
    b'{"n": 1e999}',
    b'{"n": ' + b"9" * 5_000 + b"}",
    b"[" * 5_000 + b"]" * 5_000,
    b'{"type": "user", "message": {"content": "\\u0000 and \\ud800"}}',
    b"\x00\x00\x00",
    b"12",
    b"null",
    b'{"type": [], "role": [], "message": {"content": []}}',
    b'{"type": {"a": 1}, "role": {"a": 1}, "timestamp": []}',
]


def test_the_originals_of_what_was_not_imported_so_are_refused(store):
    session = store.create("made", labels={"source": "elsewhere"})
    with pytest.raises(NotFoundError, match="nothing was read"):
        next(originals(session))


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("format", ["claude-code", "codex", "openai", "jsonl"])
def test_a_bad_line_in_the_middle_is_kept_and_reported_and_stops_nothing(store, tmp_path, format, bad):
    whole = {"type": "note", "role": "user", "content": "x", "data": {"content": "x"}}
    good = json.dumps(whole).encode()
    path = tmp_path / "rollout-1.jsonl"
    path.write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    (imported,) = run(store, path, format=format)
    assert {problem.line for problem in imported.problems} >= {2}
    found = list(originals(store.session(imported.sessions[0])))
    assert len(found) == 3
    assert found[0] == found[2] == whole
    assert found[1] == bad or found[1] == json.loads(bad)
    (again,) = run(store, path, format=format)
    assert again.events == 0


def test_a_line_longer_than_a_piece_is_kept_byte_for_byte(store, tmp_path):
    long = b"y" * 40_000_000
    path = tmp_path / "s.jsonl"
    path.write_bytes(encoded([entry(0)]) + long + b"\n" + encoded([entry(1)]))
    (imported,) = run(store, path)
    assert {problem.line for problem in imported.problems} == {2}
    found = list(originals(store.session("s")))
    assert found[0] == entry(0)
    assert found[-1] == entry(1)
    assert b"".join(item for item in found[1:-1]) == long


def test_an_item_that_the_store_is_too_small_for_is_kept_and_reported(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(encoded([entry(0), entry(1, "long " * 2_000), entry(2)]))
    with everlog.open(tmp_path / "small.db", body_bytes_max=4_000) as store:
        (imported,) = run(store, path)
        assert [problem.line for problem in imported.problems] == [2]
        assert list(originals(store.session("s"))) == [entry(0), entry(1, "long " * 2_000), entry(2)]
        assert run(store, path)[0].events == 0


def test_a_file_that_is_something_else_is_a_failure_and_stops_no_other(store, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(os.urandom(3_000).replace(b"\n", b" ") + b"\n")
    (tmp_path / "b.jsonl").write_bytes(encoded([entry(0)]))
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.jsonl").symlink_to(tmp_path / "none")
    failed, good, empty = run(store, *(tmp_path / f"{name}.jsonl" for name in "abc"))
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, InvalidEventError)
    assert (good.events, empty.events) == (1, 0)
    with pytest.raises(NotFoundError, match=r"d\.jsonl"):
        run(store, tmp_path / "d.jsonl")
    assert [info.id for info in store.sessions()] == ["b"]


@EVERYWHERE
def test_what_was_rewound_or_erased_does_not_come_back(store, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(encoded([entry(number) for number in range(4)]))
    run(store, path)
    session = store.session("s")
    session.rewind(1)
    session.erase([0], reason="asked for")
    (again,) = run(store, path)
    assert (again.events, again.known) == (0, 4)
    path.write_bytes(encoded([entry(number) for number in range(5)]))
    assert run(store, path)[0].events == 1
    assert [item for item in originals(store.session("s")) if isinstance(item, dict)][-1] == entry(4)


@EVERYWHERE
def test_two_sources_of_one_name_are_two_sessions(store, tmp_path):
    for folder, number in (("a", 0), ("b", 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.jsonl").write_bytes(encoded([entry(number)]))
    first, second = run(store, tmp_path / "a", tmp_path / "b")
    assert first.sessions == ("s",)
    assert second.sessions[0].startswith("s-")


def test_progress_counts_files_bytes_and_events(store, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(
            encoded([{**entry(number), "uuid": f"{name}{number}"} for number in range(700)])
        )
    told = []
    list(import_paths(store, "claude-code", [tmp_path], progress=told.append))
    assert told == sorted(told, key=lambda progress: (progress.bytes, progress.events, progress.files))
    last = told[-1]
    assert (last.files, last.files_total, last.bytes, last.events) == (2, 2, last.bytes_total, 1_400)
    assert len(told) > 4


PROGRAM = """
import sys, everlog
from everlog.importers import import_paths
with everlog.open(sys.argv[1], durability="relaxed") as store:
    (imported,) = import_paths(store, "claude-code", [sys.argv[2]])
    print(imported.events)
status = open("/proc/self/status").read()
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as Linux tells it")
def test_a_large_file_is_imported_in_bounded_memory(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        for number in range(30_000):
            file.write(json.dumps(entry(number, "x" * 2_000)).encode() + b"\n")
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "large.db"), str(path)]
    output = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    events, kibibytes = map(int, output.split())
    assert events == 30_000
    assert kibibytes * 1024 < MEMORY_BYTES_MAX
