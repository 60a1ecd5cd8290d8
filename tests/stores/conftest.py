"""A store in PostgreSQL, and a connection beside it."""

import psycopg
import pytest

import everlog
from databases import database, server, url_of


@pytest.fixture
def url(tmp_path):
    return url_of(tmp_path)


@pytest.fixture
def store(url):
    with everlog.open(url) as opened:
        yield opened


@pytest.fixture
def sql(tmp_path):
    """A connection beside the store, with the store's schema in its search path."""
    schema = url_of(tmp_path).rpartition("schema=")[2]
    with psycopg.connect(server().url(database()), autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}")
        yield connection
