"""The GPU day on a processor: the same command, stages and files, where neither GPU nor qsweep's dependencies are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_day import __main__ as command
from benchmarks.gpu_day import packing
from benchmarks.gpu_day.piece import NotHere
from benchmarks.gpu_day.sheet import Figure, Sheet, Verdict, table
from benchmarks.gpu_day.stages import STAGES
from benchmarks.images import noise
from qsweep.sweeps.errors import InputError

ROOT = Path(__file__).parent.parent
FAR = {"torch", "numpy", "pandas", "pyarrow"}
BLOCKER = """
import os, sys
from importlib.machinery import PathFinder
given = os.environ["PYTHONPATH"].split(os.pathsep)
sys.path[:] = [one for one in sys.path if one in given or not os.path.isdir(os.path.join(one, "qsweep"))]
present = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {names!r} else present(name, path, target)
PathFinder.find_spec = find_spec
"""
BREAKER = """
import os, sys, time
if "benchmarks.gpu_day.stage" in sys.orig_argv:
    from qsweep.workers.models import forming
    whole = forming.arithmetic_of
    def broken(form, *given, **named):
        if form == "grouped":
            raise RuntimeError("broken on purpose")
        if form == "loop":
            if os.path.exists({hung!r}):
                os.abort()
            open({hung!r}, "w").close()
            time.sleep(600)
        return whole(form, *given, **named)
    forming.arithmetic_of = broken
"""
Day = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def day(tmp_path: Path) -> Day:
    """Start a day in `tmp_path/out`, where qsweep is not installed, and of all that it depends on only FAR."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^a-z-]", one)[0] for one in declared} - FAR - {"scikit-learn"} | {"sklearn", "ray"}
    assert {"sqlalchemy", "pydantic", "typer", "torchvision"} <= names

    def start(*arguments: str, also: str = "") -> subprocess.Popen[str]:
        (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(names=names) + also)
        search = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_day", "--device", "cpu", "--out", str(tmp_path / "out"), *arguments],
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def sheet_of(out: Path, stage: str) -> dict[str, Any]:
    path = out / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else {"figures": {}, "now": None, "missing": []}


@pytest.mark.slow
def test_a_killed_day_goes_on_and_neither_a_broken_form_nor_one_that_crashes_stops_it(day: Day, tmp_path: Path) -> None:
    out, hung = tmp_path / "out", tmp_path / "hung"
    options = ("--minutes", "60", "--only", "runs/equal", "--only", "portion")
    breaker = BREAKER.replace("{hung!r}", repr(str(hung)))
    first = day(*options, also=breaker)
    while not hung.exists():  # the second form is at work, and stays so
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = sheet_of(out, "runs")
    assert list(kept["figures"]) == ["equal/gather"]
    assert kept["now"]["name"] == "equal/loop"

    second = day(*options, also=breaker)
    said, _ = second.communicate(timeout=500)
    assert second.returncode == 1, said
    runs = sheet_of(out, "runs")
    assert runs["missing"] == []
    figures = runs["figures"]
    verdicts = {"equal/gather": "met", "equal/loop": "failed", "equal/grouped": "failed"}
    assert {name: one["verdict"] for name, one in figures.items()} == verdicts
    assert figures["equal/gather"] == kept["figures"]["equal/gather"]  # not done again
    assert "runs/equal/gather: " not in said
    assert "in broken\n" in figures["equal/grouped"]["traceback"]
    assert "RuntimeError: broken on purpose" in said
    assert "SIGABRT" in figures["equal/loop"]["figure"]
    assert sheet_of(out, "portion")["figures"]["digits"]["verdict"] == "not here"
    table = (out / "table.md").read_text()
    assert table in said
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [(row[0].strip("| "), row[-1].strip("| ")) for row in rows if "failed" in row[-1]] == [
        ("runs/equal/loop", "failed"),
        ("runs/equal/grouped", "failed"),
    ]


HANGING = """
import sys, time
from pathlib import Path
from benchmarks.gpu_day.sheet import Sheet
Sheet(Path(sys.argv[1]), {}).begin("equal/gather", "", float(sys.argv[2]))
time.sleep(600)
"""


@pytest.mark.parametrize(("limit", "left", "ended"), [(0.1, 500, command.HUNG), (500, -500, command.OVERDUE)])
def test_a_process_that_hangs_or_outlasts_its_stage_is_ended(
    tmp_path: Path, limit: float, left: float, ended: int
) -> None:
    hold = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    hanging = [sys.executable, "-c", HANGING, str(tmp_path / "runs.json"), str(limit)]
    code, said = command._process(STAGES[0], tmp_path, hanging, time.time() + left, hold)
    os.close(hold)
    assert code == ended
    with command._hold(tmp_path):  # nobody has inherited the lock and lives
        assert "hung" in said if ended == command.HUNG else "time is over" in said


def test_an_unknown_stage_is_refused_before_anything_is_written(day: Day, tmp_path: Path) -> None:
    process = day("--only", "sped")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "sped" in said
    assert "speed" in said
    assert not (tmp_path / "out").exists()


def test_figures_of_another_machine_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    one = Sheet(path, {"name": "H100"})
    one.add("equal/gather", Figure(target="", figure="", verdict=Verdict.MET))
    assert Sheet(path, {"name": "H100"}).is_done("equal/gather")
    with pytest.raises(InputError, match="H200"):
        Sheet(path, {"name": "H200"})


def test_a_piece_that_was_cut_off_is_not_done_and_a_failed_one_is_done_again_if_asked(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "runs.json", {})
    for verdict in Verdict:
        sheet.add(f"some/{verdict}", Figure(target="", figure="", verdict=verdict))
    assert [one for one in Verdict if not sheet.is_done(f"some/{one}")] == [Verdict.GOES_ON]
    sheet.forget("other")
    assert sheet.is_done("some/failed")
    sheet.forget("some")
    assert [one for one in Verdict if sheet.is_done(f"some/{one}")] == [Verdict.MET, Verdict.MEASURED]


def test_the_table_has_each_figure_and_how_many_pieces_are_left(tmp_path: Path) -> None:
    some = {"runs/one": Figure(target="a | b", figure="two\nlines", verdict=Verdict.MET)}
    assert table(some, ["runs/one", "speed/two", "speed/three"]).splitlines()[2:] == [
        "| runs/one | a \\| b | two lines | met |",
        "| speed | | 2 pieces without time yet | goes on |",
    ]


def test_images_travel_in_parts_and_are_of_use_when_all_are_there(tmp_path: Path) -> None:
    images = noise("cifar10", 30, 10)
    far, work = tmp_path / "far", tmp_path / "work"
    far.mkdir()
    packing.write_parts(images, far)
    last = sorted(far.iterdir())[-1]
    last.rename(tmp_path / last.name)
    assert packing.unpacked(far, work) == work
    with pytest.raises(NotHere, match=last.name):
        packing.archive(work, far, "cifar10")
    (tmp_path / last.name).rename(last)
    packing.unpacked(far, work)
    with np.load(packing.archive(work, far, "cifar10") / "cifar10.npz") as found:
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            assert torch.equal(torch.from_numpy(found[name]), getattr(images, name))
