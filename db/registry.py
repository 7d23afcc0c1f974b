"""The job registry: what every process of a sweep agrees on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qsweep.db import upgrade
from qsweep.db.connection import Database

if TYPE_CHECKING:
    from qsweep.db.again import Launches
    from qsweep.db.agents import Agents
    from qsweep.db.bundles import Bundles
    from qsweep.db.calibrations import Calibrations
    from qsweep.db.catalogue import Catalogue
    from qsweep.db.custody import Results
    from qsweep.db.history import History
    from qsweep.db.merges import Merges
    from qsweep.db.queue import Queue
    from qsweep.db.sweeps import Sweeps
    from qsweep.db.trials import Trials


class Registry:
    """Jobs, sweeps and agents in one SQLite file or one Postgres database. Each part says its laws at its class.

    The laws, held on both databases by the same suite (`tests/db`):

    1. At most one live lease a job (`db.queue`).
    2. Exactly one counted result a job (`db.queue`).
    3. A dead agent's jobs run again within two leases, without a repair command (`db.agents`).
    4. Each failure has a class and a budget (`db.queue`, `db.budgets`).
    5. Reading never changes state (`db.catalogue`, `db.history`).

    Every change of a job goes through `db.moves`, which holds it against the table of transitions and writes one event;
    heartbeats write none. Each call is one transaction of its own, repeated with jitter while the database is locked,
    restarting or unreachable, and safe to repeat when the connection broke before the answer came. A part is imported
    when it is asked for: what only looks needs no SQLAlchemy.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str | Path, *, create: bool = False) -> Self:
        """The registry at `url`: a path, `sqlite:///…` or `postgresql+psycopg://…`.

        Raises InputError, with nothing changed, if it is missing (unless `create`), is no registry, has
        another schema version, can't be reached, or is a SQLite file on a network file system.
        """
        return cls(upgrade.open_database(url, create=create))

    @classmethod
    def open_if_present(cls, url: str | Path) -> Self | None:
        """The registry at `url`; None if there is none yet. Raises InputError as `open` does."""
        database = upgrade.open_if_present(url)
        return None if database is None else cls(database)

    @staticmethod
    def upgrade(url: str | Path) -> tuple[str, str]:
        """Brings the schema to this version; returns the versions before and after."""
        return upgrade.upgrade(url)

    def check_version(self) -> None:
        """Raise InputError if its schema is another one by now: a newer program has upgraded it."""
        upgrade.check_version(self._database)

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return self._database.place

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Registry({self.url!r})"

    @property
    def read_only(self) -> bool:
        """Whether this registry lies where nothing can be written: it can be looked at."""
        return self._database.read_only

    @cached_property
    def queue(self) -> Queue:
        """What a working agent asks and says."""
        from qsweep.db.queue import Queue

        return Queue(self._database)

    @cached_property
    def trials(self) -> Trials:
        """Trials of tuning runs."""
        from qsweep.db.trials import Trials

        return Trials(self._database)

    @cached_property
    def agents(self) -> Agents:
        """Enlisting agents, and ending them."""
        from qsweep.db.agents import Agents

        return Agents(self._database)

    @cached_property
    def bundles(self) -> Bundles:
        """Jobs that leave for a machine without a registry."""
        from qsweep.db.bundles import Bundles

        return Bundles(self._database)

    @cached_property
    def calibrations(self) -> Calibrations:
        """Slots and forms."""
        from qsweep.db.calibrations import Calibrations

        return Calibrations(self._database)

    @cached_property
    def sweeps(self) -> Sweeps:
        """Registering sweeps and controlling them."""
        from qsweep.db.sweeps import Sweeps

        return Sweeps(self._database)

    @cached_property
    def launches(self) -> Launches:
        """Launches of sweeps that are there already."""
        from qsweep.db.again import Launches

        return Launches(self._database)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What stands here."""
        from qsweep.db.catalogue import Catalogue

        return Catalogue(self._database)

    @cached_property
    def history(self) -> History:
        """What became of the jobs."""
        from qsweep.db.history import History

        return History(self._database)

    @cached_property
    def results(self) -> Results:
        """Whose the files are, and which count."""
        from qsweep.db.custody import Results

        return Results(self._database)

    @cached_property
    def merges(self) -> Merges:
        """Merges of results files."""
        from qsweep.db.merges import Merges

        return Merges(self._database)
