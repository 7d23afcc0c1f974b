"""Whose the files are: who writes a publication, which files jobs point to, and which a query may still read.

A collector of garbage deletes nothing that somebody writes. Agents and bundles are known by their own rows; any
other writer of a publication (a merge, `db.merges`) says so first, under a lease. Pointers move to a publication only
while that record stands, and a collector takes a record back, once its lease has run out, before it looks for what to
delete: of the two, one comes first, and the other finds it so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from qsweep.db import looking, outcomes
from qsweep.db.moments import boot, moment, wall
from qsweep.db.moves import batches
from qsweep.db.parts import Part, reads, reads_at_once, writes
from qsweep.db.rows import Committed, StoreRow, Unkept
from qsweep.db.states import HOLDING, State, SweepState
from qsweep.db.tables import agents, attempts, checkpoints, departures, jobs, store, sweep_jobs, sweeps, writings
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.kinds import KINDS, File, kind_named

LEASE = 600.0
"""Seconds that a writer without an agent may take for one publication."""
REMEMBERED = 20
"""Incarnations of a registry that are kept."""
LIVE = sa.and_(writings.c.clock == boot(), writings.c.expires > moment())


class Overtaken(QsweepError):
    """What was written may be gone: a collector of garbage found its writer's lease run out, or its file is missing."""


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What the registry knows of files, all at one moment."""

    pointed: frozenset[str]
    """Publications that jobs point to."""
    written: frozenset[str]
    """Publications that somebody without an agent is writing."""
    left_at: Mapping[str, float]
    """Publications that pointers have left, and when (Unix seconds)."""
    published: frozenset[str]
    """Publications that agents and bundles have published, counted or not any more."""
    holders: frozenset[int]
    """Agents and bundles that may still be writing."""
    models: frozenset[str]
    checkpoints: frozenset[str]
    running: Mapping[str, int]
    """Running jobs and their attempts."""
    incarnation: str
    """If the registry was moved or copied once: its newest incarnation. What others have made may count elsewhere."""


class Results(Part):
    """The files of results, models and checkpoints: whose they are, and which still count.

    Ownership: a publication is written by an agent, a bundle, or a merge that said so first (`db.merges`).
    Consistency: a result counts by its job's pointer alone, and pointers move to a publication only while its
    writer's record stands. A collector of garbage takes lapsed records back before it looks for what to delete.
    """

    @reads_at_once
    def holdings(self, transaction: Transaction, *, lapsed: bool = False) -> Holdings:
        """What the registry knows of files. Reads only. Without `lapsed`, whose lease has run out counts as gone:
        who then deletes files has to `take_back` before, and to count all that stand."""

        def column(one: sa.ColumnElement[str], *where: sa.ColumnElement[bool]) -> frozenset[str]:
            return frozenset(transaction.run(sa.select(one).where(one.is_not(None), *where).distinct()).scalars())

        running = sa.select(jobs.c.identity, jobs.c.attempt).where(jobs.c.state == State.RUNNING.value)
        holding = sa.select(agents.c.id).where(agents.c.state.in_([state.value for state in HOLDING]))
        left = sa.select(departures.c.publication, departures.c.left_at)
        known = looking.store(transaction)
        return Holdings(
            pointed=column(jobs.c.publication),
            written=column(writings.c.publication, *(() if lapsed else (LIVE,))),
            left_at={row.publication: row.left_at for row in transaction.run(left)},
            published=column(attempts.c.publication),
            holders=frozenset(transaction.run(holding).scalars()),
            models=column(jobs.c.model_file),
            checkpoints=frozenset(_checkpoint_files(transaction)),
            running={row.identity: row.attempt for row in transaction.run(running)},
            incarnation=known.incarnation if known is not None and len(known.lineage) > 1 else "",
        )

    @writes
    def take_back(self, transaction: Transaction) -> int:
        """Ends the records of writers whose lease has run out: none of their pointers will move; how many."""
        statement = writings.delete().where(sa.not_(LIVE)).execution_options(preserve_rowcount=True)
        return int(transaction.run(statement).rowcount)

    @writes
    def settle(self, transaction: Transaction, row: StoreRow) -> StoreRow:
        """The registry's store, which is `row` if it had none; of two that settle at once, both get the same."""
        values = {
            "number": 1, "identity": row.identity, "place": row.place, "host": row.host,
            "lineage": " ".join(row.lineage), "seat": row.seat,
        }  # fmt: skip
        transaction.run(transaction.insert(store).values(values).on_conflict_do_nothing())
        found = looking.store(transaction)
        assert found is not None
        return found

    @writes
    def moved(self, transaction: Transaction, place: str, host: str) -> None:
        """Notes that the store lies elsewhere now."""
        transaction.run(store.update().values(place=place, host=host))

    @writes
    def reincarnate(self, transaction: Transaction, before: StoreRow, lineage: Sequence[str], seat: str) -> StoreRow:
        """Notes where the registry lies and its incarnations, unless somebody was faster; the store's row now."""
        lineage_now = sa.func.coalesce(store.c.lineage, "") == " ".join(before.lineage)
        same = (lineage_now, sa.func.coalesce(store.c.seat, "") == before.seat)
        values = {"lineage": " ".join(lineage[:REMEMBERED]), "seat": seat}
        transaction.run(store.update().where(*same).values(values))
        found = looking.store(transaction)
        assert found is not None
        return found

    @writes
    def forget(self, transaction: Transaction, publications: Collection[str]) -> None:
        """Drops what is known of publications whose files are gone."""
        if names := sorted(publications):
            transaction.run(departures.delete().where(transaction.among(departures.c.publication, names)))

    @reads
    def published(self, transaction: Transaction) -> set[str]:
        """Every publication that counted once, whether or not a job still points to it."""
        done = attempts.c.publication.is_not(None)
        return set(transaction.run(sa.select(attempts.c.publication).where(done).distinct()).scalars())

    @reads
    def checkpoint_sums(self, transaction: Transaction) -> dict[str, str]:
        """The same with the SHA-256 of each."""
        rows = transaction.run(sa.select(checkpoints.c.file, checkpoints.c.checksum))
        return {row.file: row.checksum for row in rows}

    @reads
    def committed_job(self, transaction: Transaction, job_id: int) -> list[Committed]:
        """The pointer of one job, if it is done."""
        columns = (jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
        rows = transaction.run(sa.select(*columns).where(jobs.c.id == job_id, jobs.c.state == State.DONE.value))
        return [
            Committed(job=row.identity, attempt=row.attempt, publication=row.publication, kind=kind_named(row.kind))
            for row in rows
        ]

    @reads
    def unkept(self, transaction: Transaction, job_ids: Collection[int]) -> Unkept:
        """Those of these jobs that are done without the model that a sweep asks for, and whose measures wait for it."""
        leaving = [kind.name for kind in KINDS.values() if kind.leaves is File.MODEL]
        done = sa.and_(jobs.c.state == State.DONE.value, jobs.c.kind.in_(leaving))
        lacking = sa.and_(done, outcomes.ASKED, jobs.c.model_file.is_(None), sa.not_(jobs.c.diverged))
        children, found, measured_by = jobs.alias(), set[int](), Counter[str]()
        for batch in batches(sorted(job_ids)):
            statement = sa.select(jobs.c.id).where(jobs.c.id.in_(batch), lacking)
            some = list(transaction.run(statement).scalars())
            found.update(some)
            waiting = (
                sa.select(sweeps.c.name, sweeps.c.label, children.c.parent_id)
                .join(sweep_jobs, sweep_jobs.c.sweep_id == sweeps.c.id)
                .join(children, children.c.id == sweep_jobs.c.job_id)
                .where(children.c.parent_id.in_(some), children.c.state == State.QUEUED.value)
                .where(sweeps.c.state != SweepState.CANCELLED.value)
                .distinct()
            )
            measured_by.update(f"{row.name}@{row.label}" for row in transaction.run(waiting))
        return Unkept(jobs=frozenset(found), measured_by=dict(sorted(measured_by.items())))

    @reads
    def checkpoint_files(self, transaction: Transaction) -> set[str]:
        """Every checkpoint file that some job may still resume from."""
        return _checkpoint_files(transaction)


def _checkpoint_files(transaction: Transaction) -> set[str]:
    return set(transaction.run(sa.select(checkpoints.c.file)).scalars())


def note_departures(transaction: Transaction, publications: Iterable[str]) -> None:
    """Notes that pointers leave these publications now: queries that took them before may still read the files."""
    rows = [{"publication": one} for one in sorted(set(publications))]
    if not rows:
        return
    insert = transaction.insert(departures).values(publication=sa.bindparam("publication"), left_at=wall())
    transaction.run(insert.on_conflict_do_update(index_elements=["publication"], set_={"left_at": wall()}), rows)
