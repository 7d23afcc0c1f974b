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


def until(true: Callable[[], bool], what: str, seconds: float = 600, slurm: dict[str, str] | None = None) -> None:
    """Wait until that is so, or fail and say what was waited for, and where Slurm is given what it says of itself."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"in {seconds:g} s it did not come about that {what}" + (condition(slurm) if slurm else ""))
        time.sleep(0.3)


def in_service(slurm: dict[str, str]) -> bool:
    """Whether the node takes jobs. Done for it what its administrator would do: put back what Slurm took away from it.

    A slow machine drains a node by itself, when a job that was requeued meets what is left of its first run.
    """
    node, state = ask(slurm, "sinfo", "--noheader", "--partition=main", "--format=%n %T").split()
    if state.startswith(("drain", "down")):
        ask(slurm, "scontrol", "update", f"nodename={node}", "state=resume")
    for line in ask(slurm, "squeue", "--noheader", "--format=%A %r").splitlines():
        job, _, reason = line.partition(" ")
        if reason == "launch failed requeued held":
            ask(slurm, "scontrol", "release", job)
    return state.rstrip("-") in ("idle", "mixed", "allocated", "planned")


def condition(slurm: dict[str, str]) -> str:
    """Slurm's node, its queue and the ends of its daemons' logs, for the message of a test that fails."""
    logs = [Path(slurm["SLURM_CONF"]).with_name(f"{daemon}.log") for daemon in ("slurmctld", "slurmd")]
    ends = ["\n".join(log.read_text(errors="replace").splitlines()[-40:]) for log in logs]
    return "\n".join(["", ask(slurm, "sinfo", "--Node", "--long"), ask(slurm, "squeue"), *ends])
