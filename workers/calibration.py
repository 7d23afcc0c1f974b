"""One candidate of a calibration: `python -m workers.calibration`, for `qsweep calibrate`.

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

from sweeps.errors import QsweepError
from sweeps.training import Training
from workers.cohort import Cohort
from workers.data import find
from workers.forms import Form

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
        found = {"problem": "out of memory"}
    except QsweepError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def measure(candidate: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds a step of a full cohort, and the largest memory of this process (on a GPU: of the GPU) in bytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainings = [Training.from_settings(settings) for settings in candidate["trainings"]]
    images = find(trainings[0].data, folder, download=False)
    cohort = Cohort(trainings, images, slots=candidate["slots"], form=Form(candidate["form"]), device=device)
    for _ in range(min(WARM_UP, cohort.steps)):
        cohort.step()
    _finish(device)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < candidate["seconds"] and not cohort.finished:
        cohort.step()
        _finish(device)
        steps += 1
    seconds = (time.perf_counter() - started) / max(steps, 1)
    cohort.close()
    return {"seconds": seconds if steps else None, "peak": _peak(device)}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
