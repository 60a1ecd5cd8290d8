"""A process that forks while its integrations are at work: the child is answered, whatever locks were held when it was forked."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from everlog.integrations.forked import begin_in_each_process
from integrations.leased import NAMES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
SCRIPT = """
import copy, os, sys, threading
import pytest
import everlog
from everlog.errors import UnsupportedStoreError
from integrations.leased import WRITERS

name, place = sys.argv[1:]
store = everlog.open(place)
if name in WRITERS:
    try:
        writer = WRITERS[name](store, None)
    except pytest.skip.Exception:
        sys.exit(5)
    use = lambda: writer.write("one")
elif name.startswith("langgraph reads"):
    writer = WRITERS["langgraph"](store, None)
    writer.write("one")
    saver = copy.copy(writer.saver) if name.endswith("copied") else writer.saver
    use = lambda: saver.get_tuple({"configurable": {"thread_id": "t"}})
else:
    from everlog.integrations.langgraph_store import EverlogStore
    memory = EverlogStore(store)
    memory.put(("a",), "k", {"v": 1})
    use = lambda: memory.get(("a",), "k")

use()  # what is imported when it is first used is: a fork during an import has a child that never imports it
begun, ends, storage = threading.Event(), threading.Event(), store.storage
def held(call):
    def wait(*given):
        begun.set()
        ends.wait()
        return call(*given)
    return wait
kept = storage.write, storage.erasures
storage.write, storage.erasures = map(held, kept)
thread = threading.Thread(target=use)
thread.start()
assert begun.wait(20)
child = os.fork()
if not child:
    storage.write, storage.erasures = kept
    try:
        use()
    except UnsupportedStoreError:
        os._exit(7)
    os._exit(8)
left = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
ends.set()
thread.join()
use()
sys.exit(left)
"""


@pytest.mark.parametrize("name", [*NAMES, "langgraph reads", "langgraph reads, copied", "langgraph store"])
def test_a_child_that_is_forked_while_another_thread_is_at_work_says_what_became_of_its_store(tmp_path, name):
    if name not in NAMES:
        pytest.importorskip("langgraph.checkpoint.base", reason="langgraph is not installed")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, name, tmp_path / "s.db"]
    folders = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A group of its own, so that a child that never answers ends with it.
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": folders})
    try:
        left = process.wait(40)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if left == 5:
        pytest.skip("this framework is not installed, or is too old")
    assert left == 7


class Alike:
    """Equal to all others of its kind, and without a hash, as a dataclass is."""

    def __init__(self):
        self.begun = []
        begin_in_each_process(self.begin)

    def __eq__(self, other):
        return isinstance(other, Alike)

    __hash__ = None

    def begin(self):
        self.begun.append(os.getpid())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that threads run here is nothing to this child
def test_each_of_those_that_are_equal_begins_anew_in_a_child():
    several = [Alike() for _ in range(3)]
    child = os.fork()
    if not child:
        os._exit(7 if all(each.begun == [os.getppid(), os.getpid()] for each in several) else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert [each.begun for each in several] == [[os.getpid()]] * 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_neither_waits_for_what_locks_the_memory_of_a_storage_of_strands_nor_has_it(tmp_path):
    pytest.importorskip("strands.storage")
    from everlog.integrations.strands_storage import EverlogStorage

    storage = EverlogStorage(tmp_path / "s.db")
    asyncio.run(storage.write("k", b"{}"))
    assert storage._seen
    with storage._lock:
        child = os.fork()
        if not child:
            os._exit(8 if storage._lock.locked() or storage._seen else 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    storage.close()
