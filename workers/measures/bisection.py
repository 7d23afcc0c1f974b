"""The search for the perturbation that moves the accuracy by the target: bisection, as the reference code does it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qsweep.sweeps.measures import Search


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One candidate radius (σ or α), and what the perturbed copies' accuracies said about it."""

    radius: float
    accuracies: tuple[float, ...]
    accuracy: float
    displacement: float
    clamped_steps: int


class Bisection:
    """One search. It halves [0, upper]: a displacement above the target lowers the upper end, else the lower
    end rises; within the tolerance of the target, or after the last iteration, it is over."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._lower, self._upper = 0.0, search.search_upper
        self.radius = search.search_upper / 2
        self.trace: list[Candidate] = []
        self.converged = False

    @property
    def over(self) -> bool:
        return self.converged or len(self.trace) == self._search.iterations

    @property
    def saturated_end(self) -> str | None:
        """The end that no candidate ever moved: then the radius is a bound, not a measurement."""
        if self.converged:
            return None
        if self._upper == self._search.search_upper:
            return "upper"
        return "lower" if self._lower == 0 else None

    def judge(self, candidate: Candidate) -> None:
        """Take in what became of the present radius, and choose the next one."""
        assert not self.over
        assert candidate.radius == self.radius
        self.trace.append(candidate)
        off = abs(candidate.displacement - self._search.target)
        if off < self._search.tolerance:
            self.converged = True
            return
        # A NaN displaces everything: a comparison with the target has to find it too large.
        if math.isnan(candidate.displacement) or candidate.displacement > self._search.target:
            self._upper = self.radius
        else:
            self._lower = self.radius
        if not self.over:
            self.radius = (self._lower + self._upper) / 2
