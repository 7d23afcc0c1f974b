"""Launching a sweep: check, register, start agents, watch until everything is done."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FrameType

import psutil
from rich.console import Console

from db.clock import boot_id, process_started
from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import Sweep
from db.states import State, SweepState
from orchestrator.backends.base import Backend, Fleet
from orchestrator.freezing import Code, choose_code
from orchestrator.kept_models import check_models
from orchestrator.progress import Display, Progress
from orchestrator.selection import Selection
from reports.answers import spec_of
from sweeps.code import code_version, freeze
from sweeps.errors import InputError, QsweepError
from sweeps.faults import point
from sweeps.spec import variant

POLL = 0.5
STRIKES = 3
"""Starts of agents without any progress after which the launcher gives up."""


GRACE = 3.0
"""Seconds that a dead agent's supervisor has to report the death itself: only it knows a crash from a loss."""


class Interrupted(QsweepError):
    """The user stopped the launch; the sweep can be resumed."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has to train with."""

    cores: int
    gpus: int
    torch: str

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
    return Machine(cores=found["cores"], gpus=len(found["gpus"]), torch=found["torch"])


def register(home: Home, selection: Selection, *, code: str) -> tuple[Registry, Sweep, str]:
    """Write the sweep and its jobs into the registry, made if there is none; what was added, in words."""
    owner = _user()
    if home.registry != Home.at(home.root).registry:
        Registry.open(home.registry, create=True).close()  # if it can't be made, nothing else is
    home.prepare()
    registry = Registry.open(home.registry, create=True)
    sweep = registry.add_sweep(
        name=selection.spec.name,
        label=selection.label,
        spec=selection.spec.to_json(),
        size=len(selection.jobs),
        owner=owner,
        code=code,
        keep=selection.spec.keep,
    )
    added = registry.register(sweep.id, selection.chosen)
    words = f"{len(selection.chosen)} jobs: {added.new} new, {added.known} known"
    return registry, sweep, words + (f", {added.shared} shared with other sweeps" if added.shared else "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in many containers
        return str(os.getuid())


def find_launched(home: Home, selection: Selection) -> tuple[Sweep | None, bool]:
    """The selection's sweep if it was launched before, and whether every chosen job is done. Changes nothing."""
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return None, False
    with registry:
        sweep = next((one for one in registry.sweeps() if one.title == selection.title), None)
        if sweep is None:
            return None, False
        if variant(spec_of(sweep).jobs()) != variant(selection.jobs):
            raise InputError(
                f"{sweep.title} names another variant already", place="--name", allowed="choose another name"
            )
        done = {job.identity for job in registry.jobs(sweep.id, state=State.DONE)}
    return sweep, all(job.identity in done for job in selection.chosen)


class Watch:
    """Keeps agents at work on one sweep until nothing is open."""

    def __init__(
        self, home: Home, registry: Registry, sweep: Sweep, backend: Backend, fleet: Fleet, console: Console
    ) -> None:
        self.home = home
        self.registry = registry
        self.sweep = sweep
        self.backend = backend
        self.fleet = fleet
        self.console = console
        self.results = ResultStore(home.results)
        self.progress = Progress(jobs={row.identity: row.job for row in registry.jobs(sweep.id)})
        self._seen: set[tuple[str, int]] = set()
        self._strikes = 0
        self._mark = -1
        self._interrupts = 0
        self._deaths = Deaths()

    def run(self) -> None:
        """Watch to the end. Raises Interrupted after Ctrl-C."""
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with Display(self.console, self.sweep.title) as display:
                self._update()
                self.progress.mark_start()
                while self._open() and not self._interrupts:
                    self._keep_agents()
                    point("launcher.watching")
                    display.show(self.progress)
                    time.sleep(POLL)
                    self._update()
                display.show(self.progress, last=True)
            if self._interrupts:
                self._hand_back()
            self._farewell()
        except BaseException:
            self.backend.stop()
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _update(self) -> None:
        counts = self.registry.counts(self.sweep.id)
        self.progress.running, self.progress.queued, self.progress.failed = (
            counts.running,
            counts.queued,
            counts.failed,
        )
        self.progress.add_notes([agent.note for agent in self.registry.agents()])
        fresh = [row for row in self.registry.committed(self.sweep.id) if (row.job, row.attempt) not in self._seen]
        if fresh:
            self._seen.update((row.job, row.attempt) for row in fresh)
            columns = [
                "job",
                "bits",
                "diverged",
                "train_loss",
                "test_loss",
                "generalization_gap",
                "test_accuracy",
            ]
            self.progress.add_results(self.results.read("runs", fresh, columns=columns).to_pylist())
            self.progress.done.update(row.job for row in fresh)

    def _open(self) -> bool:
        sweep = self.registry.find_sweep(self.sweep.title)
        if sweep.state is not SweepState.ACTIVE:
            why = f"{sweep.state}: {sweep.reason}" if sweep.reason else sweep.state
            raise QsweepError(f"{sweep.title} is {why}; go on with: qsweep resume {sweep.title}")
        return self.progress.running + self.progress.queued > 0

    def _keep_agents(self) -> None:
        """Take back what dead processes held, and start the agents that are missing while there is work."""
        bury_dead(self.registry, self._deaths.is_over)
        here = [agent for agent in self.registry.agents() if agent.host == socket.gethostname()]
        others = sum(not self.backend.started(agent.pid) for agent in here)
        if self.backend.alive() >= self.fleet.workers - others or not self.progress.queued:
            return
        mark = self.registry.newest_event()  # an agent that claims does something, even if it dies of it
        self._strikes = self._strikes + 1 if mark == self._mark else 1
        self._mark = mark
        if self._strikes > STRIKES:
            raise QsweepError(f"agents end without doing anything; their log: {self.home.logs / 'agents'}")
        self.backend.start(replace(self.fleet, workers=self.fleet.workers - others))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self.backend.stop()
        else:
            self.backend.kill()

    def _hand_back(self) -> None:
        self.console.print(
            "Stopping: each agent writes a checkpoint and hands its jobs back. Ctrl-C again stops at once."
        )
        while self.backend.alive():
            time.sleep(0.1)
            self.backend.stop()  # one may have been started since
        bury_dead(self.registry)
        counts = self.registry.counts(self.sweep.id)
        raise Interrupted(
            f"interrupted with {counts.done} of {self.progress.total} jobs done; "
            f"go on with: qsweep resume {self.sweep.title}"
        )

    def _farewell(self) -> None:
        """Agents leave by themselves when nothing is left; wait for them, but not for ever."""
        deadline = time.monotonic() + 10
        while self.backend.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.backend.stop()


class Deaths:
    """Which agents' deaths their supervisors have had time to report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[int, float], float] = {}

    def is_over(self, pid: int, started: float) -> bool:
        """Whether this process has been gone for longer than the grace."""
        return not is_alive(pid, started) and (
            self._clock() - self._since.setdefault((pid, started), self._clock()) >= GRACE
        )


def bury_dead(registry: Registry, is_over: Callable[[int, float], bool] | None = None) -> None:
    """Take back what dead agents of this machine held."""
    registry.bury_dead_processes(
        host=socket.gethostname(),
        boot_id=boot_id(),
        is_alive=is_alive if is_over is None else lambda pid, started: not is_over(pid, started),
    )


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this number and start time still runs."""
    try:
        same = abs(process_started(pid) - started) < 0.5
        return same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def launch(
    home: Home,
    selection: Selection,
    backend: Backend,
    console: Console,
    *,
    workers: int | None,
    lease: float,
    time_limit: float | None,
    detach: bool,
    code: Code | None,
) -> Sweep:
    """Register the selection and see it through; the sweep. Raises InputError before anything is written."""
    home.check()
    known, finished = find_launched(home, selection)
    check_models(home, selection)
    if known is not None and finished:
        version, machine = known.code, None
    else:
        version = choose_code(known, code)
        machine = probe(home, sorted({job.training.data.name for job in selection.chosen}))
    registry, sweep, words = register(home, selection, code=version)
    console.print(f"{selection.title}: {words}", highlight=False, soft_wrap=True)
    try:
        if machine is None:
            console.print("Nothing to do: every job is done.")
            return sweep
        see_through(
            home,
            registry,
            sweep,
            backend,
            console,
            machine=machine,
            workers=workers,
            lease=lease,
            time_limit=time_limit,
            detach=detach,
        )
        return sweep
    finally:
        registry.close()


def see_through(
    home: Home,
    registry: Registry,
    sweep: Sweep,
    backend: Backend,
    console: Console,
    *,
    machine: Machine,
    workers: int | None,
    lease: float,
    time_limit: float | None,
    detach: bool,
) -> None:
    """Start agents for a registered sweep; unless detached, watch it to its end."""
    if sweep.code == code_version():
        freeze(home.code)
    registry.reactivate(sweep.id)
    fleet = Fleet(
        home=home,
        workers=workers or machine.agents,
        gpus=machine.gpus,
        lease=lease,
        time_limit=time_limit,
        sweep=sweep.id,
        code=sweep.code,
    )
    if detach:
        backend.start(fleet)
        console.print(f"{fleet.workers} agents started; look with: qsweep status {sweep.name}")
        return
    Watch(home, registry, sweep, backend, fleet, console).run()
