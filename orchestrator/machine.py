"""This machine: what it has to train with, asked of a child process with torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from db.home import Home
from sweeps.errors import InputError, QsweepError


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

    @property
    def agents(self) -> int:
        """One agent per GPU, else one per core."""
        return self.gpus or self.cores


def probe(home: Home, datasets: Sequence[str], *, download: bool = True) -> Machine:
    """Ask a child process with torch what this machine has, and read the data sets. Raises InputError."""
    command = [sys.executable, "-m", "workers.probe", "--folder", str(home.data), *datasets]
    command += ["--download"] if download else []
    answer = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"}, check=False
    )
    if answer.returncode:
        raise QsweepError(f"the probe of this machine failed:\n{answer.stderr.strip()[-2000:]}")
    found = json.loads(answer.stdout.splitlines()[-1])
    if "problem" in found:
        raise InputError(found["problem"])
    return Machine(
        cores=found["cores"],
        gpus=len(found["gpus"]),
        torch=found["torch"],
        device=found["device"],
        memory=found["memory"],
    )
