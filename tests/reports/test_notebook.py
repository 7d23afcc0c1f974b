"""The code of the notebook guide runs, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.reports.made import SWEEP, finished, home_at

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "notebook.md"


def test_the_code_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(home_at(tmp_path), SWEEP, name="digits-grid")
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.setenv("QSWEEP_HOME", str(made.home.root))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), GUIDE, "exec"), {})  # a warning is an error here
    plt.close("all")
    said = capsys.readouterr()
    assert "done    24" in said.out
    assert not said.err
