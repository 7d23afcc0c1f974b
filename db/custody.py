"""Whose the files are: who writes a publication, which files jobs point to, and which a query may still read.

A collector of garbage deletes nothing that somebody writes. Agents and bundles are known by their own rows; any
other writer of a publication (a compaction) says so here first, under a lease. Pointers move to a publication only
while that record stands, and a collector takes a record back, once its lease has run out, before it looks for what to
delete: of the two, one comes first, and the other finds it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from qsweep.db import looking, outcomes, reading
from qsweep.db.connection import Database
from qsweep.db.moments import boot, moment, wall
from qsweep.db.rows import Move, StoreRow
from qsweep.db.states import HOLDING, State
from qsweep.db.tables import agents, attempts, departures, jobs, store, writings
from qsweep.db.transaction import Transaction
from qsweep.sweeps.errors import QsweepError

LEASE = 600.0
"""Seconds that a writer without an agent may take for one publication."""
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


class Custody:
    """The part of a registry that knows whose the files are. Each call is one transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, publication: str, writer: str) -> None:
        """Says that `writer` will write this publication now: before its first byte."""
        values = {"publication": publication, "writer": writer, "clock": boot(), "expires": moment() + LEASE}
        self._database.write(lambda t: t.run(t.insert(writings).values(values).on_conflict_do_nothing()))

    def abandon(self, publication: str) -> None:
        """Says that nobody writes this publication any more."""
        self._database.write(lambda t: t.run(writings.delete().where(writings.c.publication == publication)))

    def move(self, target: str, moves: Sequence[Move], *, is_there: Callable[[], bool]) -> int:
        """Moves pointers to the publication `target` that was begun here; how many still counted.

        All in one transaction; one that was superseded meanwhile stays where it is. Raises Overtaken, with nothing
        changed, if the record of its writer is gone or its file is not there.
        """
        return self._database.write(lambda t: _move(t, target, moves, is_there))

    def holdings(self, *, lapsed: bool = False) -> Holdings:
        """What the registry knows of files. Reads only. Without `lapsed`, whose lease has run out counts as gone:
        who then deletes files has to `take_back` before, and to count all that stand."""
        return self._database.snapshot(lambda t: _holdings(t, lapsed=lapsed))

    def take_back(self) -> int:
        """Ends the records of writers whose lease has run out: none of their pointers will move; how many."""
        statement = writings.delete().where(sa.not_(LIVE)).execution_options(preserve_rowcount=True)
        return self._database.write(lambda t: int(t.run(statement).rowcount))

    def settle(self, row: StoreRow) -> StoreRow:
        """The registry's store, which is `row` if it had none; of two that settle at once, both get the same."""
        return self._database.write(lambda t: _settle(t, row))

    def moved(self, place: str, host: str) -> None:
        """Notes that the store lies elsewhere now."""
        self._database.write(lambda t: t.run(store.update().values(place=place, host=host)))

    def forget(self, publications: Iterable[str]) -> None:
        """Drops what is known of publications whose files are gone."""
        names = sorted(publications)
        if names:
            self._database.write(lambda t: t.run(departures.delete().where(t.among(departures.c.publication, names))))


def depart(transaction: Transaction, publications: Iterable[str]) -> None:
    """Notes that pointers leave these publications now: queries that took them before may still read the files."""
    rows = [{"publication": one} for one in sorted(set(publications))]
    if not rows:
        return
    insert = transaction.insert(departures).values(publication=sa.bindparam("publication"), left_at=wall())
    transaction.run(insert.on_conflict_do_update(index_elements=["publication"], set_={"left_at": wall()}), rows)


def _settle(transaction: Transaction, row: StoreRow) -> StoreRow:
    values = {"number": 1, "identity": row.identity, "place": row.place, "host": row.host}
    transaction.run(transaction.insert(store).values(values).on_conflict_do_nothing())
    found = looking.store(transaction)
    assert found is not None
    return found


def _move(transaction: Transaction, target: str, moves: Sequence[Move], is_there: Callable[[], bool]) -> int:
    record = writings.delete().where(writings.c.publication == target).execution_options(preserve_rowcount=True)
    if not transaction.run(record).rowcount and not (transaction.again and _points(transaction, target)):
        raise Overtaken("the merged results were deleted as garbage before they counted: nothing is lost, merge again")
    if not is_there():
        raise Overtaken("the merged results are not where they were written: nothing is lost, merge again")
    moved = outcomes.move(transaction, moves)
    depart(transaction, (one.source for one in moves))
    return moved


def _points(transaction: Transaction, publication: str) -> bool:
    """Whether a job points there: our first try was committed without our hearing of it."""
    found = sa.select(jobs.c.id).where(jobs.c.publication == publication).limit(1)
    return transaction.run(found).first() is not None


def _holdings(transaction: Transaction, *, lapsed: bool) -> Holdings:
    def column(one: sa.ColumnElement[str], *where: sa.ColumnElement[bool]) -> frozenset[str]:
        return frozenset(transaction.run(sa.select(one).where(one.is_not(None), *where).distinct()).scalars())

    running = sa.select(jobs.c.identity, jobs.c.attempt).where(jobs.c.state == State.RUNNING.value)
    holding = sa.select(agents.c.id).where(agents.c.state.in_([state.value for state in HOLDING]))
    left = sa.select(departures.c.publication, departures.c.left_at)
    return Holdings(
        pointed=column(jobs.c.publication),
        written=column(writings.c.publication, *(() if lapsed else (LIVE,))),
        left_at={row.publication: row.left_at for row in transaction.run(left)},
        published=column(attempts.c.publication),
        holders=frozenset(transaction.run(holding).scalars()),
        models=column(jobs.c.model_file),
        checkpoints=frozenset(reading.checkpoint_files(transaction)),
        running={row.identity: row.attempt for row in transaction.run(running)},
    )
