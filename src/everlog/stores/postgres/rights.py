"""Who may do what in the schema: the rights of the store's roles, and tenants kept apart. What a migration makes gets them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from everlog.stores.postgres.statements import Statements

# Those that grow, by the migration that makes them: each spread by bucket where the server is one of Citus, and each with a tenant but
# for the counters.
TABLES: Final = {
    1: (
        "bucket",
        "directory",
        "session",
        "label",
        "branch",
        "tip",
        "event",
        "attachment",
        "ledger",
        "erasure",
        "snapshot",
        "lease",
    ),
    2: ("dictionary", "object", "block", "sharing"),
    3: ("search_entry", "search_place"),
    4: ("pending", "placed", "tree", "seal"),
    5: ("wrapping_key", "data_key"),
}
_GRANTS: Final = (
    "let_in",
    "let_create",
    "shut_out",
    "let_read",
    "let_record",
    "let_count",
    "let_move",
    "let_name",
    "let_hold",
    "let_keep",
    "let_label",
    "let_blank",
    "let_clear",
    "let_pack",
    "let_index",
    "let_index_on",
    "let_unindex",
    "let_end",
    "let_sweep",
    "let_free",
    "let_pend",
    "let_seal",
    "let_settle",
    "let_grow",
    "let_encrypt",
    "let_shred",
)

Connection = psycopg.Connection[TupleRow]


def give_rights(connection: Connection, schema: str) -> None:
    """Give each role its rights to what is in the schema, and the owner all of it."""
    statements = Statements(schema, "roles.sql")
    for grant in _GRANTS:
        connection.execute(statements[grant])
    for (table,) in connection.execute(statements["list_tables"], {"name": schema}).fetchall():
        connection.execute(statements.about("give_table", table))


def keep_apart(connection: Connection, schema: str, tables: Sequence[str]) -> None:
    """Have the server show each tenant its own rows of tables only; again does nothing more."""
    statements = Statements(schema, "roles.sql")
    for table in tables:
        if table == "bucket":
            continue
        if not connection.execute(statements["has_policy"], {"name": schema, "table": table}).fetchall():
            connection.execute(statements.about("make_policy", table))
        connection.execute(statements.about("enable_policy", table))
        connection.execute(statements.about("force_policy", table))


def after_migration(connection: Connection, statements: Statements, number: int, *, last: bool) -> None:
    """Have the tables of a migration be as the schema's others are: spread, kept apart, and open to the store's roles.

    last: no other comes behind it. Rights are given then, since they name tables of all.
    """
    schema, tables = statements.schema, TABLES.get(number, ())
    if connection.execute(statements["has_citus"]).fetchall():
        for table in tables:
            connection.execute(statements["distribute"], {"table": f"{schema}.{table}"})
    if number == 1:
        return
    if connection.execute(statements["keeps_tenants"], {"name": f"{schema}.event"}).fetchall()[0][0]:
        keep_apart(connection, schema, tables)
    if last and connection.execute(Statements(schema, "roles.sql")["has_role"], {"name": f"{schema}_owner"}).fetchall():
        give_rights(connection, schema)
