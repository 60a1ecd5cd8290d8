"""Statements on the wire: as many as are wanted in one message and one wait, prepared where they come again, all in binary.

psycopg's own pipeline sends a message and looks for answers at every statement, which wakes the server as often; and what its
cursors do for a statement takes longer than the server takes to carry it out (2026-11: 0.9 ms of an append's 1.3). Here psycopg
makes the connections, waits, loads rows and names errors; the rest is libpq's pipeline, through `psycopg.pq`.

1. A parameter's type is told by its value, and by what the statement casts it to: the same statement is the same prepared one,
   however large a number is.
2. Names of prepared statements are no other connection's: behind a pooler one could be found that is another's statement.
3. A connection that can still be used is never left in pipeline mode, whatever befell the statements.
"""

from __future__ import annotations

import re
import struct
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from secrets import token_hex
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

Parameters = Mapping[str, Any] | None

ANSWER_SECONDS_MAX: Final = 60.0  # that a server which hangs, and keeps its connection, is waited for
PREPARED_MAX: Final = 200  # statements that a connection keeps prepared; past that only those that it always does

_PARAMETER = re.compile(r"%\((\w+)\)s(?:::(\w+)\[\])?")
_SMALL: Final = frozenset({"bucket", "home"})  # smallint, as the columns that tables may be spread by are
_SMALL_MAX: Final = 32_767
_INT2, _INT4, _INT8, _BYTEA, _TEXT = 21, 23, 20, 17, 25  # as pg_type numbers them, for ever
_ARRAYS: Final = {  # by the type of their items: the numbers of their own type and of that
    "smallint": (1005, _INT2),
    "integer": (1007, _INT4),
    "bigint": (1016, _INT8),
    "bytea": (1001, _BYTEA),
    "text": (1009, _TEXT),
}
_NUMBERS: Final = {
    _INT2: (2, struct.Struct(">ih").pack),
    _INT4: (4, struct.Struct(">ii").pack),
    _INT8: (8, struct.Struct(">iq").pack),
}
_pack_small = struct.Struct(">h").pack
_pack_number = struct.Struct(">q").pack
_pack_length = struct.Struct(">i").pack
_pack_head = struct.Struct(">5i").pack
_NULL: Final = _pack_length(-1)
_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_RESULTS: Final = pq.Format.BINARY
_UNPREPARED: Final = ("26000", "0A000")  # what was prepared is gone, or of tables that were changed

_Key = tuple[bytes, tuple[int, ...]]  # of what is prepared: a statement, and the types of its parameters


class PreparedConnection(psycopg.Connection[TupleRow]):
    """A connection that knows what is prepared on it. Its client_encoding is UTF-8."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.prepared: dict[_Key, bytes] = {}  # names, by statement and types
        self.names = map(f"everlog_{token_hex(8)}_{{}}".format, count())
        self.loading = Transformer(self)


class _Compiled(NamedTuple):
    """A statement with numbered parameters; of each its name, and the type of its items where it is an array."""

    text: bytes
    parameters: tuple[tuple[str, str | None], ...]


class _Bound(NamedTuple):
    """A statement with its parameters' types, their values, and how many may be prepared beside it."""

    key: _Key
    values: list[bytes | None]
    beside: int


def run(
    connection: PreparedConnection, statements: Sequence[tuple[bytes, Parameters]], lasting: frozenset[bytes] | None
) -> list[list[TupleRow]]:
    """Carry out statements in one round trip; give the rows of each. Where one fails, those behind it are not carried out.

    lasting: statements that are always prepared, others while there is room; None to prepare nothing.
    Raises OperationalError where the server gives no answer for ANSWER_SECONDS_MAX: the connection is closed.
    """
    bound = [_bind(statement, parameters, lasting) for statement, parameters in statements]
    return connection.wait(_communicate(connection, bound))


# --- statements and parameters -------------------------------------------------------------------
@lru_cache(1_000)
def _compile(statement: bytes) -> _Compiled:
    numbers: dict[tuple[str, str | None], int] = {}

    def number(found: re.Match[str]) -> str:
        name, item = found[1], found[2]
        place = numbers.setdefault((name, item), len(numbers) + 1)
        return f"${place}" + ("" if item is None else f"::{item}[]")

    text = _PARAMETER.sub(number, statement.decode())
    return _Compiled(text.encode(), tuple(numbers))


def _bind(statement: bytes, parameters: Parameters, lasting: frozenset[bytes] | None) -> _Bound:
    compiled = _compile(statement)
    types: list[int] = []
    values: list[bytes | None] = []
    for name, item in compiled.parameters:
        assert parameters is not None, "a statement with parameters is given them"
        value = parameters[name]
        if item is not None:
            type_, packed = _pack_array(item, value)
        elif name in _SMALL and value is not None and value <= _SMALL_MAX:
            type_, packed = _INT2, _pack_small(value)
        else:
            type_, packed = (_PACKERS.get(type(value)) or _packer_of_kind(value))(value)
        types.append(type_)
        values.append(packed)
    beside = 0 if lasting is None else sys.maxsize if statement in lasting else PREPARED_MAX
    return _Bound((compiled.text, tuple(types)), values, beside)


