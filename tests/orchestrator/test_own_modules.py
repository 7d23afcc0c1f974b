"""A module and arrays of a user, by the command line: launched, killed, packed, and failing alone."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import qsweep as api
from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.workers import promises
from qsweep.workers.user_code import offer
from tests.conftest import QSWEEP, environment, wait_until_training
from tests.postgres import missing_postgres, running_server

pytestmark = pytest.mark.slow

NET = """
from torch import nn
from layers import Body

class Net(nn.Module):
    def __init__(self, data, *, hidden: int = 6, dropout: float = 0.2):
        super().__init__()
        self.body = Body(data.shape[0], hidden, dropout)
        self.head = nn.Linear(hidden, data.classes)

    def forward(self, rows):
        return self.head(self.body(rows))
"""
LAYERS = """
from torch import nn

class Body(nn.Sequential):
    def __init__(self, inputs, hidden, dropout):
        print("made")
        super().__init__(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout))
"""
SWEEP = """
tables = []
[fixed]
data = "file:points.npz"
model = "file:net.py:Net"
optimizer = "sgd"
learning_rate = 0.05
weight_decay = 0.0
epochs = 40
batch_size = 32
[axes]
bits = [32, 4]
seed = [0, 1]
[[measures]]
measure = "pac_bayes"
iterations = 2
copies = 2
"""
NUMBERS = ["train_loss", "test_loss", "last_train_loss", "weight_norm", "init_hash"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's files and a home in which their sweep is done."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NET)
    (folder / "layers.py").write_text(LAYERS)
    (folder / "own.toml").write_text(SWEEP)
    numbers = np.random.default_rng(0)
    labels = np.arange(400) % 3
    np.savez(folder / "points.npz", X=numbers.normal(size=(400, 4)) + 2 * labels[:, None], y=labels)
    found = qsweep(folder, "launch", "own.toml", "--workers", "1")
    assert found.returncode == 0, found.stderr
    assert "note:" not in found.stderr  # everything is promised of it
    return folder


def qsweep(folder: Path, *arguments: str, home: str = "home") -> subprocess.CompletedProcess[str]:
    return processes.run(
        [*QSWEEP, *arguments], env=environment(folder / home), cwd=folder, capture_output=True, text=True, timeout=600
    )


def own_files(launched: Path, folder: Path) -> Path:
    for name in ("net.py", "layers.py", "own.toml", "points.npz"):
        shutil.copy(launched / name, folder)
    return folder


def runs(home: Path, kind: str = "runs", columns: list[str] = NUMBERS) -> pd.DataFrame:
    return api.results("own", kind, home=home).set_index("job")[columns].sort_index()


def test_it_is_trained_and_measured(launched: Path) -> None:
    found = api.results("own", home=launched / "home")
    assert len(found) == 4
    assert (found.test_accuracy > 0.8).all()
    assert set(found.model) == {"file:net.py:Net"}
    assert set(found.model_arguments) == {'{"dropout": 0.2, "hidden": 6}'}
    layers = api.results("own", "layers", home=launched / "home")
    assert list(layers[layers.bits != 32].layer.unique()) == ["body.0", "head"]
    measured = api.results("own", "measures", home=launched / "home")
    assert len(measured) == 4
    assert set(measured.omega) == {4 * 6 + 6 * 3}
    for command in (("analyze", "own"), ("report", "own", "--out", "own.html"), ("figures", "own", "--out", "figures")):
        answer = qsweep(launched, *command)
        assert answer.returncode == 0, answer.stderr
    quantized = found[found.bits == 4].iloc[0]
    model = api.load_model(quantized.job, home=launched / "home")
    assert type(model).__name__ == "Net"
    with np.load(launched / "points.npz") as points:
        rows, labels = points["X"].astype(np.float32), points["y"]
    test = [place for label in range(3) for place in np.flatnonzero(labels == label)[4::5]]
    train = np.setdiff1d(np.arange(len(labels)), test)
    scaled = (rows - rows[train].mean(0)) / rows[train].std(0)
    with torch.no_grad():
        hits = (model(torch.from_numpy(scaled[test])).argmax(1).numpy() == labels[test]).mean()
    assert hits == pytest.approx(quantized.test_accuracy)
    again = qsweep(launched, "launch", "own.toml")
    assert "Nothing to do" in again.stderr, again.stderr


PICTURES = """
from torch import nn

