"""Questions to a registry in plain SQL, which both databases understand.

What only looks asks like this: SQLAlchemy takes longer to import than such a command to answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from qsweep.db.clock import IN_SQL

SETTING = re.compile(r"\{setting (\w+)\}")
"""Where the text of a job's setting stands, which is another one for another value or type; null where it has none."""
SETTINGS = {
    "sqlite": r"(json_type(jobs.content, '$.settings.\1') || json_extract(jobs.content, '$.settings.\1'))",
    "postgresql": r"CAST(CAST(jobs.content AS json) -> 'settings' -> '\1' AS text)",
}
VALUE = re.compile(r"(?<!:):(\w+)")
"""Where a value stands in the text: `:name`."""


class Asking(Protocol):
    """One open transaction that is asked something."""

    def ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement. `{moment}`, `{wall}` and `{boot}` in it are the clocks; see `db.clock`. Booleans
        come as SQLite has them: 0 and 1."""

    def schema_tables(self) -> set[str]:
        """The names of the tables that stand where ours would."""


class SqliteAsking:
    """A transaction on the driver's own connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(worded(sql, "sqlite"), values or {}).fetchall()
        return rows

    def schema_tables(self) -> set[str]:
        rows = self.ask("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}


def worded(sql: str, dialect: str) -> str:
    """The statement in the words of a database."""
    for name, clock in IN_SQL[dialect].items():
        sql = sql.replace(f"{{{name}}}", clock)
    sql = SETTING.sub(SETTINGS[dialect], sql)
    return sql if dialect == "sqlite" else VALUE.sub(r"%(\1)s", sql)


def named(asking: Asking, columns: Mapping[str, str], rest: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a SELECT of these columns, each an expression by its name."""
    rows = asking.ask(f"SELECT {', '.join(columns.values())} {rest}", values)
    return [dict(zip(columns, row, strict=True)) for row in rows]
