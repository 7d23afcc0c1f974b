"""One candidate of a calibration: `python -m qsweep.workers.calibration`, for `qsweep calibrate`.

Reads the candidate from the first line of its input, prints `ready` when it is warm, waits for the next line, so
that the processes of all cores measure at the same time, and prints one line of figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from qsweep.sweeps.errors import QsweepError, packed
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.compiling import CompilationFailed
from qsweep.workers.data import find
from qsweep.workers.device import this_device
from qsweep.workers.forms import Form

WARM_UP = 2
"""Steps before the clock runs."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the data sets")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    try:
        found = measure(json.loads(sys.stdin.readline()), folder)
    except torch.OutOfMemoryError:
        found = {}
    except CompilationFailed as error:
        found = {"unavailable": str(error)}
    except QsweepError as error:
        found = packed(error)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def measure(candidate: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds a step of a full cohort, and the largest memory of this process (on a GPU: of the GPU) in bytes."""
    device = this_device()
    trainings = [Training.from_settings(settings) for settings in candidate["trainings"]]
    images = find(trainings[0].data, folder, download=False)
    cohort = Cohort(trainings, images, slots=candidate["slots"], form=Form(candidate["form"]), device=device)
    for _ in range(min(WARM_UP, cohort.steps)):
        cohort.step()
    _finish(device)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    seconds = _seconds_of_a_step(cohort, trainings[0].steps_per_epoch, candidate["seconds"], device)
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


if __name__ == "__main__":
    sys.exit(main())
