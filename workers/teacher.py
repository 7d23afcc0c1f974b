"""A trained network that gives the trainings of a cohort their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from qsweep.sweeps import targets
from qsweep.sweeps.training import Training
from qsweep.workers.data.targets import Targets, first_shares
from qsweep.workers.device import set_precision
from qsweep.workers.evaluation import evaluation_batch
from qsweep.workers.models import network_of
from qsweep.workers.results import starting_rows
from qsweep.workers.weights import Start


class Teacher:
    """The teacher of `training`, which starts from `start` (None: as it would be initialized, where only time matters).

    It sees each batch once, as the models of the cohort see it, in evaluation mode and in single precision. What it
    says depends on the batch alone.
    """

    def __init__(self, training: Training, start: Start | None, device: torch.device, dtype: torch.dtype) -> None:
        asked, teacher = training.targets, training.teacher
        assert isinstance(asked, targets.Teacher), "these trainings have a teacher"
        assert teacher is not None
        self._first, self._size = asked.teacher_top, evaluation_batch(training.data)
        self._network = network_of(teacher)
        layout = self._network.layout
        parameters, statistics = (row[None].to(device, dtype) for row in starting_rows(teacher, layout, start))
        self._views = self._network.views(layout.tensors(parameters, parameters, statistics))

    @torch.no_grad()
    def targets(self, images: Tensor, labels: Tensor) -> Targets:
        """Its shares of images (B, channels, side, side), beside their labels (B)."""
        set_precision("fp32")
        parts = [self._network.evaluate(some, self._views)[0] for some in torch.split(images, self._size)]
        return Targets(labels=labels, shares=first_shares(torch.cat(parts, dim=1), self._first))