_PACKERS: Final[dict[type, Callable[[Any], tuple[int, bytes | None]]]] = {
    type(None): lambda _: (0, None),  # its type is that of where it stands
    int: lambda value: (_INT8, _pack_number(value)),
    bytes: lambda value: (_BYTEA, value),
    str: lambda value: (_TEXT, value.encode()),
}


def _packer_of_kind(value: Any) -> Callable[[Any], tuple[int, bytes | None]]:
    """Give the packer of a value whose type is derived from one that is known, as an enumeration's of texts is."""
    for kind, pack in _PACKERS.items():
        if isinstance(value, kind):
            return pack
    raise TypeError(f"no parameter is of type {type(value).__name__}")


def _pack_array(item: str, values: Sequence[Any] | None) -> tuple[int, bytes | None]:
    """Pack an array; None is an array that is NULL."""
    array, type_ = _ARRAYS[item]
    if values is None:
        return array, None
    if not values:
        return array, _pack_head(0, 0, type_, 0, 0)[:12]
    parts = [_pack_head(1, 1, type_, len(values), 1)]
    if type_ in _NUMBERS:
        size, pack = _NUMBERS[type_]
        parts += [_NULL if value is None else pack(size, value) for value in values]
    else:
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                packed = value if type_ == _BYTEA else value.encode()
                parts.append(_pack_length(len(packed)))
                parts.append(packed)
    return array, b"".join(parts)


# --- sending and receiving -----------------------------------------------------------------------
def _communicate(
    connection: PreparedConnection, bound: Sequence[_Bound]
) -> Generator[Wait, Ready | int, list[list[TupleRow]]]:
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    fresh = _send(connection, bound)
    deadline = 0.0
    while pgconn.flush():
        ready = yield Wait.RW
        deadline = 0.0 if ready else _deadline(pgconn, deadline)
        if ready and ready & Ready.R:
            pgconn.consume_input()  # the server goes on only when its answers are taken
    rows: list[list[TupleRow]] = []
    failed: pq.abc.PGresult | None = None
    for place, (key, _, _) in enumerate(bound):
        prepared = (yield from _receive(pgconn)) if place in fresh else None
        result = yield from _receive(pgconn)
        if prepared is not None and prepared.status in _GOOD:
            connection.prepared[key] = fresh[place]
        elif prepared is not None and failed is None:
            failed = prepared
        if result.status in _GOOD:
            rows.append(_load(connection, result))
        elif failed is None:
            failed = result
        if failed is not None and pgconn.status != pq.ConnStatus.OK:
            break  # nothing more will come
    else:
        yield from _receive_one(pgconn)  # the end of the pipeline
        pgconn.exit_pipeline_mode()
    if failed is not None:
        raise _error(connection, failed)
    return rows


def _send(connection: PreparedConnection, bound: Sequence[_Bound]) -> dict[int, bytes]:
    """Put statements into libpq's buffer; give the names that some are prepared under with it, by their places."""
    pgconn, fresh = connection.pgconn, dict[int, bytes]()
    named = dict[_Key, bytes]()
    for place, (key, values, beside) in enumerate(bound):
        formats = [pq.Format.BINARY] * len(values)
        name = (connection.prepared.get(key) or named.get(key)) if beside else None
        if name is None and len(connection.prepared) < beside:
            name = fresh[place] = named[key] = next(connection.names).encode()
            pgconn.send_prepare(name, *key)
        if name is None:
            pgconn.send_query_params(key[0], values, key[1], formats, _RESULTS)
        else:
            pgconn.send_query_prepared(name, values, formats, _RESULTS)
    pgconn.pipeline_sync()
    return fresh


def _error(connection: PreparedConnection, failed: pq.abc.PGresult) -> psycopg.Error:
    error = error_from_result(failed)
    if error.sqlstate is None:  # it is libpq's own, and there is no connection any more
        return psycopg.OperationalError(str(error))
    if error.sqlstate in _UNPREPARED:
        connection.prepared.clear()
    return error


def _receive(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready | int, pq.abc.PGresult]:
    """Give the one result of a statement, and pass the end of it."""
    result = yield from _receive_one(pgconn)
    if result is None:
        raise psycopg.OperationalError("the connection was lost")
    yield from _receive_one(pgconn)
    return result


def _receive_one(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready | int, pq.abc.PGresult | None]:
    deadline = 0.0
    while pgconn.is_busy():
        ready = yield Wait.R  # psycopg looks in from time to time, with nothing
        if ready:
            pgconn.consume_input()
        else:
            deadline = _deadline(pgconn, deadline)
    return pgconn.get_result()


def _deadline(pgconn: pq.abc.PGconn, deadline: float) -> float:
    """Give the moment until which a silent server is waited for; close the connection past it. deadline: given last, 0 for none."""
    if not deadline:
        return time.monotonic() + ANSWER_SECONDS_MAX
    if time.monotonic() >= deadline:
        pgconn.finish()
        raise psycopg.OperationalError(f"the server gave no answer for {ANSWER_SECONDS_MAX:.0f} s")
    return deadline


def _load(connection: PreparedConnection, result: pq.abc.PGresult) -> list[TupleRow]:
    if not result.ntuples:
        return []
    loading = connection.loading
    loading.set_pgresult(result, format=_RESULTS)
    try:
        return loading.load_rows(0, result.ntuples, tuple)
    finally:
        loading.set_pgresult(None)
