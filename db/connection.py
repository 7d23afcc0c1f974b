"""The one place, with `db.clock`, that knows which database it is: connections, transactions, retries."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from db.clock import boot_id as boot_id
from db.clock import boot_seconds
from db.errors import NoRegistry, RegistryFull, RegistryUnavailable
from db.filesystems import refuse_network
from db.urls import parse_url, secrets, shown
from sweeps.errors import InputError

Answer = TypeVar("Answer")
Values: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]

PATIENCE = 60.0
"""Seconds for which a call is repeated while the database is locked, restarting or unreachable."""
BUSY = 10.0
"""Seconds that a transaction waits for SQLite's write lock before it counts as refused."""
LONGEST_PAUSE = 1.0
# A process stopped in the middle of a transaction must not hold its row locks for ever.
# Without a sort the next job comes from the head of an index, even before Postgres has any statistics.
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15s -c enable_sort=off -c jit=off"
GONE_STATES = ("08", "57P01", "57P02", "57P03", "25P03")
RETRIED_STATES = (*GONE_STATES, "40001", "40P01", "53300")
FULL_STATE = "53100"
SCHEMA_LOCK = 0x715377656570  # "qSweep"
REGISTRATION_LOCK = SCHEMA_LOCK + 1


class Prepared:
    """A statement compiled once, handed straight to the driver."""

    def __init__(self, statement: sa.Executable, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self.constants = dict(compiled.params)
        self.order: Sequence[str] | None = compiled.positiontup
        names = [column[0] for column in compiled._result_columns]
        self.row: Any = namedtuple("Row", names) if names else None

    def bound(self, values: Mapping[str, Any]) -> Any:
        given = {**self.constants, **values}
        if self.order is None:
            return given
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
        prepared, cursor = self.statements.prepared(statement), self.connection.connection.cursor()
        try:
            prepared.start(cursor, values)
            return prepared.answer(cursor)
        finally:
            cursor.close()

    def run(
        self, statement: sa.Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        return self.connection.execute(statement, values)

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing`, in this database's dialect."""
        dialects: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        return dialects[self.connection.dialect.name](table)

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
            return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(sa.Text)))
        given = sa.func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(sa.select(given.c.value))

    def load(self, table: sa.Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Many rows into a table: by COPY on Postgres, several times faster there."""
        names = ", ".join(columns)
        raw = self.connection.connection.cursor()
        try:
            if self.connection.dialect.name == "postgresql":
                with raw.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            else:
                marks = ", ".join("?" * len(columns))
                raw.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows)
        finally:
            raw.close()

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


class Database:
    """One registry database: opens short transactions on it, and repeats those that met a locked door."""

    def __init__(self, url: str | Path, *, create: bool, patience: float = PATIENCE) -> None:
        self._url = parse_url(url)
        self.place = shown(self._url)
        self.patience = patience
        if self._url.get_backend_name() == "sqlite":
            self.engine = _sqlite_engine(Path(str(self._url.database)), create)
        else:
            self.engine = _postgres_engine(self._url)
        self._statements = Statements(self.engine.dialect)
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        alone = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._glancer = self.engine.execution_options(**alone)
        self._writer = self.engine.execution_options(qsweep_begin="BEGIN IMMEDIATE")

    def close(self) -> None:
        self.engine.dispose()

    def prepare(self) -> None:
        """Readies an empty database: write-ahead log on SQLite, so that readers and the writer never wait."""
        if self.engine.dialect.name == "sqlite":
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute(f"PRAGMA busy_timeout = {1000 * BUSY:.0f}")
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                raw.close()

    def write(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers, in one transaction that holds SQLite's write lock from its first statement."""
        return self._patiently(self._writer, work)

    def read(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers about one snapshot (SQLite) or committed state (Postgres). Takes no lock."""
        return self._patiently(self.engine, work)

    def glance(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers by a single statement, which needs no transaction."""
        return self._patiently(self._glancer, work)

    def _patiently(self, engine: sa.Engine, work: Callable[[Transaction], Answer]) -> Answer:
        started, pause, again = time.monotonic(), 0.01, False
        while True:
            try:
                return self._once(engine, work, again)
            except (DBAPIError, self._driver_error) as error:
                if is_full(error):
                    raise RegistryFull(f"{self.place}: the disk is full, nothing was written") from None
                if not is_passing(error):
                    raise
                if time.monotonic() - started > self.patience:
                    raise self._unavailable(error) from None
            # Not the seeded generator of any training: only meant to keep two processes from meeting again.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause, again = min(2 * pause, LONGEST_PAUSE), True

    def _once(self, engine: sa.Engine, work: Callable[[Transaction], Answer], again: bool) -> Answer:
        with engine.begin() as connection:
            try:
                return work(Transaction(connection=connection, statements=self._statements, again=again))
            except self._driver_error as error:
                if is_disconnect(error):  # SQLAlchemy did not see it: this connection must not be used again.
                    connection.invalidate(error)
                raise

    def _unavailable(self, error: Exception) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"{self.place}: the registry did not answer for {self.patience:.0f} s ({self.clean(error)}); "
            "nothing is lost: start the same command again once it does"
        )

    def clean(self, error: Exception) -> str:
        """The first line of the database's own message, without any password."""
        text = str(getattr(error, "orig", None) or error).strip().splitlines()
        line = " ".join(text[0].split()) if text else type(error).__name__
        for secret in secrets(self._url):
            line = line.replace(secret, "***")
        return line


def _sqlite_engine(path: Path, create: bool) -> sa.Engine:
    refuse_network(path)
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder can't be made: {error.strerror}", place=str(path.parent)) from None
    elif not path.exists():
        raise NoRegistry(str(path))
    place = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver must not begin transactions by itself; `_begin` does.
        raw = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY)
        raw.create_function("qsweep_moment", 0, boot_seconds)
        raw.create_function("qsweep_wall", 0, time.time)
        raw.create_function("qsweep_boot", 0, boot_id)
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA cache_size = -65536")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute("PRAGMA busy_timeout = 2")
        return raw

    engine = sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=sa.pool.QueuePool)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: sa.Connection) -> None:
    """Begins on the driver's own connection, and waits for SQLite's write lock if it has to.

    SQLite's own waiting sleeps longer and longer, up to 100 ms, and so starves whoever waits; ours asks
    again after a fraction of a transaction's time.
    """
    raw = connection.connection.driver_connection
    assert raw is not None
    command = connection.get_execution_options().get("qsweep_begin", "BEGIN")
    deadline = time.monotonic() + BUSY
    while True:
        try:
            raw.execute(command)
            return
        except sqlite3.OperationalError as error:
            if _sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.0002, 0.001))


def _postgres_engine(url: sa.URL) -> sa.Engine:
    arguments = {"connect_timeout": 10, "application_name": "qsweep", "options": POSTGRES_OPTIONS}
    # A connection whose other end vanished is noticed within half a minute.
    arguments |= {
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    try:
        return sa.create_engine(url, connect_args=arguments, hide_parameters=True)
    except ImportError:
        raise InputError(
            "the Postgres driver is not installed", place=shown(url), allowed="pip install 'qsweep[postgres]'"
        ) from None


def is_passing(error: Exception) -> bool:
    """Whether the same transaction may succeed when it is begun again."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    raw = _driver_error(error)
    if isinstance(raw, sqlite3.Error):
        return _sqlite_code(raw) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return is_disconnect(raw) or str(getattr(raw, "sqlstate", "")).startswith(RETRIED_STATES)


def is_disconnect(error: BaseException) -> bool:
    """Whether Postgres was not reached, or went away in the middle."""
    if isinstance(error, sqlite3.Error):
        return False
    state = getattr(error, "sqlstate", None)
    if state is None:
        return type(error).__name__ in ("OperationalError", "InterfaceError")
    return str(state).startswith(GONE_STATES)


def is_full(error: Exception) -> bool:
    raw = _driver_error(error)
    return _sqlite_code(raw) == sqlite3.SQLITE_FULL or getattr(raw, "sqlstate", None) == FULL_STATE


def _driver_error(error: Exception) -> BaseException:
    return (error.orig or error) if isinstance(error, DBAPIError) else error


def _sqlite_code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def refused(database: Database, error: Exception) -> str:
    """Why the database can't be used, in one sentence."""
    code = _sqlite_code(_driver_error(error))
    if code == sqlite3.SQLITE_NOTADB:
        return "this file is not a database"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "this file can't be opened for writing"
    return f"this database can't be used: {database.clean(error)}"
