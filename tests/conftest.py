"""What tests share: the command line as a user runs it, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # as in an agent: with more, sums have another order, and the results other last bits

QSWEEP = str(Path(sys.executable).with_name("qsweep"))
Qsweep = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command with its home at `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QSWEEP_")}
    return kept | {"QSWEEP_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(extra or {})}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a test's sweeps live; not made yet."""
    return tmp_path / "home"


@pytest.fixture
def qsweep(home: Path, tmp_path: Path) -> Qsweep:
    """Run `qsweep` with these arguments in an empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        extra = options.pop("environment", None)
        assert extra is None or isinstance(extra, dict)
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [QSWEEP, *arguments],
            env=environment(home, extra),
            cwd=folder,
            capture_output=True,
            text=True,
            **{"timeout": 300, **options},
        )

    return run
