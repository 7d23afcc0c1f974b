"""From what the user typed to the jobs that are meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qsweep.reports.demands import check_answers
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import NAME, NAME_ALLOWED, read_sweep
from qsweep.sweeps.job import Job, with_training
from qsweep.sweeps.methods import Sam, Saq1, Saq3, SharpnessAware
from qsweep.sweeps.modules import Module
from qsweep.sweeps.quantizers import Lsq
from qsweep.sweeps.spec import Spec, select, variant

LARGE_RADIUS = 0.02
"""Of the weights' norm: a larger radius of a sharpness-aware method is said."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A variant of a sweep, all its jobs, and those of them that are asked for now."""

    spec: Spec
    label: str
    """The variant's name: `--name`, or the hash of its jobs."""
    jobs: Sequence[Job]
    chosen: Sequence[Job]
    written: bool = False
    """Whether it is the sweep as its file says, under no name of its own: what the bare name means."""

    @property
    def title(self) -> str:
        return f"{self.spec.name}@{self.label}"

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant."""
        late = {
            (milestone, job.training.recipe.epochs)
            for job in with_training(self.chosen)
            for milestone in job.training.recipe.milestones
            if job.training.recipe.schedule == "steps" and milestone >= job.training.recipe.epochs
        }
        idle = [f"{name} is set, but no job uses it" for name in self.spec.unused()]
        late_ones = [
            f"milestone {milestone} lies beyond the last epoch ({epochs}) and has no effect"
            for milestone, epochs in sorted(late)
        ]
        recipes = [job.training.recipe for job in with_training(self.chosen)]
        waves = any(one.schedule == "cosine" and one.milestones for one in recipes)
        idle += ["milestones have no effect with schedule = cosine"] if waves else []
        return idle + late_ones + list(_large_radii(self.chosen))


def _large_radii(jobs: Iterable[Job]) -> Iterator[str]:
    """A line for each radius of a sharpness-aware method that is large beside the weights of a network with LSQ. The
    weights of a user's module are unknown here."""
    trainings = [job.training for job in with_training(jobs) if not isinstance(job.training.model, Module)]
    sharp = [one for one in trainings if isinstance(one.method, Sam | Saq1 | Saq3)]  # not ASAM's
    shares: dict[float, float] = {}
    for training in {
        (one.model, one.data, one.method): one for one in sharp if isinstance(one.quantizer, Lsq)
    }.values():
        assert isinstance(training.method, SharpnessAware)
        rho = training.method.rho
        shares[rho] = max(rho / training.initial_norm, shares.get(rho, 0.0))
    for rho, share in sorted(shares.items()):
        if share > LARGE_RADIUS:
            yield (
                f"rho = {rho:g} is {share:.1%} of the norm of a network's initial weights, and with lsq over "
                f"{LARGE_RADIUS:.0%} is large (SAQ's 0.3 to 0.9 belong to weights normalized to a deviation of 1)"
            )


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
    return selection_of(spec, where=where, limit=limit, name=name, written=not changes and name is None)


def selection_of(
    spec: Spec, *, where: str | None = None, limit: int | None = None, name: str | None = None, written: bool = True
) -> Selection:
    """Expand and select. Raises InputError; touches nothing."""
    jobs = spec.jobs()
    check_answers(spec)
    return Selection(
        spec=spec,
        label=name or variant(jobs),
        jobs=jobs,
        chosen=select(jobs, where=where, limit=limit),
        written=written,
    )
