"""Connections to both databases: how they are opened, and how a transaction that met a locked door is repeated."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qsweep.db.asking import Asking, SqliteAsking
from qsweep.db.clock import boot_id as boot_id
from qsweep.db.clock import boot_seconds
from qsweep.db.errors import NoRegistry, RegistryFull, RegistryRefused, RegistryUnavailable
from qsweep.db.filesystems import refuse_network
from qsweep.db.readonly import Readable, is_writable, open_readable
from qsweep.db.refusals import (
    FULL_STATE,
    LOCKED_CODES,
    driver_error,
    is_disconnect,
    is_final_on_opening,
    is_passing,
    sqlite_code,
)
from qsweep.db.stalls import SILENCE
from qsweep.db.urls import Address, parse_url
from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from qsweep.db.transaction import Transaction

Answer = TypeVar("Answer")


PATIENCE = 60.0
"""Seconds for which a call is repeated while the database is locked, restarting or unreachable."""
BUSY = 10.0
"""Seconds that a transaction waits for SQLite's write lock before it counts as refused."""
LONGEST_PAUSE = 1.0
SPARE = 2
"""Connections that a process keeps: a server of a large fleet has not many to give."""
LEAST_ROOM = 1_000_000
"""Bytes: with less on its disk, an I/O error of SQLite means that the disk is full."""


class Mode(Enum):
    """How a transaction begins; see the methods of Database."""

    WRITE = auto()
    READ = auto()
    SNAPSHOT = auto()


BEGIN = "qsweep_begin"
"""Where a connection keeps the words that its next transaction begins with."""
BEGINS: dict[str, dict[Mode, str]] = {
    "sqlite": {Mode.WRITE: "BEGIN IMMEDIATE", Mode.READ: "BEGIN", Mode.SNAPSHOT: "BEGIN"},
    "postgresql": {
        Mode.WRITE: "BEGIN ISOLATION LEVEL READ COMMITTED",
        Mode.READ: "BEGIN ISOLATION LEVEL READ COMMITTED",
        Mode.SNAPSHOT: "BEGIN ISOLATION LEVEL REPEATABLE READ",
    },
}


