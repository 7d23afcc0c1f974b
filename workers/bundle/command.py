"""`python -m qsweep.workers BUNDLE`: work off a bundle on this machine.

Needs Python 3.11, torch, numpy and pyarrow alone.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import sys
import time
from pathlib import Path

from qsweep.db.home import Home
from qsweep.sweeps import code as own_code
from qsweep.sweeps import processes
from qsweep.sweeps.code import clear_bytecode, is_intact, is_of_older_layout
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.job import with_training
from qsweep.sweeps.questions import Probe
from qsweep.sweeps.service import ask_once
from qsweep.sweeps.training import different_needs
from qsweep.sweeps.wholefiles import clear_folder, whole_folder
from qsweep.sweeps.words import counted
from qsweep.workers.bundle.archive import unpack
from qsweep.workers.bundle.local_queue import LocalQueue
from qsweep.workers.bundle.manifest import Manifest, read_manifest
from qsweep.workers.bundle.parcel import write_results
from qsweep.workers.bundle.runner import Crew, Runner

LEAVING = 20.0
"""Seconds in which the agents of an earlier run notice that it is gone."""
DESCRIPTION = """Train and measure the jobs of a bundle that `qsweep pack` made, with every GPU of this machine, or one
process a core. The same command goes on where it was, whatever ended it. `qsweep import` takes the results."""


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        folder = _folder(given.bundle)
        manifest = read_manifest(folder)
        _become_packed_code(folder, manifest, given)
        hold = _take_hold(folder)
        code = _work(folder, manifest, given, hold)
        if given.results is not None:
            size = write_results(folder, given.results, models=given.models)
            sys.stderr.write(f"results: {given.results}, {size / 1e6:.1f} MB; bring them home with: qsweep import\n")
        return code
    except QsweepError as error:
        sys.stderr.write(f"workers: {error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qsweep.workers", description=DESCRIPTION)
    parser.add_argument("bundle", type=Path, help="the folder or .zip file that `qsweep pack` wrote")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data sets, if the bundle has them not")
    parser.add_argument("--workers", type=_count, metavar="N", help="agents [one per GPU, else one per core]")
    parser.add_argument(
        "--time-limit", type=float, default=math.inf, metavar="S", help="seconds after which a job fails"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="at the end, write the results alone as one .zip")
    parser.add_argument(
        "--no-models", dest="models", action="store_false", help="leave the trained models out of --results"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of agents")
    return int(text)


def _folder(path: Path) -> Path:
    """The bundle's folder: that of a file is unpacked beside it, once."""
    path = path.absolute()
    if path.is_dir() or path.suffix != ".zip":
        return path
    folder = path.with_suffix("")
    if not folder.exists():
        with whole_folder(folder) as begun:
            unpack(path, begun)
    return folder


def _become_packed_code(folder: Path, manifest: Manifest, given: argparse.Namespace) -> None:
    """What computes is the code that came along, not what may be installed here. Raises InputError if it is altered."""
    code = folder / "code"
    if is_of_older_layout(code):
        raise InputError(
            f"this bundle was packed by an older qsweep, with code {manifest.code}",
            place=str(folder),
            allowed=f"start it by itself: python {folder}",
        )
    clear_bytecode(code)
    if not is_intact(code, manifest.code):
        raise InputError(
            f"the code of this bundle is not {manifest.code}", place=str(code), allowed="copy the bundle again"
        )
    if code.resolve() == own_code.ROOT.resolve():
        return
    sys.stderr.flush()
    arguments = [str(folder)]
    for option, value in (("--data", given.data), ("--workers", given.workers), ("--results", given.results)):
        arguments += [] if value is None else [option, str(value)]
    arguments += [] if math.isinf(given.time_limit) else ["--time-limit", str(given.time_limit)]
    arguments += [] if given.models else ["--no-models"]
    search = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(sys.executable, [*processes.PYTHON, "qsweep.workers", *arguments], environment)


def _take_hold(folder: Path) -> int:
    """A lock that ends with the last process that inherited it. Raises InputError if somebody works here.

    The agents of a killed run end by themselves at their next heartbeat: they are waited for.
    """
    hold = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LEAVING
    while True:
        try:
            fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError("another run works on this bundle", place=str(folder)) from None
            time.sleep(0.2)
        except OSError as error:
            sys.stderr.write(f"note: no lock on {folder} ({error}): let no second run work on it\n")
            return hold
        else:
            return hold


def _work(folder: Path, manifest: Manifest, given: argparse.Namespace, hold: int) -> int:
    home = Home.at(folder, data=_data(folder, manifest, given.data))
    for place in (home.results, home.models, home.checkpoints, home.logs):
        place.mkdir(exist_ok=True)
        clear_folder(place, below=True)
    clear_folder(folder)
    queue = LocalQueue(home, manifest)
    try:
        if queue.remaining().nothing:
            sys.stderr.write(f"{manifest.title}: nothing to do\n")
            return 0
        crew = _crew(home, manifest, given)
        jobs, agents = counted(len(manifest.claims), "job"), counted(crew.workers, "agent")
        sys.stderr.write(f"{manifest.title}: {jobs}, {agents} on {'GPUs' if crew.gpus else 'cores'}\n")
        return Runner(home, queue, crew, hold=hold).run()
    finally:
        queue.close()


def _data(folder: Path, manifest: Manifest, given: Path | None) -> Path:
    """Where the data sets are: in the bundle if they came along."""
    came = folder / "data"
    return came if given is None or all((came / one.archive).is_file() for one in manifest.data()) else given


def _crew(home: Home, manifest: Manifest, given: argparse.Namespace) -> Crew:
    """Asks a child with torch what is here, and whether the data can be read. Raises InputError."""
    jobs = with_training(claim.job for claim in manifest.claims)
    trainings = [one.settings() for one in different_needs(job.training for job in jobs)]
    question = Probe(data=str(home.data), kept=str(home.weights), trainings=trainings, user_code=str(home.user_code))
    found = ask_once(question, os.environ, failing="the probe of this machine")
    gpus = len(found["gpus"])
    return Crew(workers=given.workers or gpus or found["cores"], gpus=gpus, time_limit=given.time_limit)
