"""What is installed: one package `qsweep`, beside which a user may have packages of any other name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qsweep.sweeps.code import ROOT as SOURCE
from tests.reports.made import Made, finished, home_at

ROOT = Path(__file__).parents[1]
ROOMS = ("sweeps", "db", "workers", "reports", "orchestrator")


def files_of(folder: Path) -> set[str]:
    """The code of a folder, and what it reads."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, from a copy: a build leaves files beside what it builds."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*ROOMS, "src"):
        leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leftovers)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    answer = subprocess.run(build, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (made,) = (copy / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installation of the wheel brings."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_an_installation_brings_one_name_with_everything_in_it(installed: Path) -> None:
    brought = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert brought == {"qsweep"}
    expected = {f"{room}/{name}" for room in ROOMS for name in files_of(ROOT / room)} | {"__init__.py"}
    assert files_of(installed / "qsweep") == expected
    assert not any(path.is_symlink() for path in installed.rglob("*"))


@pytest.mark.slow
def test_what_is_installed_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "QSWEEP_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "import qsweep.orchestrator.cli as it; print(it.__file__); it.main()"]
    answer = subprocess.run(
        [*command, "plan", "digits-grid"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(str(installed))
    assert "972" in answer.stdout


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return finished(home_at(tmp_path))


PROJECT = """
import sys
import db, sweeps, workers, reports, orchestrator
import qsweep
import qsweep.orchestrator.cli

assert [room.MINE for room in (db, sweeps, workers, reports, orchestrator)] == [True] * 5
assert qsweep.InputError.__module__ == "qsweep.sweeps.errors"
runs = qsweep.results("made", home=sys.argv[1])
print(len(runs), db.count(runs), len(qsweep.query("SELECT * FROM runs", home=sys.argv[1])))
print(len(qsweep.tables("made", home=sys.argv[1])) > 100)
assert [room.MINE for room in (db, sweeps, workers, reports, orchestrator)] == [True] * 5
"""


def test_a_project_with_packages_of_these_names_calls_qsweep_in_one_process(made: Made, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for room in ROOMS:
        (project / room).mkdir(parents=True)
        (project / room / "__init__.py").write_text("MINE = True\ndef count(rows):\n    return len(rows)\n")
    (project / "analyse.py").write_text(PROJECT)
    answer = subprocess.run(
        [sys.executable, "analyse.py", str(made.home.root)],
        cwd=project, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "24 24 24\nTrue\n"


@pytest.mark.slow
def test_the_package_imports_no_module_of_ours_by_a_name_of_its_own() -> None:
    """Neither the checkout, which is the current folder here, nor an installation is found by the folders' names."""
    code = (
        "import qsweep.orchestrator.launcher, qsweep.workers.agent.loop, qsweep.reports.answers, sys; "
        f"print(*(set(sys.modules) & set({ROOMS!r})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert answer.stdout == "\n"
