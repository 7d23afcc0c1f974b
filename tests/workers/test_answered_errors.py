"""Every child process answers bad input with its place, what is allowed, and the exit code that belongs to it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.sweeps.errors import InputError, raise_packed
from qsweep.sweeps.landscape import Landscape
from qsweep.sweeps.settings import settings_of
from qsweep.workers import calibration, checkpoints, probe
from qsweep.workers.corruptions import __main__ as corruptions
from qsweep.workers.data import archive
from qsweep.workers.landscape import __main__ as landscape

SETTINGS = {
    "data": "cifar10", "model": "nin", "width": 2, "depth": 1, "optimizer": "sgd", "learning_rate": 0.1,
    "weight_decay": 0.0, "bits": 4, "epochs": 1, "batch_size": 64,
}  # fmt: skip
CANDIDATE = {"trainings": [SETTINGS], "slots": 1, "form": "gather", "seconds": 0.1}


def point_of_a_landscape(folder: Path) -> dict[str, Any]:
    digest = checkpoints.save(folder / "model.pt", {"weight": torch.zeros(1)})
    model = {"settings": SETTINGS, "file": "model.pt", "hash": digest}
    asked = settings_of(Landscape(points=3))
    return {"identity": "one", "models": [model], "landscape": asked, "first": 0, "count": 1}


def answer_of(child: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The last line that the child writes, which is asked for something of CIFAR-10 in this folder."""
    data = ["--folder", str(folder)]
    asked: dict[str, tuple[Any, list[str], Any]] = {
        "probe": (probe, [*data, "cifar10"], None),
        "pack": (archive, [*data, "--out", str(folder / "out"), "cifar10"], None),
        "corrupt": (corruptions, [*data, "--out", str(folder / "out"), "cifar10"], None),
        "calibrate": (calibration, data, CANDIDATE),
        "landscape": (landscape, ["--data", str(folder), "--models", str(folder)], point_of_a_landscape(folder)),
    }
    module, arguments, line = asked[child]
    monkeypatch.setattr(sys, "stdin", io.StringIO("" if line is None else json.dumps(line) + "\n"))
    module.main(arguments)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("child", ["probe", "pack", "corrupt", "calibrate", "landscape"])
def test_a_damaged_data_set_is_named_with_what_to_do_whoever_reads_it(
    child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "cifar10.npz"
    damaged.write_bytes(b"no archive")
    with pytest.raises(InputError) as raised:
        raise_packed(answer_of(child, tmp_path, monkeypatch, capsys))
    assert raised.value.problem.startswith("the archive of CIFAR-10 is truncated or damaged (")
    assert raised.value.place == str(damaged)
    assert raised.value.allowed == "copy it again, or remove it"
    assert raised.value.exit_code == 2
