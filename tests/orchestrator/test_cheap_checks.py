"""What can be seen to fail at once is refused before any process with torch is started."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from qsweep.sweeps import processes
from tests.conftest import Qsweep

IMAGES = """
[fixed]
data = "imagefolder"
data_folder = "flowers"
image_size = 16
data_classes = 3
data_train = 24
data_test = 12
data_fingerprint = "0123456789abcdef0123456789abcdef"
model = "resnet"
depth = 18
width = 2
stem = "large"
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
epochs = 1
batch_size = 8
augment = "resized-crop"
bits = 32
"""
CHEAP = ("launch", "digits-grid", "--limit", "1")
SLURM = ("--backend", "slurm", "--workers", "1")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a child process of ours would leave behind: the Python that it is started with writes it."""
    mark, python = tmp_path / "started", tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho \"$@\" >> '{mark}'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(processes, "PYTHON", (str(python), "-m"))
    monkeypatch.setattr(processes, "_server", None)
    monkeypatch.setattr(processes, "EXECUTE", None)  # no fork server: each process would be a cold one
    return mark


@pytest.fixture
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm and without Ray."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "python3"):
        if found := shutil.which(name):
            (bare / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*CHEAP, *SLURM), "there is no Slurm on this machine"),
        ((*CHEAP, "--backend", "ray"), "Ray is not installed here"),
        (("tune", "digits-grid"), "Ray is not installed here"),
        ((*CHEAP, "--home", "/proc/x"), "/proc is not a folder that can be written"),
        (("calibrate", "digits-grid", "--home", "/proc/x"), "/proc is not a folder that can be written"),
        (("launch", "imagenet-resnets", "--data", "nowhere"), "data set ImageNet-1K not found"),
        (("calibrate", "imagenet-resnets", "--data", "nowhere"), "data set ImageNet-1K not found"),
        (("launch", "mine.toml", "--data", "nowhere"), "data set flowers not found"),
        (("launch", "cifar10-grid", "--data", "/dev/full/data"), "can't be downloaded into a folder that can't be"),
        (("plan", "digit-grid"), "did you mean 'digits-grid'"),
        (("plan", "digits-grid", "--set", "epohs=3"), "did you mean 'epochs'"),
        (("calibrate", "digits-grid", "--where", "bitz == 2"), "did you mean 'bits'"),
        (("tune", "digits-grid", "--metric", "test_loss"), "test data never chooses"),
        (("resume", "digits-grid"), "registry"),
        (("pack", "digits-grid", "--out", "nowhere/far.zip"), "this folder can't be written"),
        (("landscape", "digits-grid"), "registry"),
        (("corruptions", "mnist", "--out", "x"), "there is no data set 'mnist'"),
    ],
)
def test_no_child_is_started_for_what_is_refused_anyway(
    here: Qsweep, started: Path, no_cluster: None, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "here" / "mine.toml").write_text(IMAGES)
    answer = here(*arguments)
    assert answer.returncode == 2, answer.stderr
    assert said in " ".join(answer.stderr.replace("│", "").split())
    assert not started.exists()


def test_a_launch_that_could_work_does_start_one(here: Qsweep, started: Path) -> None:
    answer = here(*CHEAP)
    assert answer.returncode == 1
    assert "the probe of this machine failed" in answer.stderr
    assert "qsweep.workers.service" in started.read_text()


@pytest.mark.parametrize("name", ["with%j", "back\\slash", "quo'te", 'quo"te', "new\nline", "per%cent"])
def test_a_home_that_slurm_would_write_logs_elsewhere_for_is_refused(
    here: Qsweep, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Needs no Slurm: the commands that are looked for answer that they are there."""
    programs = tmp_path / "slurm"
    programs.mkdir()
    for program in ("sbatch", "scontrol"):
        (programs / program).write_text("#!/bin/sh\nexit 0\n")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    answer = here(*CHEAP, *SLURM, "--home", str(tmp_path / name))
    assert answer.returncode == 2, answer.stderr
    assert "Slurm can't write logs below a path with" in answer.stderr
    assert not started.exists()
    assert not (tmp_path / name).exists()
