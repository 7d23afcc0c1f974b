"""From what the user typed to the jobs that are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsweep.reports.demands import check_answers
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import NAME, NAME_ALLOWED, read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec, select, variant


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A variant of a sweep, all its jobs, and those of them that are asked for now."""

    spec: Spec
    label: str
    """The variant's name: `--name`, or the hash of its jobs."""
    jobs: tuple[Job, ...]
    chosen: tuple[Job, ...]
    written: bool = False
    """Whether it is the sweep as its file says, under no name of its own: what the bare name means."""

    @property
    def title(self) -> str:
        return f"{self.spec.name}@{self.label}"

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant."""
        late = {
            (milestone, job.training.recipe.epochs)
            for job in self.chosen
            for milestone in job.training.recipe.milestones
            if milestone >= job.training.recipe.epochs
        }
        idle = [f"{name} is set, but no job uses it" for name in self.spec.unused()]
        return idle + [
            f"milestone {milestone} lies beyond the last epoch ({epochs}) and has no effect"
            for milestone, epochs in sorted(late)
        ]


def read_selection(
    source: str,
    *,
    changes: Sequence[str] = (),
    where: str | None = None,
    limit: int | None = None,
    name: str | None = None,
) -> Selection:
    """Read, expand and select. Raises InputError; touches nothing."""
    if name is not None and not NAME.fullmatch(name):
        raise InputError(f"{name!r} can't name a variant", place="--name", allowed=NAME_ALLOWED)
    spec = read_sweep(source, changes)
    jobs = spec.jobs()
    check_answers(spec)
    return Selection(
        spec=spec,
        label=name or variant(jobs),
        jobs=tuple(jobs),
        chosen=tuple(select(jobs, where=where, limit=limit)),
        written=not changes and name is None,
    )
