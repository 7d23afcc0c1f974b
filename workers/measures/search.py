"""The searches of a cohort: bisections that advance in lockstep; one that is over drops out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from qsweep.sweeps.measures import Search, Sharpness
from qsweep.workers.measures.bisection import Bisection, Candidate
from qsweep.workers.measures.evaluation_set import EvaluationSet
from qsweep.workers.measures.point import Point, round_copies


class Perturbation(Protocol):
    """Makes the perturbed copies of a candidate."""

    def rows(self, points: Sequence[Point], radii: Sequence[float], iteration: int) -> Tensor: ...


def run_searches(
    points: Sequence[Point],
    measure: Search,
    evaluation_set: EvaluationSet,
    perturbation: Perturbation,
    tick: Callable[[int, int], None],
) -> tuple[list[float], list[Bisection]]:
    """The clean accuracy and the finished search of each point.

    The device is waited for once an iteration. `tick(done, of)` is told how many iterations are over.
    """
    clean = (_judged(points, evaluation_set, [p.parameters[None].clone() for p in points])[0]).tolist()
    accuracies = [hits[0] / len(evaluation_set) for hits in clean]
    searches = [Bisection(measure) for _ in points]
    for iteration in range(measure.iterations):
        tick(iteration, measure.iterations)
        active = [number for number, search in enumerate(searches) if not search.over]
        if not active:
            break
        hits, clamped = _iterate([points[one] for one in active], [searches[one].radius for one in active],
                                 measure, evaluation_set, perturbation, iteration)  # fmt: skip
        for number, some, low in zip(active, hits.tolist(), clamped.tolist(), strict=True):
            found = tuple(count / len(evaluation_set) for count in some)
            accuracy = min(found) if isinstance(measure, Sharpness) else math.fsum(found) / len(found)
            searches[number].judge(
                Candidate(
                    radius=searches[number].radius,
                    accuracies=found,
                    accuracy=accuracy,
                    displacement=abs(accuracy - accuracies[number]),
                    clamped_steps=sum(low),
                )
            )
    tick(measure.iterations, measure.iterations)
    return accuracies, searches


def _iterate(
    points: Sequence[Point],
    radii: Sequence[float],
    measure: Search,
    evaluation_set: EvaluationSet,
    perturbation: Perturbation,
    iteration: int,
) -> tuple[Tensor, Tensor]:
    """One candidate of each point: hits and clamped step sizes of its copies (points, copies), on the CPU."""
    together = evaluation_set.together(measure.copies)
    hits, clamped = [], []
    for first in range(0, len(points), together):
        some = slice(first, first + together)
        rows = perturbation.rows(points[some], radii[some], iteration)
        judged, low = _judged(points[some], evaluation_set, torch.split(rows, measure.copies))
        hits.append(judged)
        clamped.append(low)
    return torch.cat(hits).cpu(), torch.cat(clamped).cpu()


def _judged(points: Sequence[Point], evaluation_set: EvaluationSet, copies: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Hits and clamped step sizes (points, copies) of perturbed parameters, (copies, P) for each point."""
    clamped = [round_copies(point, rows) for point, rows in zip(points, copies, strict=True)]
    statistics = torch.cat([point.statistics.expand(len(rows), -1) for point, rows in zip(points, copies, strict=True)])
    hits = evaluation_set.hits(torch.cat(list(copies)), statistics)
    return hits.view(len(points), -1), torch.stack(clamped)
