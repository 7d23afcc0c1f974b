"""Parts of landscapes: the losses and accuracies at some of the points, for `qsweep landscape`."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.landscape import Landscape
from qsweep.sweeps.questions import LandscapePoints
from qsweep.sweeps.text import finite
from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.data import Collection, find
from qsweep.workers.device import build, device_class, this_device
from qsweep.workers.landscape.survey import Survey
from qsweep.workers.user_code import look_in


@cache
def _points(data: Path, models: Path) -> Points:
    return Points(data, models)


def score(asked: LandscapePoints) -> dict[str, Any]:
    """The losses and accuracies at these points. Raises InputError."""
    look_in(Path(asked.user_code))
    try:
        return _points(Path(asked.data), Path(asked.models)).answer(asked)
    except torch.OutOfMemoryError:
        raise QsweepError("out of memory on the device: stop what else runs there") from None


class Points:
    """Points of landscapes, some after others; the landscape that was asked for last stays ready."""

    def __init__(self, data: Path, models: Path) -> None:
        self._data, self._models = data, models
        self._device = this_device()
        self._images: dict[DataSet, Collection] = {}
        self._last: tuple[str, Survey] | None = None

    def answer(self, asked: LandscapePoints) -> dict[str, Any]:
        """The scores at these points, with what they were computed on. Not finite is null, as in Parquet."""
        started = time.perf_counter()
        survey = self._survey(asked)
        found = survey.scores(asked.first, asked.count)
        return {
            "losses": [finite(loss) for loss in found.losses],
            "accuracies": found.accuracies,
            "cosine": survey.cosine,
            "images": survey.images,
            "full_pass": survey.full_pass,
            "torch": build(),
            "device": device_class(self._device),
            "seconds": time.perf_counter() - started,
        }

    def _survey(self, asked: LandscapePoints) -> Survey:
        if self._last is not None and self._last[0] == asked.identity:
            return self._last[1]
        self._last = None  # its memory goes before the next one's comes
        trainings = [Training.from_settings(one["settings"]) for one in asked.trained]
        models = [self._model(one["file"], one["hash"]) for one in asked.trained]
        wanted = Landscape.from_settings(asked.landscape)
        survey = Survey(
            trainings,
            models,
            wanted,
            self._set(trainings[0]),
            device=self._device,
            quantized=asked.trained[0]["quantized"],
        )
        self._last = asked.identity, survey
        return survey

    def _model(self, file: str, checksum: str) -> dict[str, Tensor]:
        content = checkpoints.load(self._models / file, checksum)
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}

    def _set(self, training: Training) -> Collection:
        data = training.data
        if data not in self._images:
            self._images = {data: find(data, self._data, download=False)}
        return self._images[data]
