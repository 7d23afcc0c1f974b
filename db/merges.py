"""Merges of results files: which small publications are worth one, who makes it, and how pointers move there.

A merge is a writer without an agent: its record in `writings` stands under a lease, and what it is made of is marked
with its name, so that two merges at once take different publications. Whoever dies leaves marks that the next merge
clears once the lease has run out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qsweep.db import outcomes
from qsweep.db.custody import LEASE, LIVE, Overtaken, note_departures
from qsweep.db.moments import boot, moment
from qsweep.db.moves import batches
from qsweep.db.parts import Part, reads, writes
from qsweep.db.publications import ASIDE, FAN, FULL, LEVELS, level_of
from qsweep.db.rows import Committed, Move
from qsweep.db.states import State
from qsweep.db.tables import jobs, publications, writings
from qsweep.db.transaction import Transaction
from qsweep.sweeps.kinds import Kind, kind_named

MOST = 16 * FAN
"""Most publications of one merge: where thousands are left from before, they are not merged by the dozen."""
MOVED = 500
"""Most pointers that one transaction moves: on SQLite nobody claims meanwhile."""
LARGE = sa.func.count() >= FAN
TAKEN = publications.c.merging == sa.bindparam("target")
FREED = publications.update().where(TAKEN).values(merging=None)
FREE = sa.or_(
    publications.c.merging.is_(None),
    ~sa.exists().where(writings.c.publication == publications.c.merging, LIVE),
)
GROUPS = (
    sa.select(publications.c.sweep, publications.c.kind, publications.c.level)
    .where(publications.c.level.between(0, LEVELS - 1), FREE)
    .group_by(publications.c.sweep, publications.c.kind, publications.c.level)
    .having(LARGE)
    .order_by(publications.c.level, publications.c.sweep)
    .limit(1)
)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a merge has taken: publications with results of one kind, and how many jobs have pointed to each."""

    kind: Kind
    sizes: Mapping[str, int]


class Merges(Part):
    """Merges of results files.

    Ownership: a publication is made of others by one merge at a time, under a lease that each step of it renews. What
    is given up, or whose lease has run out, is free for the next.
    Consistency: pointers move in parts, each while the record of the merge stands and its files are there; between two
    parts both the old files and the new one count, and answers are the same.
    Exceptions: Overtaken.
    """

    @reads
    def is_due(self, transaction: Transaction) -> bool:
        """Whether there is enough of anything to merge."""
        return transaction.run(GROUPS).first() is not None

    @writes
    def take(self, transaction: Transaction, target: str, writer: str) -> Taken | None:
        """Takes the smallest publications that are worth a merge for a new one, `target`, which `writer` makes of them;
        None if there are too few."""
        if transaction.again and (mine := _taken(transaction, target)):
            return mine
        transaction.lock_merges()
        _clear(transaction)
        group = transaction.run(GROUPS).first()
        if group is None:
            return None
        statement = (
            sa.select(publications.c.publication, publications.c.jobs)
            .where(publications.c.sweep == group.sweep, publications.c.kind == group.kind)
            .where(publications.c.level == group.level, publications.c.merging.is_(None))
            .order_by(publications.c.publication)
            .limit(MOST)
        )
        names, size = list[str](), 0
        for row in transaction.run(statement):
            size += row.jobs
            if size > FULL and len(names) > 1:
                break
            names.append(row.publication)
        return _begin(transaction, target, writer, names)

    @writes
    def begin(self, transaction: Transaction, target: str, writer: str, names: Collection[str]) -> Taken | None:
        """Takes these publications of one kind for a new one: those of them that no other merge has, if any."""
        if transaction.again and (mine := _taken(transaction, target)):
            return mine
        transaction.lock_merges()
        _clear(transaction)
        return _begin(transaction, target, writer, names)

    @writes
    def renew(self, transaction: Transaction, target: str) -> None:
        """Renews the lease. Raises Overtaken if it ran out and others had the publications meanwhile."""
        _renew(transaction, target)

    @reads
    def pointers(self, transaction: Transaction, identities: Sequence[str], names: Collection[str]) -> list[Committed]:
        """Those of these jobs that are done and point into these publications, in the order of registration."""
        columns = (jobs.c.id, jobs.c.identity, jobs.c.attempt, jobs.c.publication, jobs.c.kind)
        found = list[Any]()
        for batch in batches(identities):
            mine = transaction.among(jobs.c.identity, list(batch))
            found += transaction.run(sa.select(*columns).where(mine, jobs.c.state == State.DONE.value)).all()
        return [
            Committed(job=row.identity, attempt=row.attempt, publication=row.publication, kind=kind_named(row.kind))
            for row in sorted(found, key=lambda row: int(row.id))
            if row.publication in names
        ]

    @writes
    def move(
        self, transaction: Transaction, target: str, moves: Sequence[Move], *, is_there: Callable[[], bool]
    ) -> int:
        """Moves these pointers to the publication `target`, in one transaction; how many still counted.

        One that was superseded meanwhile stays where it is. Raises Overtaken, with nothing changed, if the lease of the
        merge ran out and its files were collected, or if they are not there.
        """
        _renew(transaction, target)
        if not is_there():
            raise Overtaken("the merged results are not where they were written: nothing is lost, merge again")
        moved = outcomes.move_pointers(transaction, moves)
        if transaction.again and not moved:
            there = transaction.among(jobs.c.identity, [one.job for one in moves])
            count = sa.select(sa.func.count()).where(jobs.c.publication == target, there)
            moved = int(transaction.run(count).scalar_one())
        note_departures(transaction, (one.source for one in moves))
        if moved:
            _record(transaction, target, moved)
        return moved

    @writes
    def complete(self, transaction: Transaction, target: str, merged: Mapping[str, int]) -> None:
        """All pointers have moved from these publications, which are known no more. `merged` has how many jobs pointed
        to each: one that more point to by now stays, as does what was taken and not merged."""
        if not _drop(transaction, target):
            if transaction.again:
                return
            raise Overtaken("another merge took over before this one was complete: nothing is lost")
        rows = transaction.run(sa.select(publications).where(TAKEN), {"target": target}).all()
        done = [row.publication for row in rows if row.jobs <= merged.get(row.publication, -1)]
        _forget(transaction, done)
        for row in rows:
            if row.publication == target:
                own = publications.c.publication == target
                transaction.run(publications.update().where(own).values(level=level_of(row.jobs)))
        transaction.run(FREED, {"target": target})

    @writes
    def abandon(self, transaction: Transaction, target: str) -> None:
        """Gives the merge up: from now on no pointer moves to `target`."""
        _drop(transaction, target)
        transaction.run(FREED, {"target": target})

    @writes
    def set_aside(self, transaction: Transaction, names: Collection[str]) -> None:
        """These publications can't be merged: nobody tries again by itself."""
        mine = transaction.among(publications.c.publication, sorted(names))
        transaction.run(publications.update().where(mine).values(level=ASIDE))

    @writes
    def forget(self, transaction: Transaction, names: Collection[str]) -> None:
        """No job points to these publications any more."""
        _forget(transaction, names)


