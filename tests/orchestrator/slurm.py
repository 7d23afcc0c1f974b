"""A Slurm of one node for the tests: real daemons, brought up by the script that developers use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "one-node.sh"
LARGEST_ARRAY = 4


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach it. Skips visibly where Slurm is not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path=path) is None]:
        why = f"not installed: {', '.join(missing)}"
        if "slurm" in os.environ.get("QSWEEP_REQUIRE", ""):
            pytest.fail(f"QSWEEP_REQUIRE asks for Slurm: {why}")
        pytest.skip(why)
    # Not below pytest's own folder, which is closed to others: munged wants its socket within everyone's reach.
    folder = Path(tempfile.mkdtemp(prefix="qsweep-slurm-"))
    folder.chmod(0o755)
    up = [str(SCRIPT), "up", str(folder), "2"]
    try:
        answer = subprocess.run(
            up,
            env=os.environ | {"MAX_ARRAY_SIZE": str(LARGEST_ARRAY + 2), "MAX_ARRAY_TASKS": str(LARGEST_ARRAY)},
            capture_output=True,
            text=True,
            timeout=6000,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([str(SCRIPT), "down", str(folder)], capture_output=True, timeout=600, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def ask(slurm: dict[str, str], *command: str) -> str:
    """What one of Slurm's commands prints."""
    answer = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def until(true: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """Wait until that is so, or fail and say what was waited for."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"in {seconds:g} s it did not come about that {what}")
        time.sleep(0.3)
