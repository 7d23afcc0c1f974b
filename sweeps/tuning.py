"""What a tuning run asks for: the metric, the scheduler, the search, and how many trials."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qsweep.sweeps.errors import InputError, nearest


class Mode(StrEnum):
    """Which values of a metric are better."""

    MIN = "min"
    MAX = "max"


class Scheduler(StrEnum):
    """Who stops a trial early: asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), or nobody."""

    ASHA = "asha"
    NONE = "none"


class Search(StrEnum):
    """Which points of the grid are tried: all, some at random, or those that Optuna's TPE proposes."""

    GRID = "grid"
    RANDOM = "random"
    OPTUNA = "optuna"


METRICS = {"val_loss": Mode.MIN, "val_accuracy": Mode.MAX, "train_loss": Mode.MIN, "train_accuracy": Mode.MAX}
"""What tuning may choose by. Test data never chooses."""
SAMPLES = 16
"""Trials of a random search or of Optuna, unless the user says how many."""
VAL_FRACTION = 0.1
"""Share of the training images that tuning holds out where the sweep holds out none."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One tuning run. `samples`: trials; None is every point of the grid.

    `grace`: epochs that every trial gets before ASHA may stop it; of the trials that reach a rung,
    1/`reduction` go on to the next, `reduction` times as far. `where` selects the points that may be tried.
    """

    metric: str = "val_loss"
    mode: Mode = Mode.MIN
    scheduler: Scheduler = Scheduler.ASHA
    search: Search = Search.GRID
    samples: int | None = None
    grace: int = 1
    reduction: int = 3
    seed: int = 0
    where: str | None = None

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is the better value of the metric."""
        return one < other if self.mode is Mode.MIN else one > other

    @property
    def worst(self) -> float:
        """What a trial without a finite value counts as."""
        return float("inf") if self.mode is Mode.MIN else float("-inf")

    @property
    def samples_or_default(self) -> int:
        """Trials of a search that has no end of its own."""
        return self.samples or SAMPLES

    @property
    def label(self) -> str:
        """8 hex digits that tell this run from another one over the same jobs."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:8]

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which ASHA decides, up to `epochs`."""
        found, rung = [], self.grace
        while self.scheduler is Scheduler.ASHA and rung < epochs:
            found.append(rung)
            rung *= self.reduction
        return found

    def content(self) -> dict[str, Any]:
        """Plain values, from which `from_content` makes an equal one."""
        return dataclasses.asdict(self)

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Tuning:
        enums: dict[str, type[StrEnum]] = {"mode": Mode, "scheduler": Scheduler, "search": Search}
        values: dict[str, Any] = {name: enums.get(name, _same)(value) for name, value in content.items()}
        return cls(**values)


def _same(value: Any) -> Any:
    return value


def check_own_metric(metric: str, mode: Mode | None) -> Mode:
    """The mode for a number that the user's code logs or returns. Raises InputError where its name does not say it."""
    if mode is not None:
        return mode
    for words, natural in ((("loss", "error"), Mode.MIN), (("accuracy",), Mode.MAX)):
        if any(word in metric for word in words):
            return natural
    raise InputError(
        f"whether more or less of {metric} is better is not known", place="--mode", allowed="allowed: min, max"
    )


def check_metric(metric: str, mode: Mode | None) -> Mode:
    """The mode in which this metric is tuned. Raises InputError for a metric that may not choose."""
    allowed = "allowed: " + ", ".join(METRICS)
    if metric.startswith("test_") or metric == "generalization_gap":
        raise InputError(f"test data never chooses, and {metric} is measured on it", place="--metric", allowed=allowed)
    if metric not in METRICS:
        raise InputError(f"{metric!r} is no metric", place="--metric", allowed=nearest(metric, METRICS))
    natural = METRICS[metric]
    if mode is not None and mode is not natural:
        raise InputError(f"{mode} would choose the worst {metric}", place="--mode", allowed=f"allowed: {natural}")
    return natural
