"""What a probe of this machine found, kept in the home: asked again only when something has changed that decides it.

One file a machine below `probes/`. What it says counts as long as a stamp, taken anew each time from what is cheap to
look at, is the same: `machine_stamp` of what the machine has, `data_stamp` of each data set that was read. A file that
is damaged, or that can't be read or written, is as good as none. `qsweep doctor` and `qsweep calibrate` always ask.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qsweep.db.clock import machine_id
from qsweep.db.home import Home
from qsweep.orchestrator.machine import Machine, plain_machine, probe
from qsweep.sweeps.code import code_version
from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.job import Job, with_training
from qsweep.sweeps.modules import Module
from qsweep.sweeps.user_code import UserCode
from qsweep.sweeps.wholefiles import write_whole
from qsweep.workers.hardware import DEV, DEVICES

RESTED = 2.0
"""Seconds for which a file has to lie unchanged before it is known by its times: they may be as coarse as that."""
ASKED_ANEW = ("weights", "broken_promises")
"""What a probe finds of the trainings, and not of the machine: never kept."""
MOST = 32
"""Files that are kept: a container has a machine's name of its own each time."""
CHOOSING = ("CUDA", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "GPU_", "TORCH", "PYTORCH_", "ATEN_", "DNNL_", "LD_", "PYTHON")
"""Beginnings of variables that decide which torch is loaded, and which devices it finds."""
PROC = Path("/proc")
DRIVERS = ("driver/nvidia/version", "driver/nvidia/gpus/*/information", "driver/nvidia/capabilities/**/access")
"""Files below /proc in which a driver says what it has."""
LIBRARIES = ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")
"""Without the driver's own library torch finds no GPU."""
INSTRUCTIONS = ("vendor_id", "model name", "flags", "Features", "CPU part")
"""Lines of /proc/cpuinfo that say what a core can do; others, as its speed just now, change all the time."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is known of a machine, and of which data sets it is known that they are what they should be."""

    stamp: str = ""
    machine: Machine | None = None
    data: dict[str, str] = field(default_factory=dict)
    """The stamp of each data set, by its name, when it was read and found in order."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A machine, and what of it is to be kept once there is a home to keep it in; None if that is there already."""

    machine: Machine
    news: Kept | None = None

    def keep(self, home: Home) -> None:
        """Never fails: nothing depends on what is kept."""
        if self.news is not None:
            with contextlib.suppress(OSError):
                write(home, self.news)


def look(home: Home, jobs: Sequence[Job], *, weights: Sequence[Path] = (), codes: Sequence[UserCode] = ()) -> Found:
    """This machine, and that the data sets of the jobs are in order: as it is kept, else asked. Raises InputError.

    Weights, data sets that stay files, and modules, are looked at each time. Where nothing is trained it is not asked
    for what torch finds there, if that can only be the processor.
    """
    if jobs and all(job.kind.of_user for job in jobs) and (machine := plain_machine()) is not None:
        return Found(machine=machine)
    trainings = [job.training for job in with_training(jobs)]
    data = {one.data for one in trainings}
    asks = any(one.with_weights or isinstance(one.model, Module) for one in trainings)
    if weights or asks or any(one.streamed for one in data):
        return Found(machine=probe(home, jobs=jobs, weights=weights, codes=codes))
    known, stamp, stamps = read(home), machine_stamp(), _stamps(data, home)
    of_machine = known if known.stamp == stamp else Kept()
    verified = all(one and of_machine.data.get(name) == one for name, one in stamps.items())
    if of_machine.machine is not None and verified:
        return Found(machine=of_machine.machine)
    machine = probe(home, jobs=jobs)
    if (machine_stamp(), _stamps(data, home)) != (stamp, stamps):
        return Found(machine=machine)  # something changed meanwhile, as when a data set was downloaded
    rested = {name: one for name, one in stamps.items() if one}
    return Found(machine=machine, news=Kept(stamp=stamp, machine=machine, data=of_machine.data | rested))