def _forget(transaction: Transaction, names: Collection[str]) -> None:
    transaction.run(publications.delete().where(transaction.among(publications.c.publication, sorted(names))))


def _begin(transaction: Transaction, target: str, writer: str, names: Collection[str]) -> Taken | None:
    free = sa.and_(transaction.among(publications.c.publication, sorted(names)), publications.c.merging.is_(None))
    transaction.run(publications.update().where(free).values(merging=target))
    taken = _taken(transaction, target)
    if taken is not None:
        values = {"publication": target, "writer": writer, "clock": boot(), "expires": moment() + LEASE}
        transaction.run(writings.insert().values(values))
    return taken


def _taken(transaction: Transaction, target: str) -> Taken | None:
    rows = transaction.run(sa.select(publications).where(TAKEN), {"target": target}).all()
    if not rows:
        return None
    return Taken(kind=kind_named(rows[0].kind), sizes={row.publication: row.jobs for row in rows})


def _clear(transaction: Transaction) -> None:
    """Frees what merges have marked whose leases ran out: none of their pointers will move any more."""
    transaction.run(writings.delete().where(sa.not_(LIVE)))
    left = publications.c.merging.not_in(sa.select(writings.c.publication))
    transaction.run(publications.update().where(publications.c.merging.is_not(None), left).values(merging=None))


def _renew(transaction: Transaction, target: str) -> None:
    record = writings.update().where(writings.c.publication == target)
    values = {"clock": boot(), "expires": moment() + LEASE}
    if not transaction.run(record.values(values).execution_options(preserve_rowcount=True)).rowcount:
        raise Overtaken("the merged results were deleted as garbage before they counted: nothing is lost, merge again")


def _drop(transaction: Transaction, target: str) -> bool:
    record = writings.delete().where(writings.c.publication == target).execution_options(preserve_rowcount=True)
    return bool(transaction.run(record).rowcount)


def _record(transaction: Transaction, target: str, moved: int) -> None:
    """So many more pointers lead to `target`, which nobody else merges yet."""
    sources = transaction.run(
        sa.select(sa.func.min(publications.c.sweep).label("sweep"), sa.func.min(publications.c.kind).label("kind"))
        .where(TAKEN),
        {"target": target},
    ).one()  # fmt: skip
    values: dict[str, Any] = {
        "publication": target, "sweep": sources.sweep, "kind": sources.kind, "jobs": moved, "level": level_of(moved),
        "merging": target,
    }  # fmt: skip
    insert = transaction.insert(publications).values(values)
    more = {"jobs": publications.c.jobs + insert.excluded.jobs}
    transaction.run(insert.on_conflict_do_update(index_elements=["publication"], set_=more))
