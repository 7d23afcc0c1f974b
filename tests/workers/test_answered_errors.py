"""Every question to a child process answers bad input with its place, what is allowed, and the right exit code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from qsweep.sweeps.errors import InputError, raise_packed
from qsweep.sweeps.landscape import Landscape
from qsweep.sweeps.questions import ArchiveData, LandscapePoints, Probe, Question, WarmUp, WriteCorruptions
from qsweep.sweeps.settings import settings_of
from qsweep.workers import checkpoints
from qsweep.workers.service import reply

SETTINGS = {
    "data": "cifar10", "model": "nin", "width": 2, "depth": 1, "optimizer": "sgd", "learning_rate": 0.1,
    "weight_decay": 0.0, "bits": 4, "epochs": 1, "batch_size": 64,
}  # fmt: skip


def question(name: str, folder: Path) -> Question:
    """One that has CIFAR-10 read in this folder."""
    data, out = str(folder), str(folder / "out")
    if name == "probe":
        return Probe(data=data, datasets=["cifar10"])
    if name == "pack":
        return ArchiveData(data=data, out=out, datasets=["cifar10"])
    if name == "corrupt":
        return WriteCorruptions(dataset="cifar10", data=data, out=out)
    if name == "calibrate":
        return WarmUp(data=data, trainings=[SETTINGS], slots=1, form="gather")
    digest = checkpoints.save(folder / "model.pt", {"weight": torch.zeros(1)})
    model = {"settings": SETTINGS, "file": "model.pt", "hash": digest}
    landscape = settings_of(Landscape(points=3))
    return LandscapePoints(
        identity="one", data=data, models=data, landscape=landscape, trained=[model], first=0, count=1
    )


@pytest.mark.parametrize("name", ["probe", "pack", "corrupt", "calibrate", "landscape"])
def test_a_damaged_data_set_is_named_with_what_to_do_whoever_reads_it(name: str, tmp_path: Path) -> None:
    damaged = tmp_path / "cifar10.npz"
    damaged.write_bytes(b"no archive")
    asked = question(name, tmp_path)
    request = json.loads(json.dumps({"question": type(asked).__name__, "given": asdict(asked)}))
    with pytest.raises(InputError) as raised:
        raise_packed(json.loads(json.dumps(reply(request))))
    assert raised.value.problem.startswith("the archive of CIFAR-10 is truncated or damaged (")
    assert raised.value.place == str(damaged)
    assert raised.value.allowed == "copy it again, or remove it"
    assert raised.value.exit_code == 2
