"""Connections to both databases: how they are opened, and how a transaction that met a locked door is repeated."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.clock import boot_id as boot_id
from db.clock import boot_seconds
from db.errors import NoRegistry, RegistryFull, RegistryRefused, RegistryUnavailable
from db.filesystems import refuse_network
from db.readonly import Readable, is_writable, open_readable
from db.refusals import FULL_STATE, driver_error, is_disconnect, is_final_on_opening, is_passing, sqlite_code
from db.stalls import SILENCE, patient_connection
from db.transaction import Statements, Transaction
from db.urls import parse_url, secrets, shown
from sweeps.errors import InputError

Answer = TypeVar("Answer")


PATIENCE = 60.0
"""Seconds for which a call is repeated while the database is locked, restarting or unreachable."""
BUSY = 10.0
"""Seconds that a transaction waits for SQLite's write lock before it counts as refused."""
LONGEST_PAUSE = 1.0
LEAST_ROOM = 1_000_000
"""Bytes: with less on its disk, an I/O error of SQLite means that the disk is full."""
# A process stopped in the middle of a transaction must not hold its row locks for ever.
# Without a sort the next job comes from the head of an index, even before Postgres has any statistics.
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15s -c enable_sort=off -c jit=off"


class Mode(Enum):
    """How a transaction begins; see the methods of Database."""

    WRITE = auto()
    READ = auto()
    SNAPSHOT = auto()
    GLANCE = auto()


BEGIN = "qsweep_begin"
"""Where a connection keeps the words that its next transaction begins with."""
BEGINS: dict[str, dict[Mode, str]] = {
    "sqlite": {Mode.WRITE: "BEGIN IMMEDIATE", Mode.READ: "BEGIN", Mode.SNAPSHOT: "BEGIN", Mode.GLANCE: ""},
    "postgresql": {
        Mode.WRITE: "BEGIN ISOLATION LEVEL READ COMMITTED",
        Mode.READ: "BEGIN ISOLATION LEVEL READ COMMITTED",
        Mode.SNAPSHOT: "BEGIN ISOLATION LEVEL REPEATABLE READ",
        Mode.GLANCE: "",
    },
}


