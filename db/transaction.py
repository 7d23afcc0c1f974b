"""One open transaction: statements prepared once, and what the two databases say differently."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from qsweep.db.asking import worded

Values: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]

SCHEMA_LOCK = 0x715377656570  # "qSweep"
REGISTRATION_LOCK = SCHEMA_LOCK + 1


Cell: TypeAlias = str | int | float | bool | None
ODD = re.compile(r"[\\\t\n\r]")
ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
CURSOR = "qsweep_cursor"
"""Where a connection keeps the cursor of its quick statements."""


class Prepared:
    """A statement compiled once, handed straight to the driver."""

    def __init__(self, statement: sa.Executable, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self.order: Sequence[str] | None = compiled.positiontup
        self.constants = {
            name: compiled.params[name] for bind, name in compiled.bind_names.items() if not bind.required
        }
        if self.order is None:  # written into the text, which spares both sides a value at each execution
            for name, value in self.constants.items():
                self.sql = self.sql.replace(f"%({name})s", _literal(value))
            self.constants = {}
        names = [column[0] for column in compiled._result_columns]
        self.row: Any = namedtuple("Row", names) if names else None

    def bound(self, values: Mapping[str, Any]) -> Any:
        if self.order is None:
            return values
        given = {**self.constants, **values}
        return [given.get(name) for name in self.order]

    def start(self, cursor: Any, values: Values) -> None:
        if isinstance(values, Mapping):
            cursor.execute(self.sql, self.bound(values))
        elif len(values) == 1:  # Drivers take a detour for many rows.
            cursor.execute(self.sql, self.bound(values[0]))
        else:
            cursor.executemany(self.sql, [self.bound(one) for one in values])

    def answer(self, cursor: Any) -> list[Any]:
        return [] if self.row is None else [self.row._make(row) for row in cursor.fetchall()]


def _literal(value: str | float | bool | None) -> str:
    """A constant of our own statements as Postgres reads it."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''").replace("%", "%%") + "'"
    return str(value)  # numbers, True and False


def _copied(value: Cell) -> str:
    """A value as COPY reads it."""
    if isinstance(value, str):
        return value.translate(ESCAPED) if ODD.search(value) else value
    if value is None:
        return "\\N"
    return repr(value)  # numbers, True and False


class Statements:
    """The prepared statements of one database."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._prepared: dict[sa.Executable, Prepared] = {}

    def prepared(self, statement: sa.Executable) -> Prepared:
        found = self._prepared.get(statement)
        if found is None:
            found = self._prepared[statement] = Prepared(statement, self._dialect)
        return found


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """One open transaction. `again`: it ran before, and may have been committed without our hearing of it."""

    connection: sa.Connection
    statements: Statements
    again: bool = False

    def quick(self, statement: sa.Executable, values: Values) -> list[Any]:
        """The rows of a statement that is kept for ever, past SQLAlchemy's execution and result layers.

        These cost more than the statement itself. Booleans come as SQLite has them: 0 and 1. With many
        values there is no answer.
        """
        prepared, cursor = self.statements.prepared(statement), self._cursor()
        prepared.start(cursor, values)
        return prepared.answer(cursor)

    def ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """As `db.asking` has it."""
        cursor = self._cursor()
        cursor.execute(worded(sql, self.connection.dialect.name), values or {})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def run(
        self, statement: sa.Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
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
            with self._cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                copy.write(text)
        else:
            marks, given = ", ".join("?" * (len(columns) + len(same))), tuple(same.values())
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
            self._cursor().executemany(statement, [(*row, *given) for row in rows])

    def _cursor(self) -> Any:
        """The driver's own cursor, one for as long as the connection lives: each answer is read whole at once."""
        kept = self.connection.info
        if CURSOR not in kept:
            kept[CURSOR] = self.connection.connection.cursor()
        return kept[CURSOR]

    def lock_schema(self) -> None:
        """Waits until no other process makes or migrates the tables. SQLite's write lock does so already."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))

    def lock_registration(self) -> None:
        """Waits until no other process registers jobs. SQLite's write lock does so already."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({REGISTRATION_LOCK})"))

    def schema_tables(self) -> set[str]:
        """The names of the tables that stand where ours would."""
        return set(sa.inspect(self.connection).get_table_names())
