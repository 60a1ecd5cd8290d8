"""What the tests of the command line share: a store's path, and a way to run a command on it."""

import pytest
from click.testing import CliRunner

from everlog.cli.commands import everlog as command


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.db")


@pytest.fixture
def run(path):
    def call(*words, code=0, given=None, store=path):
        place = [] if store is None else ["--store", store]
        result = CliRunner().invoke(command, [*place, *words], input=given)
        assert result.exit_code == code, result.output
        return result

    return call
