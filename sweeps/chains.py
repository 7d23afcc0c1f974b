"""Chains of jobs, each of which stands on the one above it, in memory; in a registry `db.ancestry` follows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from qsweep.sweeps.job import Job
    from qsweep.sweeps.kinds import File

Name = TypeVar("Name", int, str)


def with_all_above(names: Iterable[Name], above: Mapping[Name, Name | None]) -> set[Name]:
    """These and everything above them, as far as `above` knows it, which names what each stands on."""
    found: set[Name] = set()
    for name in names:
        one: Name | None = name
        while one is not None and one not in found:
            found.add(one)
            one = above.get(one)
    return found


def source_of(job: Job, file: File, jobs: Mapping[str, Job]) -> Job | None:
    """The nearest job above this one whose kind leaves such a file. `jobs` has everything above it, by identity."""
    one: Job | None = job
    while one is not None and one.parent is not None:
        one = jobs.get(one.parent)
        if one is not None and one.kind.leaves is file:
            return one
    return None
