"""Named queries in .sql files: each has a name and a line of purpose, and takes named parameters."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- ([a-z_]+): .+$", re.MULTILINE)


def load_queries(package: str, file: str = "queries.sql") -> dict[str, str]:
    """Read a package's .sql file: `-- name: purpose` lines, each followed by one statement."""
    text = files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    queries = {
        name: statement.strip().removesuffix(";") for name, statement in zip(parts[1::2], parts[2::2], strict=True)
    }
    assert len(queries) * 2 == len(parts) - 1, f"{file} of {package} names a query twice"
    return queries