class Database:
    """One registry database: opens short transactions on it, and repeats those that met a locked door.

    A SQLite file that is only looked at is asked by its driver; SQLAlchemy is imported when something else is done.
    """

    def __init__(
        self, url: str | Path, *, create: bool, patience: float | None = None, silence: float | None = None
    ) -> None:
        self.address: Address = parse_url(url)
        self.place = self.address.shown
        self.patience = PATIENCE if patience is None else patience
        self._silence = SILENCE if silence is None else silence
        self._readable: Readable | None = None
        self.opened = False
        """Whether a transaction has succeeded: before, a file that can't be used is a wrong one."""
        self._driver_error: type[Exception] = sqlite3.Error
        self._errors: tuple[type[Exception], ...] = (sqlite3.Error,)
        """What a transaction raises when the database refuses it."""
        self._spare: list[sa.Connection] = []
        self._spare_askers: list[sqlite3.Connection] = []
        self._pulse: sqlite3.Connection | None = None
        if self.address.path is not None:
            path = self.address.path
            if path.exists() and not is_writable(path):
                self._readable = open_readable(path)
            self._file = _sqlite_file(path, create, self._readable)

    @cached_property
    def engine(self) -> sa.Engine:
        """What opens connections for SQLAlchemy."""
        from sqlalchemy.exc import DBAPIError

        from qsweep.db.engines import postgres_engine, sqlite_engine

        if self.address.url is None:
            engine = sqlite_engine(lambda: _sqlite_connection(self._file), _begin_marked)
        else:
            engine = postgres_engine(self.address.url, self.place, self._silence, _begin_marked)
        self._driver_error = engine.dialect.loaded_dbapi.Error
        self._errors = (DBAPIError, self._driver_error)
        return engine

    @property
    def dialect(self) -> str:
        """The name by which SQLAlchemy knows this kind of database."""
        return "sqlite" if self.address.url is None else "postgresql"

    @property
    def read_only(self) -> bool:
        """Whether it lies where nothing can be written: it can be looked at, as it is now."""
        return self._readable is not None

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
        while self._spare_askers:
            self._spare_askers.pop().close()
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if "engine" in vars(self):
            self.engine.dispose()
        if self._readable is not None:
            self._readable.close()

    def prepare(self) -> None:
        """Readies an empty database: write-ahead log on SQLite, so that readers and the writer never wait."""
        if self.dialect == "sqlite":
            raw = _sqlite_connection(self._file)
            try:
                raw.execute(f"PRAGMA busy_timeout = {1000 * BUSY:.0f}")
                _switch_to_log(raw)
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
        return self._patiently(lambda again: self._once(Mode.WRITE, work, again))

    def look(self, work: Callable[[Asking], Answer]) -> Answer:
        """What `work` answers by plain SQL, all about one and the same state. Takes no lock."""
        if self.dialect == "sqlite":
            return self._patiently(lambda again: self._asked_once(work))
        return self.snapshot(work)

    def note(self, work: Callable[[Asking], Answer]) -> Answer:
        """What `work` answers by plain SQL that may change something. On SQLite it holds the write lock."""
        if self.dialect == "sqlite" and self._readable is None:
            return self._patiently(lambda again: self._asked_once(work, "BEGIN IMMEDIATE"))
        return self.write(work)

    def read(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers about one snapshot (SQLite) or committed state (Postgres). Takes no lock."""
        return self._patiently(lambda again: self._once(Mode.READ, work, again))

    def snapshot(self, work: Callable[[Transaction], Answer]) -> Answer:
        """What `work` answers by several statements about one and the same state, on Postgres too."""
        return self._patiently(lambda again: self._once(Mode.SNAPSHOT, work, again))

    def pulse(self) -> int | None:
        """A number that is another one once anybody has changed something; None where it would cost a query."""
        if self.dialect != "sqlite":
            return None
        if self._pulse is None:
            self._pulse = _sqlite_connection(self._file)
        pulse = self._pulse
        return int(self._patiently(lambda again: pulse.execute("PRAGMA data_version").fetchone()[0]))

    def _patiently(self, once: Callable[[bool], Answer]) -> Answer:
        """What `once` answers, which is told whether it is asked again."""
        started, pause, again = time.monotonic(), 0.01, False
        while True:
            try:
                answer = once(again)
                self.opened = True
                return answer
            except self._errors as error:
                if self._is_full(error):
                    raise RegistryFull(f"{self.place}: the disk is full, nothing was written") from None
                if not is_passing(error) or (not self.opened and is_final_on_opening(error)):
                    raise self._refused(error) from None
                if (waited := time.monotonic() - started) > self.patience:
                    raise self._unavailable(error, waited) from None
            # Not the seeded generator of any training: only meant to keep two processes from meeting again.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause, again = min(2 * pause, LONGEST_PAUSE), True

    def _asked_once(self, work: Callable[[Asking], Answer], command: str = "BEGIN") -> Answer:
        try:
            connection = self._spare_askers.pop()
        except IndexError:
            connection = _sqlite_connection(self._file)
        try:
            begin(connection, command)
            answer = work(SqliteAsking(connection))
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._spare_askers.append(connection)
        return answer

    def _once(self, mode: Mode, work: Callable[[Transaction], Answer], again: bool) -> Answer:
        from qsweep.db.transaction import Transaction

        # A connection is kept between transactions: SQLAlchemy's own pool takes longer than a short transaction.
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = self.engine.connect()
        try:
            connection.info[BEGIN] = BEGINS[self.dialect][mode]
            connection.begin()
            answer = work(Transaction(connection=connection, again=again))
            connection.commit()
        except BaseException as error:
            if isinstance(error, self._driver_error) and is_disconnect(error):
                connection.invalidate(error)  # SQLAlchemy did not see it: this connection must not be used again.
            connection.close()  # rolls back
            raise
        if len(self._spare) < SPARE:
            self._spare.append(connection)
        else:
            connection.close()
        return answer

    def _is_full(self, error: Exception) -> bool:
        raw = driver_error(error)
        if sqlite_code(raw) == sqlite3.SQLITE_IOERR:
            # SQLite says no more than this when it can't make its log, or the index of its log.
            return self.address.path is not None and shutil.disk_usage(self.address.path.parent).free < LEAST_ROOM
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
        for secret in self.address.secrets:
            line = line.replace(secret, "***")
        return line


def _sqlite_file(path: Path, create: bool, readable: Readable | None) -> str:
    """The URI by which SQLite opens the file. Raises InputError if it can't be there."""
    if readable is None:
        refuse_network(path)
    if create and readable is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder can't be made: {error.strerror}", place=str(path.parent)) from None
    elif not path.exists():
        raise NoRegistry(str(path))
    return f"{path.as_uri()}?mode={'rwc' if create else 'rw'}" if readable is None else readable.uri


def _switch_to_log(raw: sqlite3.Connection) -> None:
    """SQLite itself does not wait for another process that switches at the same time, whatever its busy timeout."""
    deadline = time.monotonic() + BUSY
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if sqlite_code(error) not in LOCKED_CODES or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _sqlite_connection(file: str) -> sqlite3.Connection:
    # isolation_level None: the driver must not begin transactions by itself; `begin` does.
    raw = sqlite3.connect(file, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY)
    raw.create_function("qsweep_moment", 0, boot_seconds)
    raw.create_function("qsweep_wall", 0, time.time)
    raw.create_function("qsweep_boot", 0, boot_id)
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA cache_size = -65536")
    raw.execute("PRAGMA temp_store = MEMORY")
    raw.execute("PRAGMA busy_timeout = 2")
    return raw


def _begin_marked(connection: sa.Connection) -> None:
    """Begins as the connection's mark says; without one, not yet."""
    if command := connection.info.get(BEGIN):
        begin(connection.connection.driver_connection, command)


def begin(raw: Any, command: str) -> None:
    """Begins on the driver's own connection, and waits for SQLite's write lock if it has to.

    SQLite's own waiting sleeps longer and longer, up to 100 ms, and so starves a process that waits; ours asks
    again after a fraction of a transaction's time.
    """
    deadline = time.monotonic() + BUSY
    while True:
        try:
            raw.execute(command)
            return
        except sqlite3.OperationalError as error:
            if sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.0002, 0.001))


def refused(database: Database, error: Exception) -> str:
    """Why the database can't be used, in one sentence."""
    code = sqlite_code(driver_error(error))
    if code == sqlite3.SQLITE_NOTADB:
        return "this file is not a database"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "this file can't be opened for writing"
    return f"this database can't be used: {database.clean(error)}"
