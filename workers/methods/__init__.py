"""The training methods: what one step of a cohort does with a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from qsweep.sweeps.components import Implementations
from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets
from qsweep.workers.engine import Engine

METHODS = Implementations("method")
"""The class of each method of `sweeps.methods`, made of the trainings of a cohort and its engine."""


class Method(Protocol):
    """One training step of all models of a cohort.

    It keeps the models' rows apart, asks for no value on the device, and gives the vacant slots at the end, which no
    training stands for, the same as the others: then a model's bits don't depend on its neighbours, and the step can be
    recorded as one CUDA graph. Rows that it needs beside the engine's are made once, in its `__init__`, and hold
    nothing from one step to the next.
    """

    def step(self, images: Tensor, targets: Targets) -> tuple[Tensor, ...]:
        """Train on a batch; each model's mean loss (M, float64) and hits (M), as the epoch's history counts them; and
        of a method of two passes that knows it, the share of the weights whose code ε changes (M, float64)."""


def method_of(trainings: Sequence[Training], engine: Engine) -> Method:
    """The method of trainings that share a cohort, each in the slot of its place."""
    method: Callable[[Sequence[Training], Engine], Method] = METHODS[trainings[0].method.name]
    return method(trainings, engine)
