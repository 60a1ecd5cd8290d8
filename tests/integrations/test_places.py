"""Where integrations keep sessions, and how they call them: what a user may give, and what is refused in words."""

from pathlib import Path
from uuid import UUID

import pytest

import everlog
from everlog.errors import InvalidPlaceError, UnsupportedStoreError
from everlog.integrations.places import LazyStore, id_of, id_part, store_at


def test_what_sqlite_calls_memory_is_a_store_in_memory_and_no_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with everlog.open(":memory:") as store:
        store.create("s")
    place = LazyStore(":memory:")
    place.get().create("s")
    place.close()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("place", [object(), 5, ["agent.db"]], ids=["object", "number", "list"])
def test_what_is_no_store_is_refused_before_anything_is_opened(place):
    with pytest.raises(UnsupportedStoreError, match=f"a {type(place).__name__} is no store; nothing was opened"):
        store_at(place)


@pytest.mark.parametrize("name", [None, 5, UUID(int=5), b"run-42"], ids=repr)
def test_an_id_that_is_no_string_is_refused_in_words(name):
    for give in (id_of, lambda text: id_part(text, 60)):
        with pytest.raises(InvalidPlaceError, match="is no string; nothing was done"):
            give(name)
