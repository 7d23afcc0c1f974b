"""The backend that starts agents as elements of Slurm arrays."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from qsweep.db.home import Home
from qsweep.db.urls import parse_url
from qsweep.orchestrator.backends.base import Backend, Fleet, Site, StartRefused
from qsweep.orchestrator.backends.slurm import commands, queue
from qsweep.orchestrator.backends.slurm.pilot import Pilot, is_filled
from qsweep.orchestrator.backends.slurm.request import Request
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.starts import Start, record, recorded
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.workers.environment import AGENTS, PLACE

GLANCE, STEADY = 2.0, 15.0
"""Seconds for which an answer of Slurm's is good, and for which if nothing changes: a controller serves many."""
SETTLING = 60.0
"""Seconds without any change after which the queue is steady."""

PATTERNS = "%\\\"'"
"""What Slurm and its scripts read as more than itself in the name of a file."""
IDLE = 300
"""Seconds after which an agent without work gives its allocation back."""


class SlurmBackend(Backend):
    """Pilot agents in arrays, never one element a job: the elements pull their work from the registry."""

    name: ClassVar[str] = "slurm"

    def __init__(self, request: Request) -> None:
        self._request = request
        self._fleet: Fleet | None = None
        self._arrays: list[str] = []
        self._seen: list[queue.Element] = []
        self._looked = self._changed = self._told = -math.inf
        self._present = 0
        self._cancelled_before: set[tuple[str, str]] = set()
        self._cancelled: set[tuple[str, str]] = set()
        self._trouble = ""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        return cls(Request(options=dict(options)))

    def check(self, home: Home, workers: int | None) -> None:
        commands.check_present()
        _submitit()
        _check_path(home.root)
        if workers is None:
            raise InputError(
                "how many agents are to be submitted?",
                place="--workers",
                allowed="each is one element of an array, with one GPU or one core",
            )
        self._request.check()

    def survey(self, machine: Machine, workers: int | None) -> Site:
        assert workers is not None, "which `check` has refused"
        return Site(hosts=self._request.hosts(), agents=workers)

    def adopt(self, fleet: Fleet) -> None:
        self._fleet = fleet
        assert fleet.scope.sweep is not None, "a fleet on Slurm works for one sweep"
        self._arrays = [
            one.reference
            for one in recorded(fleet.home, fleet.scope.sweep)
            if one.backend == self.name and one.selection in (None, fleet.scope.selection)
        ]
        self._seen = queue.elements(self._arrays)  # raises: who can't be counted must not be started twice
        self._looked = self._changed = time.monotonic()
        self._present = self.alive()
        self._cancelled_before = {one.key for one in self._seen if one.cancelled}

    def start(self, count: int) -> None:
        begun = 0
        try:
            while begun < count:
                size = min(count - begun, commands.largest_array())
                self._submit(size)
                begun += size
        except QsweepError as error:
            problem = f"{count - begun} of {count} agents could not be submitted: {error}"
            raise StartRefused(problem, begun=begun) from None

    def _submit(self, size: int) -> None:
        """Submit one array of that size, and record it."""
        fleet = self._fleet
        assert fleet is not None
        assert fleet.scope.sweep is not None
        submitit = _submitit()
        folder = logs(fleet.home)
        folder.mkdir(parents=True, exist_ok=True)
        pilot = Pilot(
            home=str(fleet.home.root),
            data=str(fleet.home.data),
            registry=parse_url(fleet.home.registry).shown,
            scope=fleet.scope,
            code=fleet.code,
            lease=fleet.lease,
            time_limit=fleet.time_limit,
            handover=self._request.handover,
            has_data=is_filled(fleet.home.data),
        )
        with environment(fleet):
            executor = submitit.SlurmExecutor(folder)
            executor.update_parameters(**self._parameters(fleet))
            try:
                jobs = executor.map_array(pilot, range(size))
            except submitit.core.utils.FailedJobError as error:
                raise QsweepError(f"Slurm took no array: {_last_line(str(error))}") from None
        array = str(jobs[0].job_id).partition("_")[0]
        start = Start(
            backend=self.name,
            sweep=fleet.scope.sweep,
            reference=array,
            agents=size,
            fleet=fleet.workers,
            selection=fleet.scope.selection,
            options=dict(self._request.options),
        )
        record(fleet.home, start)
        self._arrays.append(array)
        self.look_closely()

    def _parameters(self, fleet: Fleet) -> dict[str, Any]:
        """submitit's parameters. Its own defaults for time (5 min) and wckey are taken out."""
        own = {
            "requeue": True,
            "export": "ALL",
            "chdir": str(fleet.home.root),
            # Only for a preemption that warns: the pilot itself knows the end, and to the second.
            "signal": "USR1@1",
        }
        return {
            "job_name": f"qsweep-{fleet.title}",
            "time": None,
            "wckey": None,
            "stderr_to_stdout": True,
            "array_parallelism": self._request.array_parallelism or fleet.workers,
            "setup": self._request.setup,
            "srun_args": self._request.step,
            "additional_parameters": own | self._request.parameters,
        }

    def alive(self) -> int:
        return sum(not element.over for element in self._look())

    def size(self, fleet: Fleet) -> int:
        """An element that the user cancelled under our eyes is not replaced."""
        self._look()
        return min(max(fleet.workers, self._present) - len(self._cancelled), fleet.workers)

    def remarks(self) -> list[str]:
        fleet = self._fleet
        assert fleet is not None
        trouble = [self._trouble] if self._trouble else []
        return trouble + queue.describe(self._look(), str(logs(fleet.home)))

    def look_closely(self) -> None:
        self._looked, self._changed = -math.inf, time.monotonic()

    def _look(self) -> list[queue.Element]:
        """What Slurm said last; what it said before, while it does not answer."""
        now = time.monotonic()
        if now - self._looked >= (STEADY if now - self._changed > SETTLING else GLANCE):
            try:
                found = queue.elements(self._arrays)
            except commands.SlurmUnavailable as error:
                self._trouble = str(error)
            else:
                self._trouble = ""
                if {(one.key, one.state) for one in found} != {(one.key, one.state) for one in self._seen}:
                    self._changed = now
                self._seen = found
                self._cancelled |= {one.key for one in found if one.cancelled} - self._cancelled_before
            self._looked = time.monotonic()
        return self._seen

    def stop(self, *, by_user: bool = False) -> None:
        """scancel sends SIGTERM, at which an agent hands over; those that wait are gone at once.

        Agents that are seen at work or in the queue again are told again: a pilot may have had itself requeued.
        """
        found = self._look()
        asked = {one.array for one in found if not (one.over or one.ending)}
        if asked and self._told != self._looked and self._tell("scancel", *sorted(asked)):
            self._told, self._changed = self._looked, time.monotonic()

    def kill(self) -> None:
        if self._arrays:
            self._tell("scancel", "--full", "--signal=KILL", *self._arrays)
            self._tell("scancel", *self._arrays)

    def _tell(self, *command: str) -> bool:
        """Whether Slurm could be told: a launcher that ends has to end without it, too."""
        try:
            commands.run(*command)
        except commands.SlurmUnavailable as error:
            self._trouble = str(error)
            return False
        return True

    @classmethod
    def describe(cls, home: Home, starts: Sequence[Start]) -> list[str]:
        arrays = [one.reference for one in starts]
        try:
            found = queue.elements(arrays)
        except commands.SlurmUnavailable as error:
            return [f"Slurm arrays {', '.join(arrays)}: {error}"]
        words = queue.describe(found, str(logs(home)))
        if starts and starts[-1].reference not in {element.array for element in found}:
            last = starts[-1]
            words.append(f"Slurm array {last.reference}: over (it had {last.agents}), see {logs(home)}")
        return words

    @classmethod
    def withdraw(cls, starts: Sequence[Start]) -> None:
        commands.run("scancel", "--state=PENDING", *(one.reference for one in starts))


