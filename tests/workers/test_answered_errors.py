"""Every question to a process with torch is answered alike where its input is bad: place, allowed values, exit code."""

from __future__ import annotations

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


def questions_about(folder: Path) -> dict[str, Question]:
    """Each question that reads CIFAR-10, in this folder."""
    data = str(folder)
    digest = checkpoints.save(folder / "model.pt", {"weight": torch.zeros(1)})
    model = {"settings": SETTINGS, "file": "model.pt", "hash": digest}
    asked = settings_of(Landscape(points=3))
    return {
        "probe": Probe(data=data, datasets=["cifar10"]),
        "pack": ArchiveData(data=data, out=str(folder / "out"), datasets=["cifar10"]),
        "corrupt": WriteCorruptions(data=data, dataset="cifar10", out=str(folder / "out")),
        "calibrate": WarmUp(data=data, trainings=[SETTINGS], slots=1, form="gather"),
        "landscape": LandscapePoints(
            identity="one", data=data, models=data, landscape=asked, trained=[model], first=0, count=1
        ),
    }


@pytest.mark.parametrize("asked", ["probe", "pack", "corrupt", "calibrate", "landscape"])
def test_a_damaged_data_set_is_named_with_what_to_do_whoever_reads_it(asked: str, tmp_path: Path) -> None:
    damaged = tmp_path / "cifar10.npz"
    damaged.write_bytes(b"no archive")
    question = questions_about(tmp_path)[asked]
    with pytest.raises(InputError) as raised:
        raise_packed(reply({"question": type(question).__name__, "given": asdict(question)}))
    assert raised.value.problem.startswith("the archive of CIFAR-10 is truncated or damaged (")
    assert raised.value.place == str(damaged)
    assert raised.value.allowed == "copy it again, or remove it"
    assert raised.value.exit_code == 2
