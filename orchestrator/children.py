"""What child processes are started with, and questions to those that have torch."""

from __future__ import annotations

import os
from typing import Any

from qsweep.db.home import Home
from qsweep.sweeps.questions import Question
from qsweep.sweeps.service import ask_once
from qsweep.workers.environment import KEEP_MEMORY, gpu_environment


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


def ask(question: Question, *, failing: str, watched: bool = False, gpu: int | None = None) -> dict[str, Any]:
    """What a child process with torch answers. Raises the error that it answers with, as it was there.

    Of one that dies it says what was `failing`. What a `watched` one writes to stderr is seen as it comes. With `gpu`
    it sees that one of this process's GPUs alone.
    """
    environment = child_environment()
    surroundings = environment if gpu is None else environment | gpu_environment(gpu, environment)
    return ask_once(question, surroundings, failing=failing, watched=watched)
