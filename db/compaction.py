"""Compaction: thousands of small results files into a few, changing no answer.

The rows of many publications are written once more as one, under a name of its own that the registry holds for the
writer; only then do the pointers of their jobs move there, part by part. A crash before that leaves files that are
garbage once the writer's lease has run out, one among the parts two files that both count, one after them files that
pointers have left: a reader that took its pointers before finds those for an hour more.

Agents merge as they go, level by level (`merge_next`, `db.publications`); `qsweep compact` merges what is left.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from qsweep.db.home import Home
from qsweep.db.losses import find_lost
from qsweep.db.merges import MOVED, Taken
from qsweep.db.publication_names import new_name
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore, table_of
from qsweep.db.rows import Move
from qsweep.db.schema import ROW_KINDS
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.kinds import Kind

SMALL = 1_000
"""A publication of fewer jobs is worth rewriting by hand."""
LARGEST = 10_000
"""Most jobs of a compacted publication."""
MERGED = 2
"""Least publications that are worth merging."""


class MergeStopped(QsweepError):
    """A merge was asked to end before it was done: it has given up what it had taken."""


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """One publication made of many. `moved` counts the jobs whose pointers moved; `skipped` publications were
    written by a newer version, whose columns this one would lose; `damaged` ones can't be read."""

    kind: str
    jobs: int
    moved: int
    before: int
    after: int
    skipped: int = 0
    damaged: int = 0


def compact(home: Home, registry: Registry, sweep_ids: Sequence[int]) -> list[Compacted]:
    """Rewrites the small publications of these sweeps' counted results; what became of each kind of job.

    Raises Overtaken, with nothing lost, if it slept so long that its files were taken for garbage.
    """
    store = ResultStore(home.store)
    pointers = _pointers(registry, sweep_ids)
    return [
        _compact_kind(store, registry, pointers.filter(pc.equal(pointers["kind"], kind)), kind)
        for kind in pc.unique(pointers["kind"]).to_pylist()
    ]


