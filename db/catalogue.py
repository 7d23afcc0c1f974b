"""What stands in the registry, by plain SQL alone: for commands that look and are to answer at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from qsweep.db import looking
from qsweep.db.asking import Asking
from qsweep.db.parts import Part, looks
from qsweep.db.rows import AgentRow, BundleRow, Committed, Counts, JobRow, StoreRow, Sweep
from qsweep.db.seats import Seat
from qsweep.db.states import AgentState, State
from qsweep.sweeps.kinds import Kind

if TYPE_CHECKING:
    import pyarrow as pa


class Catalogue(Part):
    """What stands in the registry: sweeps, jobs, agents, bundles and counted results.

    Consistency: reading never changes state: it takes back no lease, creates no file and waits for no writer (law 5).
    Each call sees one and the same state throughout.
    Exceptions: InputError if a name says nothing here, AmbiguousName if it may mean several sweeps.
    """

    @looks
    def find_sweep(self, asking: Asking, name: str) -> Sweep:
        """The variant `NAME@label`; a bare NAME is the sweep as written (see `db.naming`).

        Raises AmbiguousName if several variants could be meant, InputError if there is none.
        """
        return looking.find_sweep(asking, name)

    @looks
    def sweeps(self, asking: Asking) -> list[Sweep]:
        """Every variant, the one launched last first."""
        return looking.sweeps(asking)

    @looks
    def counts(self, asking: Asking, sweep_id: int, selection: int | None = None) -> Counts:
        """How many of the sweep's jobs, or of a selection of them, stand in each state."""
        return looking.counts(asking, sweep_id, selection)

    @looks
    def jobs(
        self,
        asking: Asking,
        sweep_id: int,
        state: State | None = None,
        *,
        selection: int | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """The sweep's jobs, or a selection of them, in the order of their registration."""
        return looking.jobs(asking, sweep_id, state, selection, limit)

    @looks
    def job_ids(self, asking: Asking, sweep_id: int, state: State | None = None, limit: int | None = None) -> list[int]:
        """The sweep's jobs, or those in a state, in the order of their registration."""
        return looking.job_ids(asking, sweep_id, state, limit)

    @looks
    def varying(self, asking: Asking, sweep_id: int, suspected: Callable[[], Collection[str]]) -> list[str]:
        """The settings in which those jobs of the sweep differ that have them, if the `suspected` ones are all that a
        sample may miss."""
        return looking.varying_settings(asking, sweep_id, suspected)

    @looks
    def done(self, asking: Asking, sweep_id: int | None = None) -> set[str]:
        """The identities of the done jobs of a sweep, or of all sweeps."""
        return looking.done(asking, sweep_id)

    @looks
    def slots_limits(self, asking: Asking) -> dict[str, int]:
        """Of the jobs that ran out of memory the most slots beside which they run, by identity."""
        return looking.slots_limits(asking)

    @looks
    def job(self, asking: Asking, identity_prefix: str) -> JobRow:
        """The one job whose identity begins so; InputError if there is none, or more than one."""
        return looking.job(asking, identity_prefix)

    @looks
    def jobs_of(self, asking: Asking, ids: Sequence[int]) -> list[JobRow]:
        """These jobs as they stand, in the order of their registration."""
        return looking.jobs_of(asking, ids)

    @looks
    def ids_of(self, asking: Asking, identities: Collection[str]) -> list[int]:
        """The numbers of these jobs, in the order of their registration; those that are not here are left out."""
        return looking.ids_of(asking, identities)

    @looks
    def siblings(self, asking: Asking, job_id: int, most: int) -> tuple[int | None, list[str]]:
        """A sweep of the job, and a random sample of its other jobs of the same kind that have begun."""
        return looking.siblings(asking, job_id, most)

    @looks
    def agents(self, asking: Asking, state: AgentState | None = AgentState.ALIVE) -> list[AgentRow]:
        """The agents in this state; all that ever enlisted if it is None."""
        return looking.agents(asking, state)

    @looks
    def bundles(self, asking: Asking) -> list[BundleRow]:
        """All that ever left; those that are away hold jobs."""
        return looking.bundles(asking)

    @looks
    def committed(self, asking: Asking, sweep_id: int, selection: int | None = None) -> list[Committed]:
        """The pointers of the done jobs of the sweep, or of a selection: what `ResultStore.read` may count."""
        return looking.committed(asking, sweep_id, selection)

    @looks
    def counted(self, asking: Asking) -> list[tuple[Kind, str, str | None]]:
        """Of each done job: its kind, the publication of its results, and the file of its kept model."""
        return looking.counted(asking)

    @looks
    def publications(self, asking: Asking) -> set[str]:
        """Every publication that a job of any sweep points to."""
        return looking.publications(asking)

    @looks
    def store(self, asking: Asking) -> StoreRow | None:
        """The results store of this registry; None before its first launch, or since a migration."""
        return looking.store(asking)

    def seat(self) -> Seat:
        """Where this registry lies."""
        path = self._database.address.path
        if path is not None:
            return Seat.of_file(path)
        return self._database.look(lambda asking: Seat.of_database(asking, self._database.place))

    def is_at(self, seat: Seat) -> bool:
        """Whether this seat is that of this registry."""
        path = self._database.address.path
        return self.seat().is_same(seat) or (path is not None and seat.is_file(path))

    def is_another_at(self, seat: Seat) -> bool:
        """Whether it can be seen from here that another registry than this lies at this seat."""
        if self.is_at(seat):
            return False
        if self._database.address.path is not None:
            return seat.is_file_there()
        own = self.seat()
        return self._database.look(lambda asking: seat.is_database_there(asking, own))

    @looks
    def pointers(self, asking: Asking, sweep_id: int, ids: Sequence[int] | None = None) -> pa.Table:
        """What `committed` says, of all jobs or of these, as Arrow: `job`, `attempt`, `publication`, `kind`."""
        from qsweep.db import views  # here: Arrow takes longer to import than `qsweep status` to answer

        return views.read_pointers(asking, sweep_id, ids)

    @looks
    def view(self, asking: Asking, name: str, sweep_id: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The sweep's `jobs`, `attempts` or `events` as Arrow, with these columns (see `db.views`)."""
        from qsweep.db import views

        return views.read_view(asking, name, sweep_id, columns)

    @looks
    def snapshot(
        self, asking: Asking, sweep_id: int, names: Sequence[str] = (), ids: Sequence[int] | None = None
    ) -> tuple[pa.Table, dict[str, pa.Table]]:
        """The sweep's pointers, of all its jobs or of these, and these views, all at one moment."""
        from qsweep.db import views

        pointers = views.read_pointers(asking, sweep_id, ids)
        return pointers, {name: views.read_view(asking, name, sweep_id) for name in names}

    def pulse(self) -> int | None:
        """A number that is another one once anybody has changed something, cheaper than a look; None on Postgres."""
        return self._database.pulse()