def kept_machine(home: Home) -> Machine | None:
    """This machine as it is kept; None if it has to be asked."""
    known = read(home)
    return known.machine if known.stamp == machine_stamp() else None


def _stamps(data: Iterable[DataSet], home: Home) -> dict[str, str]:
    return {one.folder if one.source and one.folder else one.name: data_stamp(one, home.data) for one in data}


def machine_stamp() -> str:
    """A hash of what decides what a probe finds out about this machine."""
    torch = find_spec("torch")
    package = Path(str(torch.origin)).parent if torch is not None else None
    decisive = {
        "code": code_version(),
        "machine": machine_id(),
        "kernel": os.uname(),
        "cpu": sorted({line for line in _text("/proc/cpuinfo").splitlines() if line.startswith(INSTRUCTIONS)}),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "pages": os.sysconf("SC_PHYS_PAGES"),
        "python": [sys.version, sys.executable, sys.prefix],
        "torch": [_state(package / name) for name in ("__init__.py", "version.py", "lib")] if package else [],
        "variables": sorted(one for one in os.environ.items() if one[0].startswith(CHOOSING)),
        "devices": sorted([str(path), _device(path)] for pattern in DEVICES for path in DEV.glob(pattern)),
        "drivers": sorted([str(path), _text(path)] for pattern in DRIVERS for path in PROC.glob(pattern)),
        "libraries": [_state(Path(one).resolve()) for one in LIBRARIES],
    }
    return _digest(decisive)


def data_stamp(data: DataSet, folder: Path) -> str:
    """A hash of the sizes and times of a data set's files; empty if one has changed too lately to be known by them."""
    places = [folder / data.archive]
    if data.folder is not None:
        places += [folder / data.folder, *sorted((folder / data.folder).glob("*"))]
    elif (package := find_spec("sklearn")) is not None and package.origin is not None:
        places += [Path(package.origin).with_name("datasets") / "data" / f"{data.name}.csv.gz"]
    states = [_state(place) for place in places]
    now = time.time_ns()
    if any(state and now - max(state[1:3]) < RESTED * 1e9 for state in states):
        return ""
    return _digest([data.fingerprint, [[str(place), state] for place, state in zip(places, states, strict=True)]])


def _state(path: Path) -> list[int]:
    """Size, the times of the last change of content and of anything, and by what the file is known; [] if none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _device(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_rdev, found.st_mode]


def _text(path: str | Path, most: int = 1 << 16) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(home: Home) -> Kept:
    """What the home knows of this machine; nothing where the file is not what was written."""
    try:
        content = json.loads(_place(home).read_bytes())
        kept = content["kept"]
        if content["hash"] != _digest(kept):
            return Kept()
        return Kept(stamp=kept["stamp"], machine=Machine(**kept["machine"]), data=dict(kept["data"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Kept()


def write(home: Home, kept: Kept) -> None:
    """Raises OSError."""
    assert kept.machine is not None
    place = _place(home)
    place.parent.mkdir(exist_ok=True)
    machine = {one.name: getattr(kept.machine, one.name) for one in fields(Machine) if one.name not in ASKED_ANEW}
    content = {"stamp": kept.stamp, "machine": machine, "data": kept.data}
    write_whole(place, json.dumps({"hash": _digest(content), "kept": content}, indent=1).encode())
    for old in sorted(place.parent.glob("*.json"), key=_age, reverse=True)[MOST:]:
        old.unlink(missing_ok=True)


def forget(home: Home) -> None:
    """Whatever is kept of this machine did not keep a launch from failing: it is asked anew. Never fails."""
    with contextlib.suppress(OSError):
        _place(home).unlink(missing_ok=True)


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _place(home: Home) -> Path:
    """The file of this machine, by its name: several may share a home."""
    return home.probes / f"{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]}.json"