def merge_next(home: Home, registry: Registry, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Makes one publication of as many small ones as are worth it, if there are so many; whether there were.

    Raises MergeStopped as soon as it is `stopped`, and Overtaken as `compact` does.
    """
    if not registry.merges.is_due():
        return False
    target = _new_name(registry)
    taken = registry.merges.take(target, _writer())
    if taken is None:
        return False
    point("compact.begun", target)
    store, names = ResultStore(home.store), _row_kinds(taken.kind)
    try:
        held = _jobs_in(store, registry, names, taken)
        jobs = sorted({job for some in held.values() for job in some})
        pointers = table_of(registry.merges.pointers(jobs, held.keys()))
        pointed = set(pointers["publication"].to_pylist())
        registry.merges.forget(held.keys() - pointed)
        if len(pointed) < MERGED:
            registry.merges.abandon(target)
            return True
    except BaseException:
        _give_up(store, registry, target, names)
        raise
    _rewrite(store, registry, target, pointers, taken, stopped)
    return True


def merge_all(home: Home, registry: Registry, stopped: Callable[[], bool] = lambda: False) -> None:
    """`merge_next` until nothing is left that is worth it."""
    while merge_next(home, registry, stopped):
        pass


def _jobs_in(store: ResultStore, registry: Registry, names: Sequence[str], taken: Taken) -> dict[str, list[str]]:
    """The jobs that have rows in each of these publications. What can't be merged is set aside.

    Raises DamagedResults if that is most of them: rather the store is out of reach.
    """
    found, aside = {}, []
    for publication in taken.sizes:
        if _state(store, names, publication) == "sound":
            with suppress(DamagedResults):
                found[publication] = store.jobs_in(names[0], publication)
                continue
        aside.append(publication)
    if len(aside) > len(found):
        raise DamagedResults(f"{len(aside)} of {len(taken.sizes)} results files can't be read")
    if aside:
        registry.merges.set_aside(aside)
    return found


def _row_kinds(kind: Kind) -> list[str]:
    return [one.name for one in ROW_KINDS.values() if one.of == kind]


def _new_name(registry: Registry) -> str:
    known = registry.catalogue.store()
    return new_name("compact", "" if known is None else known.incarnation)


def _writer() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _compact_kind(store: ResultStore, registry: Registry, pointers: pa.Table, kind: str) -> Compacted:
    names = [one.name for one in ROW_KINDS.values() if one.of.name == kind]
    counted = pc.value_counts(pointers["publication"]).to_pylist()
    small = {one["values"]: _state(store, names, one["values"]) for one in counted if one["counts"] < SMALL}
    groups = list(_groups(_of(pointers, [one for one, state in small.items() if state == "sound"])))
    done = [_take_and_rewrite(store, registry, group) for group in groups]
    return Compacted(
        kind=kind,
        jobs=sum(one.jobs for one in done),
        moved=sum(one.moved for one in done),
        before=sum(one.publications for one in done),
        after=sum(one.jobs > 0 for one in done),
        skipped=sum(state == "newer" for state in small.values()),
        damaged=sum(state == "damaged" for state in small.values()) + sum(one.damaged for one in done),
    )


@dataclass(frozen=True, kw_only=True)
class _Rewritten:
    jobs: int = 0
    moved: int = 0
    publications: int = 0
    damaged: int = 0


def _pointers(registry: Registry, sweep_ids: Sequence[int]) -> pa.Table:
    """Every counted job of these sweeps, once."""
    tables = [registry.catalogue.pointers(one) for one in sweep_ids]
    joined = pa.concat_tables(tables)
    first = pc.index_in(joined["job"], value_set=joined["job"].combine_chunks())
    return joined.filter(pc.equal(first, pa.array(range(joined.num_rows), pa.int32())))


def _of(pointers: pa.Table, publications: Sequence[str]) -> pa.Table:
    return pointers.filter(pc.is_in(pointers["publication"], value_set=pa.array(publications, pa.string())))


def _state(store: ResultStore, names: Sequence[str], publication: str) -> str:
    """Whether a publication is `sound` at first sight, `damaged`, or of a `newer` version whose columns this one would
    lose."""
    try:
        newer = any(store.has_unknown(name, publication) for name in names)
    except DamagedResults:
        return "damaged"
    return "newer" if newer else "sound"


def _readable(store: ResultStore, names: Sequence[str], pointers: pa.Table) -> pa.Table:
    """The pointers into publications that can be read to their end, with a row for each job that has to have one."""
    lost = {one.job for one in find_lost(store, pointers, kinds=names)}
    hurt = {row["publication"] for row in pointers.to_pylist() if row["job"] in lost}
    return _of(pointers, sorted(set(pointers["publication"].to_pylist()) - hurt))


def _groups(pointers: pa.Table) -> Iterator[pa.Table]:
    """Jobs that may share a publication, in the order of registration; none of which lie in one already."""
    for start in range(0, pointers.num_rows, LARGEST):
        group = pointers.slice(start, LARGEST)
        if len(pc.unique(group["publication"])) >= MERGED:
            yield group


def _take_and_rewrite(store: ResultStore, registry: Registry, group: pa.Table) -> _Rewritten:
    """Makes one publication of those of the group that no other merge has."""
    target = _new_name(registry)
    taken = registry.merges.begin(target, _writer(), pc.unique(group["publication"]).to_pylist())
    if taken is None:
        return _Rewritten()
    point("compact.begun", target)
    group = _of(group, sorted(taken.sizes))
    if len(pc.unique(group["publication"])) < MERGED:
        registry.merges.abandon(target)
        return _Rewritten()
    return _rewrite(store, registry, target, group, taken)


def _rewrite(
    store: ResultStore,
    registry: Registry,
    target: str,
    group: pa.Table,
    taken: Taken,
    stopped: Callable[[], bool] = lambda: False,
) -> _Rewritten:
    """Writes the rows of these pointers as the publication `target`, which has been begun, and moves the pointers."""
    names, before = _row_kinds(taken.kind), set(group["publication"].to_pylist())

    def go_on() -> None:
        if stopped():
            raise MergeStopped("the merge was asked to end")
        registry.merges.renew(target)

    try:
        group, rows = _read(store, names, group)
        merged = set(group["publication"].to_pylist())
        if damaged := before - merged:
            registry.merges.set_aside(damaged)
        if len(merged) < MERGED:
            registry.merges.abandon(target)
            return _Rewritten(damaged=len(damaged))
        for name in names:
            go_on()
            store.write_table(name, target, rows.pop(name))
        point("compact.written", target)
        moved = _move(store, registry, target, group, names, go_on)
        registry.merges.complete(target, {name: taken.sizes[name] for name in merged})
    except BaseException:
        _give_up(store, registry, target, names)
        raise
    point("compact.committed", target)
    return _Rewritten(jobs=group.num_rows, moved=moved, publications=len(merged), damaged=len(damaged))


def _read(store: ResultStore, names: Sequence[str], group: pa.Table) -> tuple[pa.Table, dict[str, pa.Table]]:
    """Those of these pointers whose publications can be read to their end, and the rows of each kind."""
    try:
        return group, {name: store.read(name, group) for name in names}
    except DamagedResults:
        sound = _readable(store, names, group)
        return sound, {name: store.read(name, sound) for name in names}


def _move(
    store: ResultStore,
    registry: Registry,
    target: str,
    group: pa.Table,
    names: Sequence[str],
    go_on: Callable[[], None],
) -> int:
    """Moves the pointers part by part, each in a short transaction: nobody who claims waits for long."""
    moved = 0
    for start in range(0, group.num_rows, MOVED):
        if start:
            go_on()
        moves = [
            Move(job=row["job"], attempt=row["attempt"], source=row["publication"], target=target)
            for row in group.slice(start, MOVED).select(["job", "attempt", "publication"]).to_pylist()
        ]
        moved += registry.merges.move(target, moves, is_there=lambda: all(store.holds(name, target) for name in names))
        point("compact.moved", target)
    return moved


def _give_up(store: ResultStore, registry: Registry, target: str, names: Sequence[str]) -> None:
    """Deletes what was written, unless it counts: the answer to a move that was committed may have been lost."""
    with suppress(QsweepError, OSError):
        registry.merges.abandon(target)  # from here on no pointer moves there
        if target not in registry.catalogue.publications():
            store.discard(target, names)