def build(data, *, channels: int):
    return nn.Sequential(
        nn.Conv2d(data.channels, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(),
        nn.Linear(9 * channels, data.classes),
    )
"""
OF_PICTURES = """
tables = []
[fixed]
data = "digits"
model = "file:net.py:build"
channels = 4
optimizer = "adam"
learning_rate = 0.01
weight_decay = 0.0
epochs = 2
batch_size = 128
bits = 4
method = "sam"
rho = 0.05
[[measures]]
measure = "distortion"
corruption = "gaussian_noise"
severity = 3
"""


def test_it_is_trained_with_sam_distorted_and_its_landscape_drawn(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PICTURES)
    (tmp_path / "own.toml").write_text(OF_PICTURES)
    for command in (("launch", "own.toml"), ("landscape", "own", "--points", "3", "--out", "out")):
        answer = qsweep(tmp_path, *command, "--workers", "1")
        assert answer.returncode == 0, answer.stderr
    (run,) = api.results("own", home=tmp_path / "home").itertuples()
    (distorted,) = api.results("own", "distortions", home=tmp_path / "home").itertuples()
    assert distorted.corrupted_loss > run.test_loss
    (grid,) = (tmp_path / "out" / "grids").iterdir()
    points = pd.read_parquet(grid)
    centre = points[(points.x == 0) & (points.y == 0)].iloc[0]
    assert centre.loss == pytest.approx(run.train_loss, rel=1e-6)


def test_two_launchers_on_a_postgres_and_a_killed_agent_change_no_bit(launched: Path, tmp_path: Path) -> None:
    missing_postgres()
    folder = own_files(launched, tmp_path)
    home = folder / "home"
    with running_server() as server:
        surroundings = environment(home, {"QSWEEP_CHECKPOINT_STEPS": "20", "QSWEEP_REGISTRY": server.url})
        launchers = [
            processes.start(
                [*QSWEEP, "launch", "own.toml", "--workers", "2"], env=surroundings, cwd=folder,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        wait_until_training(home, 4, registry=server.url)
        with Registry.open(server.url) as registry:
            (sweep,) = registry.catalogue.sweeps()
            running = registry.catalogue.jobs(sweep.id, state=State.RUNNING)
            for pid in {registry.history.attempts(row.id)[-1].pid for row in running}:
                os.kill(pid, signal.SIGKILL)
        assert [one.wait(timeout=600) for one in launchers] == [0, 0]
        found = api.results("own", home=home, registry=server.url).set_index("job")
        assert (found.attempt > 1).all()
        pd.testing.assert_frame_equal(found[NUMBERS].sort_index(), runs(launched / "home"), check_exact=True)
        assert not audit(Home.at(home, registry=server.url))


def test_a_bundle_brings_the_module_along(launched: Path, tmp_path: Path) -> None:
    folder = own_files(launched, tmp_path)
    packed = qsweep(folder, "pack", "own.toml", "--with-data", "--out", "far")
    assert packed.returncode == 0, packed.stderr
    (folder / "net.py").unlink()
    shutil.rmtree(folder / "home" / "user_code")
    shutil.rmtree(folder / "home" / "data")
    worked = processes.run(
        [sys.executable, "far", "--workers", "1"], env=environment(tmp_path / "none"), cwd=folder,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert worked.returncode == 0, worked.stderr
    taken = qsweep(folder, "import", "far")
    assert "8 jobs counted" in taken.stdout, taken.stdout + taken.stderr
    pd.testing.assert_frame_equal(runs(folder / "home"), runs(launched / "home"), check_exact=True)
    measured = ["radius", "value_init", "init_hash"]
    pd.testing.assert_frame_equal(
        runs(folder / "home", "measures", measured), runs(launched / "home", "measures", measured), check_exact=True
    )


ODD = """
import os, sys, time
import numpy as np, torch

HOARD = []

class Odd(Net):
    def forward(self, rows):
        if self.training:
            self.steps += 1
        what = self.what if self.training and self.steps >= 100 or self.what == "never finite" else ""
        if what == "prints":
            print("{}")
            open("/dev/null").close()
        elif what == "raises":
            raise KeyError("step 100")
        elif what == "exits":
            sys.exit(3)
        elif what == "forks":
            os.fork()
        elif what == "leaks":
            HOARD.extend(np.zeros(1 << 28) for _ in range(1000))
        elif what == "hangs":
            time.sleep(3600)
        elif what in ("nan", "never finite"):
            return super().forward(rows) * float("nan")
        return super().forward(rows)

    def __init__(self, data, *, what: str):
        super().__init__(data)
        self.what = what
        self.register_buffer("steps", torch.zeros(()))
"""


DONE = ("fine", "prints", "forks", "nan", "never finite")


@contextmanager
def room(memory: int) -> Iterator[None]:
    """What is started meanwhile has so many bytes of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_module_that_misbehaves_ends_in_its_class_and_takes_nobody_with_it(launched: Path, tmp_path: Path) -> None:
    """What is printed, forked or NaN ends no training, and what exits, hangs or takes all memory its own alone."""
    folder = own_files(launched, tmp_path)
    (folder / "net.py").write_text(NET + ODD)
    sweep = SWEEP.partition("[[measures]]")[0].replace("net.py:Net", "net.py:Odd").replace("bits = [32, 4]\n", "")
    sweep = sweep.replace("seed = [0, 1]", f"what = {['leaks', *DONE, 'raises', 'exits', 'hangs']}")
    (folder / "own.toml").write_text(sweep.replace("epochs = 40", "epochs = 12\nbits = 32"))
    with room(16 << 30):
        launcher = processes.start(
            [*QSWEEP, "launch", "own.toml", "--workers", "1", "--lease", "3", "--time-limit", "60"],
            env=environment(folder / "home"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    said = launcher.communicate(timeout=600)[1]
    assert launcher.returncode == 1, said
    with Registry.open(folder / "home" / "registry.db") as registry:
        (sweep_row,) = registry.catalogue.sweeps()
        rows = {str(row.job.settings()["what"]): row for row in registry.catalogue.jobs(sweep_row.id)}
        errors = {what: registry.history.attempts(row.id)[-1].error for what, row in rows.items()}
    assert {what for what, row in rows.items() if row.state is State.DONE} == set(DONE)
    # What was finite before the NaN counts, as of any training; without one finite epoch there is no model.
    assert {what for what, row in rows.items() if row.diverged} == {"never finite"}
    trained = runs(folder / "home", columns=["chosen_epoch", "last_train_loss"])
    assert dict(trained.loc[rows["nan"].identity].isna()) == {"chosen_epoch": False, "last_train_loss": True}
    pd.testing.assert_series_equal(
        trained.loc[rows["fine"].identity], trained.loc[rows["prints"].identity], check_names=False, check_exact=True
    )
    ends = {what: row.failure_class for what, row in rows.items() if row.state is State.FAILED}
    assert ends == {"raises": "crash", "exits": "crash", "hangs": "timeout", "leaks": "memory"}
    shown = qsweep(folder, "show", rows["raises"].identity).stdout
    assert "KeyError: 'step 100'" in shown
    assert "net.py" in shown
    assert "net.py" in errors["leaks"]
    assert "sys.exit(3)" in errors["exits"]
    assert "time.sleep(3600)" in errors["hangs"]
    assert not audit(Home.at(folder / "home"))


def test_what_fails_at_once_is_said_before_anything_is_registered(launched: Path, tmp_path: Path) -> None:
    folder = own_files(launched, tmp_path)
    (folder / "net.py").write_text(NET.replace("return self.head(self.body(rows))", "raise KeyError('no')"))
    found = qsweep(folder, "launch", "own.toml", "--workers", "1")
    assert found.returncode == 2
    assert "it raises KeyError: 'no' (net.py, line 12" in " ".join(found.stderr.split())
    assert not (folder / "home" / "registry.db").exists()


def looked_at(folder: Path, *changes: str) -> list[str]:
    """What the check of a launch says of a training of this module on the digits, so changed."""
    net = NET.replace("data.shape[0]", "64").replace("self.body(rows)", "self.body(rows.flatten(1))")
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        net = net.replace(old, new)
    (folder / "net.py").write_text(net)
    (folder / "layers.py").write_text(LAYERS)
    (folder / "own.toml").write_text(SWEEP.replace("file:points.npz", "digits").replace("[32, 4]", "[32]"))
    spec = read_sweep(str(folder / "own.toml"))
    offer(
        [{"main": one.main, "files": {name: text.decode() for name, text in one.files.items()}} for one in spec.sources]
    )
    trainings = [job.training for job in spec.jobs() if job.training is not None][:1]
    return promises.check_modules(trainings, torch.device("cpu"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("super().__init__()", "raise KeyError('no')", r"it raises KeyError: 'no' \(net.py, line 7"),
        ("super().__init__()", "import sys; sys.exit(4)", r"the module called sys.exit\(4\) \(net.py, line 7"),
        ("rows.flatten(1)))", "rows.flatten(1))).sum()", r"it makes a tensor \(\)"),
    ],
)
def test_what_a_module_does_wrong_at_once_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        looked_at(tmp_path, old, new)


def test_a_buffer_in_whose_place_a_module_puts_another_is_said(tmp_path: Path) -> None:
    counting = "self.steps = self.steps + 1\n        return self.head("
    buffer = "import torch; self.register_buffer('steps', torch.zeros(())); self.head ="
    (said,) = looked_at(tmp_path, "return self.head(", counting, "self.head =", buffer)
    assert "it puts another tensor in the place of its buffer steps, which is lost: change it in place" in said


@pytest.mark.parametrize(
    ("where", "place"),
    [("self.head = nn.Linear(hidden, data.classes)", "__init__"), ("return self.head(", "forward")],
)
def test_a_module_that_hangs_does_not_hang_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, place: str
) -> None:
    monkeypatch.setattr(promises, "LIMIT", 2.0)
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"still at work after 2 s \(net.py, line \d+, in {place}\)"):
        looked_at(tmp_path, where, f"import time; time.sleep(600); {where}")
    assert time.monotonic() - began < 60


def test_what_can_not_be_promised_is_said(launched: Path, tmp_path: Path) -> None:
    folder = own_files(launched, tmp_path)
    counting: Any = NET.replace("self.head = ", "self.calls = 0\n        self.head = ").replace(
        "return self.head(", "self.calls += 1\n        return self.calls * self.head("
    )
    (folder / "net.py").write_text(counting)
    found = qsweep(folder, "launch", "own.toml", "--workers", "1", "--set", "epochs=1", "--where", "bits == 32")
    assert found.returncode == 0, found.stderr
    assert "two equal trainings end with other bits" in " ".join(found.stderr.split())
