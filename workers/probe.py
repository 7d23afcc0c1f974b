"""What a machine has, and whether data and weights can be read there: `python -m qsweep.workers.probe`, one JSON line.

The orchestrator, which never imports torch, asks this before it registers or starts anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from qsweep.sweeps.datasets import DATASETS, DataSet, data_of
from qsweep.sweeps.errors import QsweepError, packed
from qsweep.sweeps.training import Training
from qsweep.workers.corruptions.files import Stored, check_stored, corrupted_files
from qsweep.workers.data import Collection, ImageFiles, find
from qsweep.workers.device import build, device_class, this_device
from qsweep.workers.weights import check_given, find_weights


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--download", action="store_true", help="download what is missing")
    parser.add_argument("--weights-alone", action="store_true", help="read no data set")
    parser.add_argument("--kept", type=Path, help="where the home keeps weights")
    parser.add_argument("--weights", type=Path, action="append", default=[], help="a file or folder of weights")
    parser.add_argument("--trainings", type=json.loads, default=[], help="settings, whose data and weights are checked")
    parser.add_argument(
        "--distortions", type=json.loads, default=[], help="settings, whose corrupted images are checked"
    )
    parser.add_argument("--apart", action="store_true", help="say of each named data set what is the matter with it")
    parser.add_argument("datasets", nargs="*", choices=[*DATASETS, []], help="data sets to read and check")
    given = parser.parse_args(arguments)
    device = this_device()
    found: dict[str, object] = {
        "torch": build(),
        "device": device_class(device),
        "memory": _memory(device),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if given.apart:
        found["problems"] = {name: _problem(DATASETS[name], given) for name in given.datasets}
        given.datasets = []
    try:
        trainings = [Training.from_settings(settings) for settings in given.trainings]
        needed = dict.fromkeys([*(DATASETS[name] for name in given.datasets), *(one.data for one in trainings)])
        if given.weights_alone:
            needed.clear()
        collections = {data: find(data, given.folder, download=given.download) for data in needed}
        _check_trees(given.distortions, collections, given.folder)
        found["weights"] = _weights(given, [one for one in trainings if one.starts_from_weights])
    except QsweepError as error:
        found |= packed(error)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _problem(data: DataSet, given: argparse.Namespace) -> str | None:
    """What is the matter with a data set; None if it can be read."""
    try:
        find(data, given.folder, download=given.download)
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


def _weights(given: argparse.Namespace, trainings: list[Training]) -> list[dict[str, str]]:
    """The files of weights that these trainings start from."""
    check_given(trainings, given.weights)
    found = [
        find_weights(one, kept=given.kept, given=given.weights, data=given.folder, download=given.download)
        for one in trainings
    ]
    return [{"source": str(one.source), "hash": one.file_hash, "target": str(one.target)} for one in found]


def _memory(device: torch.device) -> int:
    """Bytes of the device that agents share: those of one GPU, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.exit(main())