def logs(home: Home) -> Path:
    """Where Slurm writes what agents print; an agent's own log lies with all others."""
    return home.logs / "slurm"


@contextmanager
def environment(fleet: Fleet) -> Iterator[None]:
    """What an array takes along: its registry, its share of the machine, its launch, and no module from the current
    folder."""
    before = dict(os.environ)
    own = {
        "QSWEEP_BACKEND": SlurmBackend.name,
        "QSWEEP_IDLE": str(IDLE),
        PLACE: fleet.launch,
        AGENTS: str(fleet.workers),
    }
    os.environ.update(worker_environment(fleet.home, threads=1) | own)
    # A launch from within a job must not hand that job's own allocation on, nor an SBATCH_EXPORT keep ours back.
    for name in before:
        if name == "SBATCH_EXPORT" or (name.startswith("SLURM_") and name != "SLURM_CONF"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_path(root: Path) -> None:
    """Raise InputError for a home whose path Slurm would not take as it stands: it replaces `%j`, and drops `\\`."""
    if odd := sorted({char for char in str(root) if char in PATTERNS or not char.isprintable()}):
        raise InputError(
            f"Slurm can't write logs below a path with {' or '.join(map(repr, odd))} in it",
            place=f"home {root}",
            allowed="name another with --home DIR",
        )


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise InputError(
            "submitit is not installed", place="--backend slurm", allowed="pip install 'qsweep[slurm]'"
        ) from None
    return submitit


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
