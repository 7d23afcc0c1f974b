"""Where answers come from: everything that is known of one sweep, from a registry or from an exported bundle."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from qsweep.db.home import Home
from qsweep.db.losses import Lost, read_sound, told
from qsweep.db.naming import is_meant
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, VanishedResults
from qsweep.db.rows import Sweep
from qsweep.db.schema import ROW_KINDS
from qsweep.db.views import VIEWS
from qsweep.sweeps.errors import InputError, LostResults, nearest
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec

if TYPE_CHECKING:
    import pandas as pd


class Source(ABC):
    """One sweep as Arrow tables: its results (`runs`, `epochs`, …) and what the registry says of it.

    Laws, so that an answer is the same from a registry and from the bundle that was exported of it:

    1. `read` gives jobs in the order of their registration, and the rows of one job in the order in which
       they were written; events in their own order.
    2. Results are those that the registry counts, at one moment for all of `read`: the same trainings stand
       behind every table made from one source.
    3. Reading changes nothing.
    """

    sweep: Sweep
    """The variant as it is registered."""
    lost: list[Lost]
    """What could not be read so far, of jobs that count: `read` goes on without."""
    called: str
    """What SQL calls it: NAME if a bare NAME means it, else NAME@VARIANT."""

    @abstractmethod
    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """These columns (or all) of a kind of result or of `jobs`, `attempts` or `events`.

        Raises InputError for an unknown name. Rows that are lost are left out, and stand in `lost`.
        """

    def look(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """`read`, as it is looked at while a sweep runs: `epochs` also of trainings that are not done, after those
        that count, and with a column `final` that tells them apart. No table or figure is made of these."""
        if name != LIVE:
            return self.read(name, columns)
        schema = shown_schema(name)
        names = list(schema.names if columns is None else columns)
        check_columns(name, [one for one in names if one != FINAL.name])
        running = self._running()
        counted = self.read(name, [one for one in names if one != FINAL.name] or ["job"])
        counted = counted.append_column(FINAL, pa.repeat(pa.scalar(True), counted.num_rows))
        return pa.concat_tables([counted.select(names), running.select(names)])

    def _running(self) -> pa.Table:
        """The epochs so far of trainings that are not done, with the columns of `look`."""
        return shown_schema(LIVE).empty_table()

    @abstractmethod
    def place_of(self, kind: str, publication: str) -> str:
        """The file in which the rows of that kind and publication lie, for a person to find it."""

    def remark(self) -> str | None:
        """What is missing from the answers so far, and what to do about it; None if nothing is."""
        return None

    @property
    def title(self) -> str:
        return self.sweep.title

    @cached_property
    def spec(self) -> Spec:
        """The resolved specification."""
        return Spec.from_json(self.sweep.spec, place=self.title)

    @cached_property
    def jobs(self) -> Sequence[Job]:
        """Every job that the specification spans, registered or not."""
        return self.spec.jobs()

    def frame(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """`read` as a pandas DataFrame."""
        frame: pd.DataFrame = self.read(name, columns).to_pandas()
        return frame


class RegistrySource(Source):
    """A sweep of a registry, as it stands now. The views in `together` are of the same moment as the results; these are
    of the jobs `ids` alone, if any are given."""

    def __init__(
        self,
        home: Home,
        registry: Registry,
        sweep: Sweep,
        *,
        together: Sequence[str] = (),
        ids: Sequence[int] | None = None,
    ) -> None:
        self.sweep = sweep
        self.called = sweep.name if is_meant(sweep, registry.catalogue.sweeps()) else sweep.title
        self._registry = registry
        self._store = ResultStore(home.store)
        self._together = together
        self._ids = ids
        self.lost = []

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        check_columns(name, columns)
        if name in self._together:
            table = self._moment[1][name]
            return table if columns is None else table.select(list(columns))
        if name in VIEWS:
            return self._registry.catalogue.view(name, self.sweep.id, columns)
        try:
            return self._store.read(name, self._moment[0], columns)
        except VanishedResults:  # a compaction has replaced the files
            table, lost = read_sound(self._store, name, self._moved(), columns)
        except DamagedResults:
            table, lost = read_sound(self._store, name, self._moment[0], columns)
        self.lost += [one for one in lost if one not in self.lost]
        return table

    def remark(self) -> str | None:
        return told(self.lost, self.title)

    def _running(self) -> pa.Table:
        curves = self._registry.history.curves(self.sweep.id)
        done = set(self._moment[0]["job"].to_pylist())  # it may have finished since
        rows = [
            {"job": one.job, "attempt": one.attempt, FINAL.name: False} | dict(row)
            for one in curves
            if one.job not in done
            for row in one.epochs
        ]
        return pa.Table.from_pylist(rows, schema=shown_schema(LIVE))

    def place_of(self, kind: str, publication: str) -> str:
        return self._store.path(kind, publication)

    @cached_property
    def _moment(self) -> tuple[pa.Table, dict[str, pa.Table]]:
        """The pointers, and the views of the same moment."""
        return self._registry.catalogue.snapshot(self.sweep.id, self._together, self._ids)

    def _moved(self) -> pa.Table:
        """Where the counted rows of that moment lie now."""
        then, views = self._moment
        keys = ["job", "attempt", "kind"]
        numbered = then.drop(["publication"]).append_column("order", pa.array(range(then.num_rows)))
        found = numbered.join(self._registry.catalogue.pointers(self.sweep.id), keys, join_type="inner").sort_by(
            "order"
        )
        self._moment = found.drop(["order"]), views
        return self._moment[0]


def known_schema(name: str) -> pa.Schema:
    """The columns of a kind of result or of a view of the registry. Raises InputError."""
    if name in ROW_KINDS:
        return ROW_KINDS[name].columns
    if name in VIEWS:
        return VIEWS[name].schema
    raise InputError(f"there is no {name!r}", allowed=nearest(name, [*ROW_KINDS, *VIEWS]))


LIVE = "epochs"
"""The kind of result that can be looked at before it is one."""
FINAL = pa.field("final", pa.bool_())


def shown_schema(name: str) -> pa.Schema:
    """The columns of `Source.look`. Raises InputError."""
    return known_schema(name).append(FINAL) if name == LIVE else known_schema(name)


def check_columns(name: str, columns: Sequence[str] | None) -> None:
    """Raise InputError if that view, or one of these columns of it, does not exist."""
    known = known_schema(name).names
    for column in columns or ():
        if column not in known:
            raise InputError(f"{name} has no column {column!r}", allowed=nearest(column, known))


def warn_of_losses(sources: Sequence[Source]) -> None:
    """Warn of what is missing from the answers that these sources gave."""
    for remark in filter(None, (source.remark() for source in sources)):
        warnings.warn(remark, LostResults, stacklevel=2)
