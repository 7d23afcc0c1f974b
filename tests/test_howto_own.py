"""The pages about a user's model and data, and the examples, run as they are written."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import qsweep as api
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, environment

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)(?: ([\w.-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {"qsweep": QSWEEP, "python": (sys.executable,)}

pytestmark = pytest.mark.slow


def run(folder: Path, line: str, *more: str) -> str:
    program, *arguments = shlex.split(line)
    found = processes.run(
        [*PROGRAMS[program], *arguments, *more],
        cwd=folder, env=environment(folder / "home"), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return str(found.stdout)


@pytest.mark.parametrize("page", ["your-model", "your-data"])
def test_a_page_runs_from_top_to_bottom(tmp_path: Path, page: str) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "howto" / f"{page}.md").read_text())
    for _, name, text in blocks:
        if name:
            (tmp_path / name).write_text(text)
    lines = [line for kind, _, text in blocks if kind == "sh" for line in text.splitlines()]
    said = [run(tmp_path, line, *(("--workers", "1") if " launch " in line else ())) for line in lines]
    if page == "your-model":
        assert len(api.results("own", home=tmp_path / "home")) == 8
        assert [row.split()[0] for row in said[-1].splitlines()[1:]] == ["4", "4", "8", "8"]
    else:
        assert {sweep.split("@")[0] for sweep in said[-1].split() if "@" in sweep} | {"points"} == {"points"}


@pytest.mark.parametrize(
    ("name", "jobs", "changes"),
    [("mlp/mlp", 2, ("hidden=16", "dropout=0.2", "seed=0", "bits=[32, 2]", "epochs=2")),
     ("torchvision/digits", 3, ("epochs=1", "bits=4", "batch_size=721"))],
)  # fmt: skip
def test_an_example_runs(tmp_path: Path, name: str, jobs: int, changes: tuple[str, ...]) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    folder, file = (tmp_path / "examples" / name).parent, f"{Path(name).name}.toml"
    asked = [part for change in changes for part in ("--set", change)]
    run(folder, f"qsweep launch {file} --workers 1", *asked)
    assert f"{jobs} " in run(folder, "qsweep status")
