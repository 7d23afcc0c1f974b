"""The watch over a running sweep: keeps agents at work and shows progress until nothing is open."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from qsweep.db.following import Follower
from qsweep.db.home import Home
from qsweep.db.losses import read_sound, told
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore, table_of
from qsweep.db.rows import AgentRow, Blocked, Change, Committed, Counts, Sweep
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.backends.base import Backend, Fleet, StartRefused
from qsweep.orchestrator.board import Display, launch_picture
from qsweep.orchestrator.dead_agents import DeadAgents, mark_dead_agents
from qsweep.orchestrator.hindrances import hindrances
from qsweep.orchestrator.layout import tell
from qsweep.orchestrator.progress import METRICS, Seldom, Tally
from qsweep.orchestrator.stopped import stopped_of
from qsweep.orchestrator.stopped import words as stopped_words
from qsweep.orchestrator.upkeep import Look, Upkeep
from qsweep.reports.quantization import NAMED_BY
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.kinds import kind_named

TICK = 0.1
"""Seconds between two glances at whether anything has changed."""
LONGEST = 1.0
"""Seconds after which a change is looked at …"""
SHARE = 0.006
"""… and before them, as long as looks take no more than this share of the time, beyond what a launch has at first."""
PAUSES = 80
"""A look that costs much is followed by a pause of so many times its processor time …"""
LONGEST_PAUSE = 10.0
"""… but of no more seconds than these."""
AT_FIRST = 0.5
"""Seconds of processor time: a short launch looks as often as there is something to see."""
CALM = 5.0
"""Seconds after which a look is due though nothing has changed: leases run out, processes die."""
READING = 10.0
"""Seconds after which results that have come are read into the averages, whatever that costs."""
RECHECK = 10.0
"""Seconds after which it is asked again what keeps jobs from running, even if no count has changed."""


class Ration:
    """The processor time that a launcher may take for looking: a share of the time, beyond what it has at first."""

    def __init__(self) -> None:
        self._began, self._spent = time.monotonic(), time.process_time()

    def is_left(self) -> bool:
        """Whether there is some."""
        return time.process_time() - self._spent <= AT_FIRST + SHARE * (time.monotonic() - self._began)


class Ended(QsweepError):
    """The watch ends for a reason that lies in the sweep, and leaves work open."""


class Interrupted(Ended):
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
        self._agents_with_jobs = {agent.id for agent in registry.catalogue.agents()}
        self.follower = Follower(registry, sweep.id, fleet.scope.selection)
        self.tally = Tally(size=sweep.size)
        self.progress = self.tally.look(self.follower.counts, self.follower.work)
        self._news: list[Change] = []
        self._blocked: tuple[Blocked, ...] = ()
        self._asked: tuple[object, ...] = ()
        self._asking = Seldom()
        self._hindrances: frozenset[str] = frozenset()
        self._seen: set[tuple[str, int]] = set()
        self._upkeep = Upkeep()
        self._refused = ""
        self._is_first = True
        self._unread: list[Committed] = []
        self._read_at = 0.0
        self._ration = Ration()
        self._pulse: int | None = None
        self._alive = 0
        self._agents: Sequence[AgentRow] = ()
        self._cost = 0.0
        self._calm = False
        self._interrupts = 0
        self._by_user = False
        self._left = False
        self._deaths = DeadAgents()
        self._stopped: Sequence[AgentRow] = ()
        self._deserted: float | None = None
        self._said: frozenset[str] = frozenset()

    def run(self) -> None:
        """Watch to the end. Raises Interrupted after Ctrl-C, and Ended for work that nobody goes on with."""
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with Display(self.console) as display:
                self._update()
                self.tally.mark_start()
                while self._open() and not (self._interrupts or self._left):
                    self._keep_agents()
                    self._show(display)
                    self._rest()
                    self._update()
                self._read_results()
                self._show(display, last=True)
            if self._interrupts:
                self._hand_back()
            if self._left:
                raise Interrupted(f"told to end, and its agents go on, with {self._state()}")
            self._let_agents_leave()
        except BaseException as error:
            self._abandon(error)
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _rest(self) -> None:
        """Until there may be something to see. Looks are rationed, and nothing is missed for long."""
        least = min(max(LONGEST, PAUSES * self._cost), LONGEST_PAUSE)
        began, longest = time.monotonic(), max(CALM if self._calm else LONGEST, least)
        while not (self._interrupts or self._left):
            point("launcher.watching")
            time.sleep(TICK)
            waited = time.monotonic() - began
            if waited >= longest or (self._has_changed() and (waited >= least or self._ration.is_left())):
                return

    def _has_changed(self) -> bool:
        """Whether the registry has, or the agents of this machine."""
        pulse = self.registry.catalogue.pulse()
        return (
            pulse is None
            or pulse != self._pulse
            or (not self.backend.independent and self.backend.alive() != self._alive)
        )

    def _abandon(self, error: BaseException) -> None:
        """The launcher fails. Agents elsewhere need none; those of this machine end with it, as they began."""
        if not self.backend.independent:
            self.backend.stop()
        elif not isinstance(error, Ended):
            tell(
                self.console,
                f"This launch ends; agents that are at work or in a queue go on. Look with: qsweep status "
                f"{self.sweep.title}; watch them again with: qsweep resume {self.sweep.title}",
            )

    def _update(self) -> None:
        began = time.process_time()
        self._pulse = self.registry.catalogue.pulse()
        changes = self.follower.look()
        self._news += changes
        counts, held = self.follower.counts, self.follower.held
        blocked = self._count_blocked(counts)
        self._agents = self.registry.catalogue.agents()
        notes = [(one.note, held[one.id]) for one in self._agents if one.id in held]
        self._take_in(changes)
        self.progress = self.tally.look(
            counts, self.follower.work, cohorts=self.follower.cohorts, blocked=blocked, notes=notes
        )
        self._cost = time.process_time() - began

    def _show(self, display: Display, *, last: bool = False) -> None:
        progress, title = self.progress, self.sweep.title
        display.show(
            lambda width, height: launch_picture(title, progress, self.tally.means, width),
            f"{title}: {progress.line()}",
            share=progress.counts.done / max(progress.counts.total, 1),
            last=last,
        )

    def _take_in(self, changes: Sequence[Change]) -> None:
        """The results that have come since the last look."""
        fresh = [one for one in self._newly_done(changes) if (one.job, one.attempt) not in self._seen]
        self._seen.update((one.job, one.attempt) for one in fresh)
        self._unread += fresh
        if self._ration.is_left() or time.monotonic() - self._read_at >= READING:
            self._read_results()

    def _newly_done(self, changes: Sequence[Change]) -> list[Committed]:
        """Pointers of the watched jobs that are done: at first all of them, then those of these changes."""
        if self._is_first:
            self._is_first = False
            return self.registry.catalogue.committed(self.sweep.id, self.fleet.scope.selection)
        return [
            Committed(job=one.identity, attempt=one.attempt, publication=one.publication, kind=kind_named(one.kind))
            for one in changes
            if one.target is State.DONE and one.publication
        ]

    def _read_results(self) -> None:
        """Take what has come into the averages."""
        unread, self._unread, self._read_at = self._unread, [], time.monotonic()
        if not unread:
            return
        found, lost = read_sound(self.results, "runs", table_of(unread), [*NAMED_BY, "diverged", *METRICS])
        self.tally.means.add(found.to_pylist())
        if remark := told(lost, self.sweep.title):
            tell(self.console, remark)

    def _count_blocked(self, counts: Counts) -> int:
        """How many queued jobs can't run as things stand. Asked again when any count changes, and now and then."""
        asked = (counts, int(time.monotonic() / RECHECK))
        if not counts.queued:
            self._blocked = ()
        elif asked != self._asked and self._asking.is_due():
            self._asked = asked
            with self._asking.asking():
                self._blocked = tuple(self.registry.sweeps.blocked(self.sweep.id, self.fleet.scope.selection))
        return sum(one.jobs for one in self._blocked)

    def _open(self) -> bool:
        sweep = self.registry.catalogue.find_sweep(self.sweep.title)
        if sweep.state is not SweepState.ACTIVE:
            why = f"{sweep.state}: {sweep.reason}" if sweep.reason else sweep.state
            raise Ended(f"{sweep.title} is {why}; go on with: qsweep resume {sweep.title}")
        return self.progress.still_open > 0

    def _keep_agents(self) -> None:
        """Take back what dead processes held, and start the agents that are missing while there is work."""
        mark_dead_agents(self.registry, self._deaths.is_over)
        look = self._look()
        if look.wanted + look.alive + look.others == 0 and not self._stopped:
            raise Interrupted(f"its agents were cancelled, with {self._state()}")
        due = self._upkeep.due(look)
        self._alive, self._calm = look.alive, look.alive + look.others >= look.wanted and not self.backend.independent
        self._say(
            [*([self._refused] if self._refused else []), *map(stopped_words, self._stopped), *self.backend.remarks()]
        )
        if look.wanted + look.alive + look.others == 0:
            self._check_deserted(look.now)
            return
        self._say_what_hinders(look)
        if not self.progress.queued:
            return
        if self._upkeep.is_hopeless(look):
            raise Ended(f"agents end without doing anything; see {self.home.logs}")
        if due:
            self._start(due, look)

    def _check_deserted(self, now: float) -> None:
        """All agents of this launch have stopped. Raises Ended once no other has held a job for two leases."""
        living = {agent.id for agent in self._agents if not agent.expired}
        if living.intersection(self.follower.held):
            self._deserted = None
        elif self._deserted is None:
            self._deserted = now
        elif now - self._deserted > 2 * self.fleet.lease:
            raise Ended(f"{stopped_words(self._stopped[-1])}; now nobody is at work, with {self._state()}")

    def _start(self, due: int, look: Look) -> None:
        try:
            self.backend.start(due)
        except StartRefused as error:
            if look.alive + look.others + error.begun == 0 and not self._upkeep.has_started:
                raise Ended(str(error)) from None
            self._upkeep.started(error.begun, look.now)
            self._upkeep.refused(look.now)
            self._refused = str(error)
        else:
            self._upkeep.started(due, look.now)
            self._refused = ""
            self._alive += due

    def _look(self) -> Look:
        """What can be seen of the fleet now."""
        news, self._news = self._news, []
        acted = {change.agent_id for change in news if change.agent_id is not None}
        agents_with_jobs = acted - self._agents_with_jobs  # one that claims does something, even if it dies of it
        self._agents_with_jobs |= agents_with_jobs
        self._stopped = stopped_of(self.registry, self.fleet.launch)
        return Look(
            now=time.monotonic(),
            wanted=max(self.backend.size(self.fleet) - len(self._stopped), 0),
            alive=self.backend.alive(),
            others=self.backend.others(self._agents),
            events=len(news),
            agents_with_jobs=len(agents_with_jobs),
        )

    def _say(self, remarks: Sequence[str]) -> None:
        """Print what keeps agents from working, once as long as it stays the same."""
        for remark in remarks:
            if remark not in self._said:
                tell(self.console, remark)
        self._said = frozenset(remarks)

    def _say_what_hinders(self, look: Look) -> None:
        """Say once, as it begins, what this launch waits for."""
        found = hindrances(self.registry, self.fleet.scope, look, running=self.progress.running)
        for kind, words in found.items():
            if kind not in self._hindrances:
                tell(self.console, f"Waiting: {words}")
        self._hindrances = frozenset(found)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self.backend.independent and not self._interrupts:
            self._left = True
            return
        self._interrupts += 1
        self._by_user = self._by_user or number == signal.SIGINT
        if self._interrupts == 1:
            self.backend.stop(by_user=self._by_user)
        else:
            self.backend.kill()

    def _hand_back(self) -> None:
        tell(
            self.console,
            "Stopping: each agent writes a checkpoint and hands its jobs back. Press Ctrl-C again to stop at once.",
        )
        while self.backend.alive():
            time.sleep(0.1)
            self.backend.stop(by_user=self._by_user)  # one may have been started since
        mark_dead_agents(self.registry)
        raise Interrupted(f"interrupted with {self._state()}")

    def _state(self) -> str:
        self.follower.look()
        counts = self.follower.counts
        return f"{counts.done} of {counts.total} jobs done; go on with: qsweep resume {self.sweep.title}"

    def _let_agents_leave(self) -> None:
        """Agents leave by themselves when nothing is left; wait for them, but not for ever. Those of this machine are
        told: one may wait for jobs that others might have given back."""
        self.backend.look_closely()
        if not self.backend.independent:
            self.backend.stop()
        deadline = time.monotonic() + 10
        while self.backend.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.backend.stop()
