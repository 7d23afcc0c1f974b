"""Questions to child processes, for what needs torch: each answers with one line of JSON, or with its error."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from qsweep.db.home import Home
from qsweep.sweeps import processes
from qsweep.sweeps.errors import QsweepError, raise_packed
from qsweep.workers.environment import KEEP_MEMORY, gpu_environment

MOST = 2000
"""Characters of what a child said before it died."""


def child_environment() -> dict[str, str]:
    """What a child process of ours is started with: no module from the current folder."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def worker_environment(home: Home, *, threads: int, gpu: int | None = None) -> dict[str, str]:
    """The environment of one agent: its registry, its share of the machine, and no module from the current folder."""
    environment = child_environment() | {"QSWEEP_REGISTRY": home.registry}
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = str(threads)
    environment = KEEP_MEMORY | environment
    return environment if gpu is None else environment | gpu_environment(gpu, environment)


def ask_child(
    module: str, *arguments: str, failing: str, watched: bool = False, gpu: int | None = None
) -> dict[str, Any]:
    """What `python -m MODULE ARGUMENTS` answers. Raises the error that it answers with, as it was there.

    Of one that dies it says what was `failing`. What a `watched` one writes to stderr is seen as it comes. With `gpu`
    it sees that one of this process's GPUs alone.
    """
    environment = child_environment()
    answer = processes.run(
        [*processes.PYTHON, module, *arguments],
        stdout=subprocess.PIPE,
        stderr=None if watched else subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment if gpu is None else environment | gpu_environment(gpu, environment),
        check=False,
    )
    lines = answer.stdout.splitlines()
    found = _parsed(lines[-1]) if lines else None
    if found is not None:
        raise_packed(found)
    if answer.returncode or found is None:
        raise QsweepError(f"{failing} failed:\n{(answer.stderr or '').strip()[-MOST:]}".rstrip(":\n"))
    return found


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
