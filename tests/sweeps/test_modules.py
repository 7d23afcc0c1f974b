"""Modules and arrays of users in a sweep file: their settings, their identity, and what is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qsweep.sweeps import files
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec

NET = """
import no_such_library

def build(data, *, width: int = 16, dropout: float = 0, act: str = "relu"):
    return None
"""
SWEEP = """
[fixed]
data = "digits"
model = "file:net.py:build"
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
epochs = 1
batch_size = 32
dropout = 0.5
[axes]
width = [4, 8]
bits = [32, 4]
"""
DESCRIBED: dict[str, Any] = {
    "data_shape": [30], "data_values": "float32", "data_classes": 2, "data_train": 456, "data_test": 113,
    "data_fingerprint": "0" * 32,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "s.toml").write_text(SWEEP)
    return tmp_path


def jobs(folder: Path, *changes: str) -> list[Job]:
    return read_sweep(str(folder / "s.toml"), changes).jobs()


def test_the_arguments_of_a_module_are_settings(folder: Path) -> None:
    found = jobs(folder)
    assert [(one.settings()["width"], one.settings()["bits"]) for one in found] == [(4, 32), (4, 4), (8, 32), (8, 4)]
    assert {(one.settings()["dropout"], one.settings()["act"]) for one in found} == {(0.5, "relu")}
    assert len({one.training.model for one in found}) == 2
    assert found[0].training.model.title == "net.build"
    assert [Job.from_json(one.to_json()) for one in found] == found
    spec = read_sweep(str(folder / "s.toml"))
    assert Spec.from_json(spec.to_json(), place="again").jobs() == found
    assert len({one.cohort_key for one in found}) == 2  # by width


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("width=2.5", "width: 2.5 is not a whole number"),
        ("act=3", "act: 3 is not a text"),
        ("depth=3", "axes|unused|depth"),
        ("model=file:net.py:bild", "defines no function 'bild'; did you mean 'build'"),
        ("model=file:none.py:build", "there is no file 'none.py'"),
        ("model=torchvision:", "is not known; allowed: file:PATH.py:NAME"),
        ("model=module", "'module' is not known"),
        ("data=arrays", "'arrays' is not known"),
    ],
)
def test_what_does_not_hold_is_refused_when_the_file_is_read(folder: Path, change: str, problem: str) -> None:
    if change.startswith("depth"):
        assert read_sweep(str(folder / "s.toml"), [change]).unused() == ["depth"]
        return
    if change.startswith(("model=torch", "model=module")):
        (folder / "s.toml").write_text(SWEEP.replace("dropout = 0.5\n", ""))
    name, _, value = change.partition("=")
    quoted = change if value[0].isdigit() else f"{name}='{value}'"
    with pytest.raises(InputError, match=problem.replace("(", r"\(")):
        jobs(folder, quoted)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("def build(data, *, epochs: int = 3): ...", "'epochs' is another setting of a sweep already"),
        ("def build(data, *, scaling: str = 'a'): ...", "'scaling' is another setting"),
        ("def build(*, width: int = 3): ...", "takes 0 arguments that are no settings, not 1"),
        ("def build(data, **more): ...", "takes any settings"),
        ("def build(data, *, width: int = f()): ...", "has to be written out"),
    ],
)
def test_a_function_that_can_not_be_a_module_is_refused(folder: Path, line: str, problem: str) -> None:
    (folder / "net.py").write_text(line)
    with pytest.raises(InputError, match=problem):
        jobs(folder)


def test_an_identity_holds_the_code_and_not_where_it_lies(folder: Path) -> None:
    before = [one.identity for one in jobs(folder)]
    (folder / "net.py").write_text(NET.replace("return None", "# a comment\n    return None"))
    assert [one.identity for one in jobs(folder)] == before
    (folder / "net.py").rename(folder / "other.py")
    assert [one.identity for one in jobs(folder, "model='file:other.py:build'")] == before
    (folder / "other.py").write_text(NET.replace("None", "3"))
    assert not set(before) & {one.identity for one in jobs(folder, "model='file:other.py:build'")}


def test_a_network_of_a_library_is_its_name(folder: Path) -> None:
    (folder / "s.toml").write_text(SWEEP.replace("dropout = 0.5\n", ""))
    (one, *_) = jobs(folder, "model='torchvision:resnet18'", "width=4")
    assert one.training.model.title == "resnet18"
    assert "model_code" not in one.settings()
    assert Job.from_json(one.to_json()) == one


def test_arrays_are_described_once_and_known_by_their_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(self: Any, question: Any) -> dict[str, Any]:
        asked.append(question.source)
        return DESCRIBED

    monkeypatch.setattr(files.Service, "ask", answer)
    spec = read_sweep(str(folder / "s.toml"), ["data='file:points.npz'"])
    found = spec.jobs()
    assert asked == ["file:points.npz"]
    data = found[0].training.data
    assert (data.shape, data.classes, data.train_images, data.title) == ((30,), 2, 456, "points.npz")
    assert [Job.from_json(one.to_json()) for one in found] == found
    assert Spec.from_json(spec.to_json(), place="again").jobs() == found
    other = read_sweep(str(folder / "s.toml"), ["data='file:elsewhere/p.npz'"]).jobs()
    assert [one.identity for one in other] == [one.identity for one in found]
    (folder / "s.toml").write_text(SWEEP.replace("dropout = 0.5\n", ""))
    with pytest.raises(InputError, match=r"NiN takes square images, and points\.npz holds"):
        read_sweep(str(folder / "s.toml"), ["data='file:points.npz'", "model=nin", "depth=2"]).jobs()
