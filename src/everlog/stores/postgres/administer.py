"""Making a store's roles: who may record, who may destroy, who may only read.

`SCHEMA_app` cannot change or remove what is hashed: it has no UPDATE and no DELETE on events, branches, attachments and the ledger.
Grant the roles to logins: GRANT everlog_app TO agent.
"""

from __future__ import annotations

from typing import Final

import psycopg

from everlog.errors import UnsupportedStoreError
from everlog.stores.postgres.connections import PLAIN, translate
from everlog.stores.postgres.opening import read_address
from everlog.stores.postgres.rights import TABLES, give_rights, keep_apart
from everlog.stores.postgres.statements import Statements

ROLES: Final = ("owner", "app", "maintenance", "reader")


def make_roles(url: str) -> list[str]:
    """Make the store's roles, where they are not there, and give each its rights; again gives the rights again. Give their names.

    The store must be there. Raises UnavailableError where this login may not make roles or does not own the tables.
    """
    address = read_address(url)
    statements = Statements(address.schema, "roles.sql")
    schema = statements.schema
    if len(schema) > 50:
        raise UnsupportedStoreError(
            f"schema {schema!r} is longer than 50 characters, and its roles would be cut off; nothing was made; use a shorter one"
        )
    try:
        with psycopg.connect(address.conninfo, application_name="everlog", **PLAIN) as connection:
            for role in ROLES:
                if not connection.execute(statements["has_role"], {"name": f"{schema}_{role}"}).fetchall():
                    connection.execute(statements[f"make_{role}"])
            connection.execute(statements["lend_owner"])
            give_rights(connection, schema, len(statements.migrations()))
            connection.execute(statements["give_schema"])
    except psycopg.Error as error:
        raise translate(error) from error
    return [f"{schema}_{role}" for role in ROLES]


def keep_tenants_apart(url: str) -> None:
    """Have the server keep tenants apart (row-level security, also for the owner): each sees what `?tenant=` in its address says.

    Again does nothing more. Raises UnavailableError where this login does not own the tables.
    """
    address = read_address(url)
    try:
        with psycopg.connect(address.conninfo, application_name="everlog", **PLAIN) as connection:
            keep_apart(connection, address.schema, [table for tables in TABLES.values() for table in tables])
    except psycopg.Error as error:
        raise translate(error) from error
