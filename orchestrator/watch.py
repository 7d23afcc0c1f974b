"""The watch over a running sweep: keeps agents at work and shows progress until nothing is open."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from db.compaction import compact
from db.home import Home
from db.registry import Registry
from db.results import ResultStore
from db.rows import Counts, Sweep
from db.states import SweepState
from orchestrator.backends.base import Backend, Fleet
from orchestrator.deaths import Deaths, bury_dead
from orchestrator.progress import Display, Progress
from sweeps.errors import QsweepError
from sweeps.faults import point

POLL = 0.5
STRIKES = 3
"""Starts of agents without any progress after which the launcher gives up."""
MANY = 256
"""Publications that a launcher has seen come before it merges them."""


class Interrupted(QsweepError):
    """The user stopped the launch; the sweep can be resumed."""

    exit_code = 130


class Watch:
    """Keeps agents at work on one sweep, or a selection of its jobs, until nothing of that is open."""

    def __init__(
        self, home: Home, registry: Registry, sweep: Sweep, backend: Backend, fleet: Fleet, console: Console
    ) -> None:
        self.home = home
        self.registry = registry
        self.sweep = sweep
        self.backend = backend
        self.fleet = fleet
        self.console = console
        self.results = ResultStore(home.store)
        rows = registry.jobs(sweep.id, selection=fleet.scope.selection)
        self.progress = Progress(jobs={row.identity: row.job for row in rows})
        self._seen: set[tuple[str, int]] = set()
        self._strikes = 0
        self._mark = -1
        self._done = -1
        self._interrupts = 0
        self._deaths = Deaths()
        self._loose: set[str] = set()
        self._said: frozenset[str] = frozenset()

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
        counts = self._counts()
        self.progress.running, self.progress.queued, self.progress.failed = (
            counts.running - counts.away,
            counts.queued,
            counts.failed,
        )
        self.progress.away = counts.away
        self.progress.add_notes([agent.note for agent in self.registry.agents()])
        if counts.done == self._done:
            return
        self._done = counts.done
        fresh = [
            row
            for row in self.registry.committed(self.sweep.id)
            if row.job in self.progress.jobs and (row.job, row.attempt) not in self._seen
        ]
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
            self._loose.update(row.publication for row in fresh)
            self._compact()

    def _compact(self) -> None:
        """Merge results files before there are so many that every answer waits for them."""
        if len(self._loose) < MANY:
            return
        self._loose.clear()
        try:
            compact(self.home, self.registry, [self.sweep.id])
        except (QsweepError, OSError) as error:  # nothing is lost by it, and nothing has to stop for it
            self.console.print(f"results files were not merged: {error}", highlight=False, soft_wrap=True)

    def _counts(self) -> Counts:
        return self.registry.counts(self.sweep.id, self.fleet.scope.selection)

    def _open(self) -> bool:
        sweep = self.registry.find_sweep(self.sweep.title)
        if sweep.state is not SweepState.ACTIVE:
            why = f"{sweep.state}: {sweep.reason}" if sweep.reason else sweep.state
            raise QsweepError(f"{sweep.title} is {why}; go on with: qsweep resume {sweep.title}")
        return self.progress.running + self.progress.queued > 0

    def _keep_agents(self) -> None:
        """Take back what dead processes held, and start the agents that are missing while there is work."""
        bury_dead(self.registry, self._deaths.is_over)
        others = self.backend.others(self.registry.agents())
        missing = self.backend.size(self.fleet) - self.backend.alive() - others
        self._say(self.backend.remarks())
        if missing <= 0 or not self.progress.queued:
            return
        mark = self.registry.newest_event()  # an agent that claims does something, even if it dies of it
        self._strikes = self._strikes + 1 if mark == self._mark else 1
        self._mark = mark
        if self._strikes > STRIKES:
            raise QsweepError(f"agents end without doing anything; see {self.home.logs}")
        self.backend.start(missing)

    def _say(self, remarks: Sequence[str]) -> None:
        """Print what keeps agents from working, once as long as it stays the same."""
        for remark in remarks:
            if remark not in self._said:
                self.console.print(remark, highlight=False, soft_wrap=True)
        self._said = frozenset(remarks)

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
        counts = self._counts()
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
