"""From what the user typed to the jobs that are meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qsweep.reports.demands import check_answers
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import NAME, NAME_ALLOWED, read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.methods import Sam, Saq1, Saq3, SharpnessAware
from qsweep.sweeps.modules import Module
from qsweep.sweeps.quantizers import Lsq
from qsweep.sweeps.recipe import Recipe
from qsweep.sweeps.spec import Spec, select, variant
from qsweep.sweeps.training import Training

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
        recipes, sharp = self._recipes_and_sharp()
        late = {
            (milestone, recipe.epochs)
            for recipe in recipes
            for milestone in recipe.milestones
            if recipe.schedule == "steps" and milestone >= recipe.epochs
        }
        idle = [f"{name} is set, but no job uses it" for name in self.spec.unused()]
        late_ones = [
            f"milestone {milestone} lies beyond the last epoch ({epochs}) and has no effect"
            for milestone, epochs in sorted(late)
        ]
        waves = any(one.schedule == "cosine" and one.milestones for one in recipes)
        idle += ["milestones have no effect with schedule = cosine"] if waves else []
        return idle + late_ones + list(_large_radii(sharp))

    def _recipes_and_sharp(self) -> tuple[list[Recipe], list[Training]]:
        """What the warnings look at, in one pass over jobs of which there may be a million: the recipes, and a training
        of each sharpness-aware method, network and data set with LSQ. The weights of a user's module are unknown here.
        """
        recipes: dict[int, Recipe] = {}
        sharp: dict[object, Training] = {}
        for job in self.chosen:
            if job.call is not None:
                continue
            one = job.training
            recipes.setdefault(id(one.recipe), one.recipe)  # combinations share them
            is_sharp = isinstance(one.method, Sam | Saq1 | Saq3)  # not ASAM's
            if is_sharp and isinstance(one.quantizer, Lsq) and not isinstance(one.model, Module):
                sharp[one.model, one.data, one.method] = one
        return list(recipes.values()), list(sharp.values())


def _large_radii(trainings: Iterable[Training]) -> Iterator[str]:
    """A line for each radius of a sharpness-aware method that is large beside the weights of a network with LSQ."""
    shares: dict[float, float] = {}
    for training in trainings:
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
