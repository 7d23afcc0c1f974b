"""The pages about functions and scripts of one's own run as they are written, and so do the starter and the example."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qsweep.sweeps import processes
from tests.conftest import QSWEEP, environment

ROOT = Path(__file__).parent.parent
PAGES = ("your-script", "from-optuna", "from-hydra", "from-ray-tune", "from-wandb")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(folder: Path, *words: str) -> str:
    found = processes.run(
        list(words), env=environment(folder / "home"), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return str(found.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "howto" / f"{page}.md").read_text())
    first = {language: next(text for kind, text in blocks if kind == language) for language in ("python", "toml", "sh")}
    (tmp_path / "train.py").write_text(first["python"])
    (tmp_path / "mine.toml").write_text(first["toml"])
    said = ""
    for line in first["sh"].splitlines():
        _, command, *words = shlex.split(line)
        said = run(tmp_path, *QSWEEP, command, *words, *(["--workers", "1"] if command == "launch" else []))
    assert said.strip()


@pytest.mark.slow
def test_the_other_blocks_of_the_page_about_scripts_run(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "howto" / "your-script.md").read_text())
    python = [text for kind, text in blocks if kind == "python"]
    tables = [text for kind, text in blocks if kind == "toml" and "[[tables]]" in text]
    answers = [text for kind, text in blocks if kind == "sh" and "qsweep report" in text]
    (tmp_path / "train.py").write_text(python[0])
    (tmp_path / "best.toml").write_text(tables[0].replace("[[tables]]\n", ""))
    program = 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in python[1].splitlines())
    (tmp_path / "on_my_own.py").write_text(program)
    surroundings = environment(tmp_path / "home")
    subprocess.run([sys.executable, "on_my_own.py"], env=surroundings, cwd=tmp_path, check=True, capture_output=True)
    table = run(tmp_path, *QSWEEP, "tables", "mine", "--table", "best.toml", "--format", "csv")
    assert [line.split(",")[0] for line in table.splitlines()] == ["act", "gelu", "relu"]
    for line in answers[0].splitlines():
        assert run(tmp_path, *QSWEEP, *shlex.split(line)[1:]) is not None
    assert "By activation" not in (page := (tmp_path / "mine.html").read_text())
    assert "paper" not in re.sub(r"<(script|style|pre)[^>]*>.*?</\1>", "", page, flags=re.DOTALL).lower()


@pytest.mark.slow
def test_what_init_writes_runs_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, *QSWEEP, "init", "mine")
    assert "18 of 18 jobs" in run(tmp_path, *QSWEEP, "plan", "mine/mine.toml")
    run(tmp_path, *QSWEEP, "launch", "mine/mine.toml", "--workers", "1")
    assert "8 of 8 jobs" in run(tmp_path, *QSWEEP, "plan", "mine/mine-net.toml")
    again = processes.run(
        [*QSWEEP, "init", "mine"], env=environment(tmp_path / "home"), cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "is there already" in str(again.stderr)


@pytest.mark.slow
def test_the_example_of_a_script_runs(tmp_path: Path) -> None:
    sweep = str(ROOT / "examples" / "script" / "svm.toml")
    run(tmp_path, *QSWEEP, "launch", sweep, "--where", "seed == 0 and c == 1.0", "--workers", "1")
    asked = "SELECT kernel, test_accuracy FROM returned ORDER BY kernel"
    table = run(tmp_path, *QSWEEP, "query", asked, "--format", "csv")
    accuracies = [float(line.split(",")[1]) for line in table.splitlines()[1:]]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.95
