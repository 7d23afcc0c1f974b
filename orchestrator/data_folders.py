"""Whether the data sets of jobs can be where they have to be: asked before a process with torch reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from qsweep.db.home import Home
from qsweep.orchestrator.children import ask
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job, with_training
from qsweep.sweeps.questions import DescribeArrays
from qsweep.sweeps.spec import Spec


def keep_arrays(home: Home, spec: Spec, jobs: Iterable[Job]) -> None:
    """Keep the arrays of users that these jobs take in the folder of the data sets, where agents read them, if the
    sweep was read from a file that names them. Raises InputError."""
    for data in {job.training.data: None for job in with_training(jobs) if job.training.data.source}:
        if spec.folder and not (home.data / data.archive).is_file():
            question = DescribeArrays(source=data.source, folder=spec.folder, data=str(home.data), keep=True)
            found = ask(question, failing=f"reading {data.source}")
            if found["data_fingerprint"] != data.fingerprint:
                raise InputError("the data changed while it was read", place=f"data {data.source}")


def check_data(home: Home, jobs: Iterable[Job]) -> None:
    """Raise InputError for a folder of images that is not there, and for one that could not be downloaded."""
    for data in {job.training.data: None for job in with_training(jobs)}:
        if data.streamed:
            from qsweep.workers.decoding.listing import folder_of  # here: it imports numpy

            folder_of(data, home.data)
        elif data.folder is not None and not data.source and not home.data.exists():
            nearest = next(one for one in home.data.parents if one.exists())
            if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
                raise InputError(
                    f"{data.title} is not here, and can't be downloaded into a folder that can't be made",
                    place=f"--data {home.data}",
                    allowed=f"pass --data with the folder that contains {data.folder}",
                )
