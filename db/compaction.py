"""Compaction: thousands of small results files into a few, changing no answer.

The rows of many publications are written once more as one, under a name of its own that the registry holds for the
writer; only then do the pointers of their jobs move there, in one transaction. A crash before that leaves files that
are garbage once the writer's lease has run out, one after it files that pointers have left: a reader that took its
pointers before finds those for an hour more.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from qsweep.db.home import Home
from qsweep.db.losses import find_lost
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore
from qsweep.db.rows import Move
from qsweep.db.schema import ROW_KINDS
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point

SMALL = 1_000
"""A publication of fewer jobs is worth rewriting."""
LARGEST = 10_000
"""Most jobs of a compacted publication."""
MERGED = 2
"""Least publications that are worth merging."""


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


def _compact_kind(store: ResultStore, registry: Registry, pointers: pa.Table, kind: str) -> Compacted:
    names = [one.name for one in ROW_KINDS.values() if one.of.name == kind]
    counted = pc.value_counts(pointers["publication"]).to_pylist()
    small = {one["values"]: _state(store, names, one["values"]) for one in counted if one["counts"] < SMALL}
    groups = list(_groups(_of(pointers, [one for one, state in small.items() if state == "sound"])))
    done = [_rewrite(store, registry, group, names) for group in groups]
    return Compacted(
        kind=kind,
        jobs=sum(one.jobs for one in done),
        moved=sum(one.moved for one in done),
        before=len({name for group in groups for name in group["publication"].to_pylist()})
        - sum(one.damaged for one in done),
        after=sum(one.jobs > 0 for one in done),
        skipped=sum(state == "newer" for state in small.values()),
        damaged=sum(state == "damaged" for state in small.values()) + sum(one.damaged for one in done),
    )


@dataclass(frozen=True, kw_only=True)
class _Rewritten:
    jobs: int
    moved: int
    damaged: int


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


def _rewrite(store: ResultStore, registry: Registry, group: pa.Table, names: Sequence[str]) -> _Rewritten:
    """Writes the group's rows as one publication and moves the pointers."""
    before = len(pc.unique(group["publication"]))
    try:
        rows = {name: store.read(name, group) for name in names}
    except DamagedResults:
        group = _readable(store, names, group)
        if len(pc.unique(group["publication"])) < MERGED:
            return _Rewritten(jobs=0, moved=0, damaged=before)
        rows = {name: store.read(name, group) for name in names}
    target = f"compact-{uuid.uuid4().hex[:12]}"
    registry.results.begin(target, f"process {os.getpid()} on {socket.gethostname()}")
    point("compact.begun", target)
    try:
        for name, table in rows.items():
            store.write_table(name, target, table)
        point("compact.written", target)
        moves = [
            Move(job=row["job"], attempt=row["attempt"], source=row["publication"], target=target)
            for row in group.select(["job", "attempt", "publication"]).to_pylist()
        ]
        moved = registry.results.move(target, moves, is_there=lambda: all(store.holds(name, target) for name in names))
    except BaseException:
        _give_up(store, registry, target, names)
        raise
    point("compact.committed", target)
    return _Rewritten(jobs=group.num_rows, moved=moved, damaged=before - len(pc.unique(group["publication"])))


def _give_up(store: ResultStore, registry: Registry, target: str, names: Sequence[str]) -> None:
    """Deletes what was written, unless it counts: the answer to a move that was committed may have been lost."""
    with suppress(QsweepError, OSError):
        registry.results.abandon(target)  # from here on no pointer moves there
        if target not in registry.catalogue.publications():
            store.discard(target, names)
