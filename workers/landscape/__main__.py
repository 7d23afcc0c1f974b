"""One process that computes parts of landscapes: `python -m qsweep.workers.landscape`, for `qsweep landscape`.

Each line of its input names the models (settings, file and hash), what is asked of them, and some of the points; it
prints one line with these points' losses and accuracies. It ends with its input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import QsweepError, packed
from qsweep.sweeps.landscape import Landscape
from qsweep.sweeps.text import finite
from qsweep.sweeps.training import Training
from qsweep.workers import checkpoints
from qsweep.workers.data import Collection, find
from qsweep.workers.device import build, device_class, this_device
from qsweep.workers.landscape.survey import Survey


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    given = parser.parse_args(arguments)
    desk = Desk(given.data, given.models)
    for line in sys.stdin:
        try:
            answer = desk.answer(json.loads(line))
        except torch.OutOfMemoryError:
            answer = packed(QsweepError("out of memory on the device: stop what else runs there"))
        except QsweepError as error:
            answer = packed(error)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


class Desk:
    """Answers tasks one after another; the landscape that was asked for last stays ready."""

    def __init__(self, data: Path, models: Path) -> None:
        self._data, self._models = data, models
        self._device = this_device()
        self._images: dict[DataSet, Collection] = {}
        self._last: tuple[str, Survey] | None = None

    def answer(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The scores at the points of a task, with what they were computed on. Not finite is null, as in Parquet."""
        started = time.perf_counter()
        survey = self._survey(task)
        found = survey.scores(task["first"], task["count"])
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

    def _survey(self, task: Mapping[str, Any]) -> Survey:
        if self._last is not None and self._last[0] == task["identity"]:
            return self._last[1]
        self._last = None  # its memory goes before the next one's comes
        trainings = [Training.from_settings(one["settings"]) for one in task["models"]]
        models = [self._model(one["file"], one["hash"]) for one in task["models"]]
        asked = Landscape.from_settings(task["landscape"])
        survey = Survey(trainings, models, asked, self._set(trainings[0]), device=self._device)
        self._last = task["identity"], survey
        return survey

    def _model(self, file: str, checksum: str) -> dict[str, Tensor]:
        content = checkpoints.load(self._models / file, checksum)
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}

    def _set(self, training: Training) -> Collection:
        data = training.data
        if data not in self._images:
            self._images = {data: find(data, self._data, download=False)}
        return self._images[data]


if __name__ == "__main__":
    sys.exit(main())
