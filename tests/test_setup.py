"""`make setup` is quiet unless it fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

WALL = "a wall of warnings"
PYTHON = """#!/bin/sh
# Stands for python: makes an environment whose pip says a lot and ends with the code in CODE.
mkdir -p .venv/bin
cat > .venv/bin/python <<END
#!/bin/sh
echo {wall}; echo {wall} >&2; exit {code}
END
chmod +x .venv/bin/python
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("code", [0, 1])
def test_setup_shows_what_was_said_only_if_it_fails(tmp_path: Path, code: int) -> None:
    root = Path(__file__).parents[1]
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON.format(wall=WALL, code=code))
    python.chmod(0o755)
    answer = subprocess.run(
        ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    said = answer.stdout + answer.stderr
    assert (answer.returncode == 0) == (code == 0)
    assert (WALL in said) == (code != 0)
    assert WALL in (tmp_path / ".venv" / "setup.log").read_text()
    assert len([line for line in said.splitlines() if not line.startswith("make[")]) < 3 or code
