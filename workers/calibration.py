"""One candidate of a calibration: made ready first, so that the processes of all cores measure at the same time."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from qsweep.sweeps.questions import Measure, WarmUp
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.compiling import CompilationFailed
from qsweep.workers.data import find
from qsweep.workers.device import this_device
from qsweep.workers.forms import Form
from qsweep.workers.promises import why_not_stacked
from qsweep.workers.user_code import look_in

WARM_UP = 2
"""Steps before the clock runs."""
_ready: tuple[Cohort, int, torch.device] | None = None
"""The cohort that is ready, and how many steps its epochs have: a process measures one candidate."""


def warm_up(asked: WarmUp) -> dict[str, Any]:
    """Make a full cohort ready to measure: nothing, or why it can't be."""
    global _ready
    torch.set_num_threads(1)
    device = this_device()
    look_in(Path(asked.user_code))
    trainings = [Training.from_settings(settings) for settings in asked.trainings]
    images = find(trainings[0].data, Path(asked.data), download=False)
    if asked.form == Form.VMAP and (problem := why_not_stacked(trainings[0], asked.slots, device)) is not None:
        return {"unavailable": problem}
    try:
        cohort = Cohort(trainings, images, slots=asked.slots, form=Form(asked.form), device=device)
        for _ in range(min(WARM_UP, cohort.steps)):
            cohort.step()
        _finish(device)
    except torch.OutOfMemoryError:
        return {"too_large": True}
    except CompilationFailed as error:
        return {"unavailable": str(error)}
    _ready = cohort, trainings[0].steps_per_epoch, device
    return {}


def measure(asked: Measure) -> dict[str, Any]:
    """Seconds a step of the cohort that is ready, and the largest memory of this process (on a GPU: of the GPU) in
    bytes."""
    assert _ready is not None
    cohort, steps_per_epoch, device = _ready
    try:
        seconds = _seconds_of_a_step(cohort, steps_per_epoch, asked.seconds, device)
    except torch.OutOfMemoryError:
        return {"too_large": True}
    cohort.close()
    return {"seconds": seconds, "peak": _peak(device)}


def _seconds_of_a_step(cohort: Cohort, steps_per_epoch: int, duration: float, device: torch.device) -> float | None:
    """The mean over about `duration` seconds; None if there was no time for a step.

    The last batch of an epoch may be smaller: its first step, which records or compiles what such steps run, is not
    counted.
    """
    spent, steps = 0.0, 0
    while spent < duration and not cohort.finished:
        first_of_its_size = cohort.position == steps_per_epoch - 1
        started = time.perf_counter()
        cohort.step()
        _finish(device)
        if not first_of_its_size:
            spent += time.perf_counter() - started
            steps += 1
    return spent / steps if steps else None


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
