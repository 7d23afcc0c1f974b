"""What a machine has, and whether data and weights can be read there.

The orchestrator, which never imports torch, asks this before it registers or starts anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from qsweep.sweeps.datasets import DATASETS, DataSet, data_of
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.questions import Probe
from qsweep.sweeps.targets import Fkd
from qsweep.sweeps.training import Training
from qsweep.workers.corruptions.files import Stored, check_stored, corrupted_files
from qsweep.workers.data import Collection, ImageFiles, find, soft_labels_of
from qsweep.workers.data.soft_labels import check_soft_labels
from qsweep.workers.device import build, device_class, this_device
from qsweep.workers.hardware import cores, memory
from qsweep.workers.promises import check_modules
from qsweep.workers.user_code import look_in, offer
from qsweep.workers.weights import check_given, find_weights


def probe(asked: Probe) -> dict[str, Any]:
    """The machine, the weights that the trainings start from, and what can't be promised of their modules. Raises
    QsweepError for data, weights or modules that can't be used; of data sets that are asked of `apart` it says so
    instead."""
    device = this_device()
    look_in(Path(asked.user_code))
    offer(asked.codes)
    found: dict[str, Any] = {
        "torch": build(),
        "device": device_class(device),
        "memory": _memory(device),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cores": cores(),
    }
    folder = Path(asked.data)
    named = [DATASETS[name] for name in asked.datasets]
    if asked.apart:
        found["problems"] = {one.name: _problem(one, folder, download=asked.download) for one in named}
        named = []
    trainings = [Training.from_settings(settings) for settings in asked.trainings]
    needed = dict.fromkeys([*named, *(one.data for one in trainings)]) if asked.reads_data else {}
    collections = {data: find(data, folder, download=asked.download) for data in needed}
    _check_trees(asked.distortions, collections, folder)
    _check_soft_labels(trainings, collections)
    found["broken_promises"] = check_modules(trainings, device)
    found["weights"] = _weights(asked, _with_weights(trainings))
    return found


def _problem(data: DataSet, folder: Path, *, download: bool) -> str | None:
    """What is the matter with a data set; None if it can be read."""
    try:
        find(data, folder, download=download)
    except QsweepError as error:
        return str(error)
    return None


def _check_trees(
    distortions: Sequence[Mapping[str, Any]], collections: Mapping[DataSet, Collection], folder: Path
) -> None:
    """Raise InputError for a tree of corrupted images that is not of the test images."""
    for one in distortions:
        data = data_of(one["settings"])
        files = collections[data]
        assert isinstance(files, ImageFiles)
        for corruption, severity, seed in one["asked"]:
            found = corrupted_files(data, folder, corruption, severity, seed=seed)
            if isinstance(found, Stored):
                check_stored(found, files.test, data.size)


def _check_soft_labels(trainings: Sequence[Training], collections: Mapping[DataSet, Collection]) -> None:
    """Raise InputError for soft labels that are missing, or of other images than those that are trained on."""
    asked = {one: one.targets for one in trainings if isinstance(one.targets, Fkd) and one.data in collections}
    for one, targets in asked.items():
        files = collections[one.data]
        assert isinstance(files, ImageFiles), "soft labels are of image files"
        check_soft_labels(soft_labels_of(files, targets), files.train, one.recipe.crops)


def _with_weights(trainings: Sequence[Training]) -> list[Training]:
    """One training for each file of weights that these take."""
    return list({one.weights_file: one for training in trainings for one in training.with_weights}.values())


def _weights(asked: Probe, trainings: list[Training]) -> list[dict[str, str]]:
    """The files of weights that these trainings start from."""
    given = [Path(one) for one in asked.weights]
    check_given(trainings, given)
    kept = Path(asked.kept or asked.data)
    found = [
        find_weights(one, kept=kept, given=given, data=Path(asked.data), download=asked.download) for one in trainings
    ]
    return [{"source": str(one.source), "hash": one.file_hash, "target": str(one.target)} for one in found]


def _memory(device: torch.device) -> int:
    """Bytes of the device that agents share: those of one GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory()
