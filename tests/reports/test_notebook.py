"""The code of the notebook guide runs, one block after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import environment
from tests.reports.made import SWEEP, finished, home_at

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "notebook.md"


def test_the_code_of_the_guide_runs(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), SWEEP, name="digits-grid")
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    answer = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        env=environment(made.home.root, {"MPLBACKEND": "Agg", "MPLCONFIGDIR": os.fspath(tmp_path)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "done    24" in answer.stdout
    assert "Warning" not in answer.stderr
