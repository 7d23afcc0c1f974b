"""Plain training: one pass of each batch, and the optimizer's step down its gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets
from qsweep.workers.engine import Engine


class Plain:
    """θ ← θ − optimizer(∇L(Q(θ))), the gradient through the quantizer."""

    def __init__(self, trainings: Sequence[Training], engine: Engine) -> None:
        self._engine = engine
        self._deployed = engine.place(engine.parameters)

    def step(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        engine, deployed = self._engine, self._deployed
        engine.deploy(deployed)
        found = engine.gradients(deployed, images, targets, update_statistics=True)
        engine.pull_back(deployed, found.gradients)
        engine.apply(found.gradients)
        return found.losses.double(), found.hits
