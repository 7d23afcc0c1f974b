"""Every command and every piece of code in the README runs.

A block's mark says how: `no-test` is left out, the launches of `long` get one agent and one or two jobs, its landscapes
5 points a side, `cifar` needs the real CIFAR-10 in the folder that QSWEEP_TEST_DATA names.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.targets import PREFIX
from qsweep.sweeps.training import Training
from tests.conftest import SCRIPT, Qsweep, environment

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str, mark: str) -> list[str]:
    return [text for kind, label, text in BLOCK.findall(README.read_text()) if (kind, label) == (language, mark)]


def commands(mark: str) -> list[list[str]]:
    lines = [line for block in blocks("sh", mark) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def test_every_block_has_a_known_mark() -> None:
    found = {(kind, mark) for kind, mark, _ in BLOCK.findall(README.read_text())}
    assert found <= {
        ("sh", ""),
        ("sh", "long"),
        ("sh", "cifar"),
        ("sh", "no-test"),
        ("python", ""),
        ("toml", ""),
    }


@pytest.mark.slow
def test_the_quick_commands_run(qsweep: Qsweep) -> None:
    for program, *arguments in commands(""):
        assert program in ("qsweep", "make")
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (README.parent / "Makefile").read_text(), re.MULTILINE)
        else:
            assert qsweep(*arguments).returncode == 0


def few(launch: list[str]) -> str:
    """How many jobs of it are trained: one more of a sweep that has some, and one of the largest models."""
    return "1" if "--limit" in launch or "digits-distortion" in launch else "2"


@pytest.mark.slow
def test_the_long_commands_run_one_after_the_other_and_then_the_python(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    for program, *arguments in commands("long"):
        assert program == "qsweep"
        if arguments[0] == "launch":
            arguments += ["--limit", few(arguments), "--workers", "1"]  # of an option given twice, the last one counts
        if "--points" in arguments:
            arguments[arguments.index("--points") + 1] = "5"
        answer = qsweep(*arguments)
        assert answer.returncode == 0, answer.stderr
    (code,) = blocks("python", "")
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(home),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "Table 1" in answer.stdout


@pytest.mark.slow
def test_the_cifar_commands_run_on_the_real_images(qsweep: Qsweep, real_data: str) -> None:
    launch, tables = commands("cifar")
    launch[launch.index("--data") + 1] = real_data
    narrow = ("--set", "channels_per_width=1", "--set", "batch_size=500")  # on all images, but a 25th as wide
    answer = qsweep(*launch[1:], *narrow, "--limit", "1", "--workers", "1", timeout=1200)
    assert answer.returncode == 0, answer.stderr
    answer = qsweep(*tables[1:])
    assert answer.returncode == 0
    assert "1/243" in answer.stdout


@pytest.mark.slow
def test_the_sweep_file_can_be_launched(qsweep: Qsweep, tmp_path: Path) -> None:
    (text,) = blocks("toml", "")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert len(read_sweep(str(path)).jobs()) == 12
    assert qsweep("plan", str(path)).returncode == 0


def test_the_table_of_settings_names_every_setting() -> None:
    text = README.read_text()
    named = set(re.findall(r"`(\w+)`", text[text.index("| setting |") : text.index("## What it promises")]))
    of_teachers = {name for name in Training.known() if name.startswith(PREFIX) and name.removeprefix(PREFIX) in named}
    assert Training.known() - of_teachers - {"quantizer", "precision"} <= named


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert not re.search(r"^[A-Z]+_[A-Z]+$|DEMO_", README.read_text(), re.MULTILINE)


def test_the_program_of_the_readme_is_installed() -> None:
    assert Path(SCRIPT).is_file()
