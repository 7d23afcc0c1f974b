"""The one place that knows which database it is: URLs, connections, transactions, clocks, retries."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from db.errors import NoRegistry, RegistryFull, RegistryUnavailable
from db.filesystems import refuse_network
from sweeps.errors import InputError

Answer = TypeVar("Answer")

PATIENCE = 60.0
"""Seconds for which a call is repeated while the database is locked, restarting or unreachable."""
BUSY = 10_000
"""Milliseconds that SQLite itself waits for a lock before we begin again, with jitter."""
LONGEST_PAUSE = 1.0
# A process stopped in the middle of a transaction must not hold its row locks for ever.
# Without a sort the next job comes from the head of an index, even before Postgres has any statistics.
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15s -c enable_sort=off -c jit=off"
RETRIED_STATES = ("08", "40001", "40P01", "57P01", "57P02", "57P03", "25P03", "53300")
FULL_STATE = "53100"
SCHEMA_LOCK = 0x715377656570  # "qSweep"


class moment(FunctionElement[float]):  # noqa: N801 - it stands for a function of SQL
    """The clock that leases are measured by, in seconds, evaluated anew at each use."""

    type = sa.Double()
    inherit_cache = True


class wall(FunctionElement[float]):  # noqa: N801
    """Unix seconds, for people to read. Nothing is decided by it."""

    type = sa.Double()
    inherit_cache = True


class boot(FunctionElement[str]):  # noqa: N801
    """Which run of that clock this is: the boot id on SQLite; always '' on Postgres, whose clock has one."""

    type = sa.String()
    inherit_cache = True


@compiles(moment, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_moment()"


@compiles(wall, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_wall()"


@compiles(boot, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "qsweep_boot()"


@compiles(moment, "postgresql")
@compiles(wall, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "cast(extract(epoch from clock_timestamp()) as double precision)"


@compiles(boot, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "''"


def boot_seconds() -> float:
    """Seconds since boot, time asleep included where the system can tell. No change of the date moves it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@cache
def boot_id() -> str:
    """What tells this boot of the machine from the next one."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    if linux.exists():
        return linux.read_text().strip()
    asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """One open transaction. `again`: it ran before, and may have been committed without our hearing of it."""

    connection: sa.Connection
    again: bool = False

    def run(
        self, statement: sa.Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        return self.connection.execute(statement, values)  # type: ignore[return-value]

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing`, in this database's dialect."""
        dialects: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        return dialects[self.connection.dialect.name](table)

    def count(self, statement: sa.Executable) -> int:
        """Runs an INSERT from a SELECT; how many rows it inserted."""
        return int(self.run(statement.execution_options(preserve_rowcount=True)).rowcount)

    def load(self, table: sa.Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Many rows into a table that nobody else sees: by COPY on Postgres, several times faster there."""
        names = ", ".join(columns)
        raw = self.connection.connection.cursor()
        try:
            if self.connection.dialect.name == "postgresql":
                with raw.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:  # type: ignore[attr-defined]
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
        self._writer = self.engine.execution_options(qsweep_begin="BEGIN IMMEDIATE")

    def close(self) -> None:
        self.engine.dispose()

    def prepare(self) -> None:
        """Readies an empty database: write-ahead log on SQLite, so that readers and the writer never wait."""
        if self.engine.dialect.name == "sqlite":
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                raw.close()

    def write(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers, in one transaction that holds SQLite's write lock from its first statement."""
        return self._patiently(self._writer, work)

    def read(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers about one snapshot (SQLite) or committed state (Postgres). Takes no lock."""
        return self._patiently(self.engine, work)

    def _patiently(self, engine: sa.Engine, work: Callable[[Transaction], Answer]) -> Answer:
        started, pause, again = time.monotonic(), 0.01, False
        while True:
            try:
                with engine.begin() as connection:
                    return work(Transaction(connection=connection, again=again))
            except DBAPIError as error:
                if is_full(error):
                    raise RegistryFull(f"{self.place}: the disk is full, nothing was written") from None
                if not is_passing(error):
                    raise
                if time.monotonic() - started > self.patience:
                    raise self.unavailable(error) from None
            # Not the seeded generator of any training: only meant to keep two processes from meeting again.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause, again = min(2 * pause, LONGEST_PAUSE), True

    def unavailable(self, error: DBAPIError) -> RegistryUnavailable:
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


def parse_url(url: str | Path) -> sa.URL:
    """The SQLAlchemy URL of a registry. A text without `://` is the path of a SQLite file."""
    text = str(url)
    allowed = "allowed: the path of a SQLite file, or postgresql+psycopg://user:password@host:port/database"
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        parsed = sa.make_url(text)
    except (ArgumentError, ValueError):
        # Not the text itself: a mistyped URL still holds its password.
        raise InputError("the registry's URL can't be read", allowed=allowed) from None
    scheme = parsed.get_backend_name()
    if scheme in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if scheme == "sqlite" and parsed.database and parsed.database != ":memory:":
        return sa.URL.create("sqlite", database=str(Path(parsed.database).expanduser().absolute()))
    raise InputError(f"{scheme!r} holds no registry", place="registry URL", allowed=allowed)


SECRET_KEYS = ("password", "sslpassword", "passfile")


def shown(url: sa.URL) -> str:
    """The URL (for SQLite the path) without its secrets."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    hidden = {key: "***" if key in SECRET_KEYS else value for key, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True)


def secrets(url: sa.URL) -> list[str]:
    given = [url.password, *(url.query.get(key) for key in SECRET_KEYS)]
    return [str(one) for one in given if one]


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
        raw = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY / 1000)
        raw.create_function("qsweep_moment", 0, boot_seconds)
        raw.create_function("qsweep_wall", 0, time.time)
        raw.create_function("qsweep_boot", 0, boot_id)
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA cache_size = -65536")
        raw.execute("PRAGMA temp_store = MEMORY")
        return raw

    engine = sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=sa.pool.QueuePool)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("qsweep_begin", "BEGIN"))


def _postgres_engine(url: sa.URL) -> sa.Engine:
    arguments = {"connect_timeout": 10, "application_name": "qsweep", "options": POSTGRES_OPTIONS}
    # A connection whose other end vanished is noticed within half a minute.
    arguments |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
    try:
        return sa.create_engine(url, connect_args=arguments, hide_parameters=True)
    except ImportError:
        raise InputError(
            "the Postgres driver is not installed", place=shown(url), allowed="pip install 'qsweep[postgres]'"
        ) from None


def is_passing(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed when it is begun again."""
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # The server was not reached, or went away in the middle.
        return isinstance(error, OperationalError | InterfaceError)
    return str(state).startswith(RETRIED_STATES)


def is_full(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return getattr(error.orig, "sqlstate", None) == FULL_STATE


def refused(database: Database, error: DBAPIError) -> str:
    """Why the database can't be used, in one sentence."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return "this file is not a database"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "this file can't be opened for writing"
    return f"this database can't be used: {database.clean(error)}"
