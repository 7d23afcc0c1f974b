"""This machine: what it has to train with, asked of a child process with torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsweep.db.home import Home
from qsweep.orchestrator.children import ask
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.job import Job, with_training
from qsweep.sweeps.measures import Distortion
from qsweep.sweeps.questions import DescribeImages, Probe
from qsweep.sweeps.training import different_needs
from qsweep.sweeps.user_code import UserCode
from qsweep.sweeps.wholefiles import digest_of, whole_file
from qsweep.workers.hardware import cores, memory, plain_processor


@dataclass(frozen=True, kw_only=True)
class KeptWeights:
    """Weights that were found, and where the home is to keep them."""

    source: Path
    hash: str
    target: Path

    def keep(self) -> None:
        """Copy them, whole or not at all. Raises QsweepError if the copy is not what was found, InputError if somebody
        keeps others under this name since they were found: his jobs may have begun with those."""
        if self.source == self.target:
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.source.open("rb") as source, whole_file(self.target, new=True) as copy:
                digest = hashlib.sha256()
                while part := source.read(1 << 20):
                    digest.update(part)
                    copy.write(part)
                if digest.hexdigest() != self.hash:
                    raise QsweepError(f"{self.source} changed while it was copied")
        except FileExistsError:
            self._check_same()

    def _check_same(self) -> None:
        if digest_of(self.target) != self.hash:
            raise InputError(
                f"another launch has just kept other weights than {self.source} under this name",
                place=str(self.target),
                allowed="give these another name, with --set weights=NAME",
            )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has to train with."""

    cores: int
    gpus: int
    torch: str
    device: str = "cpu"
    """The class of its devices, under which calibrations and results name them."""
    memory: float = 0.0
    """Bytes of one GPU, else of the machine; 0 if unknown."""
    weights: tuple[KeptWeights, ...] = ()
    """The weights that trainings start from."""
    broken_promises: tuple[str, ...] = ()
    """What can't be promised of the modules of users, in words."""

    @property
    def agents(self) -> int:
        """One agent per GPU, else one per core."""
        return self.gpus or self.cores


def probe(
    home: Home,
    datasets: Sequence[str] = (),
    *,
    jobs: Sequence[Job] = (),
    weights: Sequence[Path] = (),
    codes: Sequence[UserCode] = (),
    download: bool = True,
    reads_data: bool = True,
) -> Machine:
    """Ask a child process with torch what this machine has, and read the data sets, those of the `jobs` and the
    weights that these start from, of which `weights` are files or folders. Trees of corrupted images that distortions
    among the jobs take are held against the test images. `codes` is code of users that the
    home may not keep yet. Without `reads_data` the weights alone are looked for. Raises InputError."""
    question = Probe(
        data=str(home.data),
        kept=str(home.weights),
        weights=[str(path.expanduser().absolute()) for path in weights],
        trainings=[one.settings() for one in different_needs(job.training for job in with_training(jobs))],
        distortions=_distortions(jobs if reads_data else ()),
        datasets=datasets,
        download=download,
        reads_data=reads_data,
        user_code=str(home.user_code),
        codes=[
            {"main": one.main, "files": {name: content.decode() for name, content in one.files.items()}}
            for one in codes
        ],
    )
    found = ask(question, failing="the probe of this machine")
    return Machine(
        cores=found["cores"],
        gpus=len(found["gpus"]),
        torch=found["torch"],
        device=found["device"],
        memory=found["memory"],
        weights=tuple(
            KeptWeights(source=Path(one["source"]), hash=one["hash"], target=Path(one["target"]))
            for one in found["weights"]
        ),
        broken_promises=tuple(found["broken_promises"]),
    )


def plain_machine() -> Machine | None:
    """This machine, for work that computes nothing with torch; None where there may be a GPU."""
    processor = plain_processor()
    if processor is None:
        return None
    return Machine(cores=cores(), gpus=0, torch=processor.build, device=processor.name, memory=memory())


def _distortions(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Of each data set that is read from its files: the settings of a training on it, and each corruption, severity
    and seed that is asked."""
    asked: dict[DataSet, dict[tuple[str, int, int], Job]] = defaultdict(dict)
    for job in jobs:
        if isinstance(job.measure, Distortion) and job.training.data.streamed:
            one = job.measure
            asked[job.training.data][one.corruption, one.severity, one.corruption_seed] = job
    return [
        {"settings": next(iter(some.values())).training.settings(), "asked": sorted(some)} for some in asked.values()
    ]


def describe_images(folder: Path, size: int) -> dict[str, str | int]:
    """The settings of a data set in ImageFolder layout. Raises InputError if it is none."""
    return ask(DescribeImages(folder=str(folder), size=size), failing="listing the images")
