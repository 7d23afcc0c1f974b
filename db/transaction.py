"""One open transaction, and what the two databases say differently."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from qsweep.db.asking import worded

SCHEMA_LOCK = 0x715377656570  # "qSweep"
REGISTRATION_LOCK = SCHEMA_LOCK + 1
MERGE_LOCK = SCHEMA_LOCK + 2


Cell: TypeAlias = str | int | float | bool | None
ODD = re.compile(r"[\\\t\n\r]")
ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _copied(value: Cell) -> str:
    """A value as COPY reads it."""
    if isinstance(value, str):
        return value.translate(ESCAPED) if ODD.search(value) else value
    if value is None:
        return "\\N"
    return repr(value)  # numbers, True and False


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """One open transaction. `again`: it ran before, and may have been committed without our hearing of it."""

    connection: sa.Connection
    again: bool = False

    def ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """As `db.asking` has it."""
        with closing(self._cursor()) as cursor:
            cursor.execute(worded(sql, self.connection.dialect.name), values or {})
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def run(
        self, statement: sa.Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        if not isinstance(values, Mapping) and values is not None and len(values) == 1:
            values = values[0]  # drivers take a detour for many rows
        return self.connection.execute(statement, values)

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing`, in this database's dialect."""
        if self.connection.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql  # here: it takes long to import, and SQLite is the usual case

            return postgresql.insert(table)
        return sqlite.insert(table)

    def count(self, statement: sa.Executable) -> int:
        """Runs an INSERT from a SELECT; how many rows it inserted."""
        return int(self.run(statement.execution_options(preserve_rowcount=True)).rowcount)

    def new_ids(self, table: sa.Table, count: int) -> Sequence[int]:
        """So many ids that no row of the table has had. Nobody else may draw any meanwhile."""
        if self.connection.dialect.name == "postgresql":
            sequence = self.run(sa.select(sa.func.pg_get_serial_sequence(table.name, "id"))).scalar_one()
            first = self.run(sa.select(sa.func.nextval(sequence))).scalar_one()
            self.run(sa.select(sa.func.setval(sequence, first + count - 1)))
        else:
            first = 1 + self.run(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))).scalar_one()
        return range(first, first + count)

    def among(self, column: sa.Column[str], values: Sequence[str]) -> sa.ColumnElement[bool]:
        """`column IN values`, however many they are, as a single bound value."""
        if self.connection.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql

            return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(sa.Text)))
        given = sa.func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(sa.select(given.c.value))

    def load(
        self, table: sa.Table, columns: Sequence[str], rows: Iterable[tuple[Cell, ...]], same: Mapping[str, Cell]
    ) -> None:
        """Many rows into a table, which are the `same` in some columns: by COPY on Postgres, several times faster."""
        names = ", ".join((*columns, *same))
        if self.connection.dialect.name == "postgresql":
            tail = "".join(f"\t{_copied(value)}" for value in same.values()) + "\n"
            text = "".join(["\t".join(map(_copied, row)) + tail for row in rows])
            with closing(self._cursor()) as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                copy.write(text)
        else:
            marks, given = ", ".join("?" * (len(columns) + len(same))), tuple(same.values())
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
            with closing(self._cursor()) as cursor:
                cursor.executemany(statement, [(*row, *given) for row in rows])

    def _cursor(self) -> Any:
        """A cursor of the driver, for plain SQL and for COPY."""
        return self.connection.connection.cursor()

    def lock_schema(self) -> None:
        """Waits until no other process makes or migrates the tables. SQLite's write lock does so already."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))

    def lock_registration(self) -> None:
        """Waits until no other process registers jobs. SQLite's write lock does so already."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({REGISTRATION_LOCK})"))

    def lock_merges(self) -> None:
        """Waits until no other process chooses what to merge. SQLite's write lock does so already."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({MERGE_LOCK})"))

    def schema_tables(self) -> set[str]:
        """The names of the tables that stand where ours would."""
        return set(sa.inspect(self.connection).get_table_names())