class Database:
    """One registry database: opens short transactions on it, and repeats those that met a locked door."""

    def __init__(
        self, url: str | Path, *, create: bool, patience: float | None = None, silence: float | None = None
    ) -> None:
        self._url = parse_url(url)
        self.place = shown(self._url)
        self.patience = PATIENCE if patience is None else patience
        self._readable: Readable | None = None
        self.opened = False
        """Whether a transaction has succeeded: before, a file that can't be used is a wrong one."""
        if self._url.get_backend_name() == "sqlite":
            path = Path(str(self._url.database))
            if path.exists() and not is_writable(path):
                self._readable = open_readable(path)
            self.engine = _sqlite_engine(path, create, self._readable)
        else:
            self.engine = _postgres_engine(self._url, SILENCE if silence is None else silence)
        self._statements = Statements(self.engine.dialect)
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        self._begins = BEGINS[self.engine.dialect.name]
        self._spare: list[sa.Connection] = []

    @property
    def read_only(self) -> bool:
        """Whether it lies where nothing can be written: it can be looked at, as it is now."""
        return self._readable is not None

    @property
    def chains(self) -> bool:
        """Whether one statement may change several tables."""
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
        self.engine.dispose()
        if self._readable is not None:
            self._readable.close()

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
        """What `work` answers, in one transaction that holds SQLite's write lock from its first statement.

        Raises InputError where nothing can be written.
        """
        if self._readable is not None:
            raise InputError(
                "this registry can only be read: you can't write there", place=self.place, allowed=self._readable.advice
            )
        return self._patiently(Mode.WRITE, work)

    def read(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers about one snapshot (SQLite) or committed state (Postgres). Takes no lock."""
        return self._patiently(Mode.READ, work)

    def snapshot(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers by several statements about one and the same state, on Postgres too."""
        return self._patiently(Mode.SNAPSHOT, work)

    def glance(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers by a single statement, which needs no transaction."""
        return self._patiently(Mode.GLANCE, work)

    def _patiently(self, mode: Mode, work: Callable[[Transaction], Answer]) -> Answer:
        started, pause, again = time.monotonic(), 0.01, False
        while True:
            try:
                answer = self._once(mode, work, again)
                self.opened = True
                return answer
            except (DBAPIError, self._driver_error) as error:
                if self._is_full(error):
                    raise RegistryFull(f"{self.place}: the disk is full, nothing was written") from None
                if not is_passing(error) or (not self.opened and is_final_on_opening(error)):
                    raise self._refused(error) from None
                if (waited := time.monotonic() - started) > self.patience:
                    raise self._unavailable(error, waited) from None
            # Not the seeded generator of any training: only meant to keep two processes from meeting again.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause, again = min(2 * pause, LONGEST_PAUSE), True

    def _once(self, mode: Mode, work: Callable[[Transaction], Answer], again: bool) -> Answer:
        # A connection is kept between transactions: SQLAlchemy's own pool takes longer than a short transaction.
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = self.engine.connect()
        try:
            connection.info[BEGIN] = self._begins[mode]
            if mode is not Mode.GLANCE:
                connection.begin()
            answer = work(Transaction(connection=connection, statements=self._statements, again=again))
            connection.commit()
        except BaseException as error:
            if isinstance(error, self._driver_error) and is_disconnect(error):
                connection.invalidate(error)  # SQLAlchemy did not see it: this connection must not be used again.
            connection.close()  # rolls back
            raise
        self._spare.append(connection)
        return answer

    def _is_full(self, error: Exception) -> bool:
        raw = driver_error(error)
        if sqlite_code(raw) == sqlite3.SQLITE_IOERR:
            # SQLite says no more than this when it can't make its log, or the index of its log.
            return shutil.disk_usage(Path(str(self._url.database)).parent).free < LEAST_ROOM
        return sqlite_code(raw) == sqlite3.SQLITE_FULL or getattr(raw, "sqlstate", None) == FULL_STATE

    def _unavailable(self, error: Exception, waited: float) -> RegistryUnavailable:
        answered = getattr(driver_error(error), "sqlstate", None) and not is_disconnect(driver_error(error))
        what, again = ("refused", "no longer does") if answered else ("did not answer", "does")
        return RegistryUnavailable(
            f"{self.place}: the registry {what} for {waited:.0f} s ({self.clean(error)}); "
            f"nothing is lost: start the same command again once it {again}"
        )

    def _refused(self, error: Exception) -> RegistryRefused:
        return RegistryRefused(f"{self.place}: {refused(self, error)}", database_error=refused(self, error))

    def clean(self, error: Exception) -> str:
        """The first line of the database's own message, without any password."""
        text = str(getattr(error, "orig", None) or error).strip().splitlines()
        line = " ".join(text[0].split()) if text else type(error).__name__
        for secret in secrets(self._url):
            line = line.replace(secret, "***")
        return line


def _sqlite_engine(path: Path, create: bool, readable: Readable | None) -> sa.Engine:
    if readable is None:
        refuse_network(path)
    if create and readable is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder can't be made: {error.strerror}", place=str(path.parent)) from None
    elif not path.exists():
        raise NoRegistry(str(path))
    place = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}" if readable is None else readable.uri

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
    command = connection.info.get(BEGIN)
    if not command:
        return
    raw = connection.connection.driver_connection
    assert raw is not None
    deadline = time.monotonic() + BUSY
    while True:
        try:
            raw.execute(command)
            return
        except sqlite3.OperationalError as error:
            if sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.0002, 0.001))


def _postgres_engine(url: sa.URL, silence: float) -> sa.Engine:
    arguments: dict[str, str | int] = {"application_name": "qsweep", "options": POSTGRES_OPTIONS}
    arguments |= {} if "connect_timeout" in url.query else {"connect_timeout": 10}
    # A connection whose other end vanished is noticed within half a minute.
    arguments |= {
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    try:
        # The driver begins nothing by itself; `_begin` does.
        engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True, isolation_level="AUTOCOMMIT")
    except ImportError:
        raise InputError(
            "the Postgres driver is not installed", place=shown(url), allowed="pip install 'qsweep[postgres]'"
        ) from None
    sa.event.listen(engine, "begin", _begin)

    def connect(dialect: Any, record: Any, given: list[Any], named: dict[str, Any]) -> Any:
        opened = patient_connection().connect(*given, **named)
        opened.silence = silence
        return opened

    sa.event.listen(engine, "do_connect", connect)
    return engine


def refused(database: Database, error: Exception) -> str:
    """Why the database can't be used, in one sentence."""
    code = sqlite_code(driver_error(error))
    if code == sqlite3.SQLITE_NOTADB:
        return "this file is not a database"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "this file can't be opened for writing"
    return f"this database can't be used: {database.clean(error)}"
