"""Compaction: thousands of small results files into a few, changing no answer.

The rows of many publications are written once more as one, under a name of its own; only then do the pointers of
their jobs move there, in one transaction. A crash before that leaves files that nothing points to, one after it
files that nothing points to any more: both are garbage, an hour later. A reader that took its pointers before
finds the old files until then.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import Move
from db.schema import KINDS
from sweeps.faults import point

SMALL = 1_000
"""A publication of fewer jobs is worth rewriting."""
LARGEST = 10_000
"""Most jobs of a compacted publication."""


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """One publication made of many. `moved` counts the jobs whose pointers moved; `skipped` publications were
    written by a newer version, whose columns this one would lose."""

    kind: str
    jobs: int
    moved: int
    before: int
    after: int
    skipped: int = 0


def compact(home: Home, registry: Registry, sweep_ids: Sequence[int]) -> list[Compacted]:
    """Rewrites the small publications of these sweeps' counted results; what became of each kind of job."""
    store = ResultStore(home.store)
    pointers = _pointers(registry, sweep_ids)
    done = []
    for kind in pc.unique(pointers["kind"]).to_pylist():
        of_kind = pointers.filter(pc.equal(pointers["kind"], kind))
        small, skipped = _small(store, of_kind, kind)
        groups = list(_groups(small))
        moved = sum(_rewrite(store, registry, group, kind) for group in groups)
        before = len(pc.unique(small["publication"])) if groups else 0
        done.append(
            Compacted(
                kind=kind,
                jobs=sum(group.num_rows for group in groups),
                moved=moved,
                before=before,
                after=len(groups),
                skipped=skipped,
            )
        )
    return done


def _pointers(registry: Registry, sweep_ids: Sequence[int]) -> pa.Table:
    """Every counted job of these sweeps, once."""
    tables = [registry.pointers(one) for one in sweep_ids]
    joined = pa.concat_tables(tables)
    first = pc.index_in(joined["job"], value_set=joined["job"].combine_chunks())
    return joined.filter(pc.equal(first, pa.array(range(joined.num_rows), pa.int32())))


def _small(store: ResultStore, pointers: pa.Table, kind: str) -> tuple[pa.Table, int]:
    """The pointers into publications that are worth rewriting, and how many of those this version can't."""
    counted = pc.value_counts(pointers["publication"]).to_pylist()
    small = [one["values"] for one in counted if one["counts"] < SMALL]
    names = [one.name for one in KINDS.values() if one.of.value == kind]
    known = [one for one in small if not any(store.has_unknown(name, one) for name in names)]
    chosen = pointers.filter(pc.is_in(pointers["publication"], value_set=pa.array(known, pa.string())))
    return chosen, len(small) - len(known)


def _groups(pointers: pa.Table) -> Iterator[pa.Table]:
    """Jobs that may share a publication, in the order of registration; none of which lie in one already."""
    for start in range(0, pointers.num_rows, LARGEST):
        group = pointers.slice(start, LARGEST)
        if len(pc.unique(group["publication"])) > 1:
            yield group


def _rewrite(store: ResultStore, registry: Registry, group: pa.Table, kind: str) -> int:
    """Writes the group's rows as one publication and moves the pointers; how many moved."""
    target = f"compact-{uuid.uuid4().hex[:12]}"
    names = [one.name for one in KINDS.values() if one.of.value == kind]
    for name in names:
        store.write_table(name, target, store.read(name, group))
    for publication in pc.unique(group["publication"]).to_pylist():
        for name in names:
            store.touch(name, publication)
    point("compact.written", target)
    moves = [
        Move(job=row["job"], attempt=row["attempt"], source=row["publication"], target=target)
        for row in group.select(["job", "attempt", "publication"]).to_pylist()
    ]
    moved = registry.move(moves)
    point("compact.committed", target)
    return moved
