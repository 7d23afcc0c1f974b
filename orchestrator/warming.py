"""The process from which a command forks all of its own that need torch: it imports that once.

A launch forks its probe, its supervisors and their agents, a calibration its measurements, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.machine import plain_machine
from qsweep.sweeps import processes

PROBE = ("qsweep.workers.service", "qsweep.workers.probe")
CALLING = ("qsweep.workers.agent.__main__", "qsweep.orchestrator.supervisor")
"""What a supervisor imports, and its agent if it runs functions and scripts of users alone."""
AGENT = (*PROBE, "qsweep.workers.cohort", *CALLING)
"""What a probe, a supervisor and its agent import."""
CALIBRATION = (*PROBE, "qsweep.workers.calibration")
LANDSCAPE = (*PROBE, "qsweep.workers.landscape.points")
ARCHIVE = (*PROBE, "qsweep.workers.data.archive")


def warm_up(home: Home, preload: Sequence[str] = AGENT) -> None:
    """Begin to import it, while this process goes on with what needs no torch. Does nothing if it has begun."""
    processes.warm_up(*preload, environment=worker_environment(home, threads=1))


def warm_up_for(home: Home, *, calls: bool) -> None:
    """Begin to import what a launch needs, of functions and scripts of users (`calls`) or of trainings."""
    warm_up(home, CALLING if calls and plain_machine() is not None else AGENT)


def is_new(home: Home, title: str) -> bool:
    """Whether no sweep of this name was ever launched: there is work to do. Raises InputError; changes nothing."""
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return True
    with registry:
        return all(one.title != title for one in registry.catalogue.sweeps())
