"""The watch over a running sweep: keeps agents at work and shows progress until nothing is open."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from qsweep.db.compaction import compact
from qsweep.db.home import Home
from qsweep.db.losses import read_sound, told
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore, table_of
from qsweep.db.rows import AgentRow, Blocked, Committed, Counts, Sweep
from qsweep.db.states import State, SweepState
from qsweep.orchestrator.backends.base import Backend, Fleet, StartRefused
from qsweep.orchestrator.board import Display, launch_picture
from qsweep.orchestrator.dead_agents import DeadAgents, mark_dead_agents
from qsweep.orchestrator.hindrances import hindrances
from qsweep.orchestrator.layout import tell
from qsweep.orchestrator.progress import METRICS, Tally
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
"""Seconds after which a change is looked at, whatever that costs …"""
SHARE = 0.006
"""… and before them, as long as looks take no more than this share of the time, beyond what a launch has at first."""
AT_FIRST = 0.5
"""Seconds of processor time: a short launch looks as often as there is something to see."""
CALM = 5.0
"""Seconds after which a look is due though nothing has changed: leases run out, processes die."""
READING = 10.0
"""Seconds after which results that have come are read into the averages, whatever that costs."""
CHANGES = 5_000
"""Most events that are read at once."""
RECHECK = 10.0
"""Seconds after which it is asked again what keeps jobs from running, even if no count has changed."""
MANY = 256
"""Publications that a launcher has seen come before it merges them."""


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
        rows = registry.catalogue.jobs(sweep.id, selection=fleet.scope.selection)
        self.tally = Tally({row.identity: row.job for row in rows}, size=sweep.size)
        self.progress = self.tally.look(Counts())
        self._has_children = any(row.parent_id is not None for row in rows)
        self._blocked: tuple[Blocked, ...] = ()
        self._asked: tuple[object, ...] = ()
        self._hindrances: frozenset[str] = frozenset()
        self._seen: set[tuple[str, int]] = set()
        self._upkeep = Upkeep()
        self._event = registry.history.newest_event()
        self._agents_with_jobs = {agent.id for agent in registry.catalogue.agents()}
        self._refused = ""
        self._taken: int | None = None
        self._unread: list[Committed] = []
        self._read_at = 0.0
        self._ration = Ration()
        self._pulse: int | None = None
        self._alive = 0
        self._calm = False
        self._interrupts = 0
        self._by_user = False
        self._left = False
        self._deaths = DeadAgents()
        self._stopped: Sequence[AgentRow] = ()
        self._deserted: float | None = None
        self._loose: set[str] = set()
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
        began, longest = time.monotonic(), CALM if self._calm else LONGEST
        while not (self._interrupts or self._left):
            point("launcher.watching")
            time.sleep(TICK)
            waited = time.monotonic() - began
            if waited >= longest or (self._has_changed() and (waited >= LONGEST or self._ration.is_left())):
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
        self._pulse = self.registry.catalogue.pulse()
        counts = self._counts()
        blocked = self._count_blocked(counts)
        held = self.registry.agents.held(self.sweep.id, self.fleet.scope.selection) if counts.running else {}
        notes = [(one.note, held[one.id]) for one in self.registry.catalogue.agents() if one.id in held]
        self._take_in()
        self.progress = self.tally.look(counts, blocked=blocked, notes=notes)

    def _show(self, display: Display, *, last: bool = False) -> None:
        progress, title = self.progress, self.sweep.title
        display.show(
            lambda width, height: launch_picture(title, progress, self.tally.means, width),
            f"{title}: {progress.line()}",
            share=progress.counts.done / max(progress.counts.total, 1),
            last=last,
        )

    def _take_in(self) -> None:
        """The results that have come since the last look."""
        fresh = [one for one in self._newly_done() if (one.job, one.attempt) not in self._seen]
        self._seen.update((one.job, one.attempt) for one in fresh)
        self.tally.done.update(one.job for one in fresh)
        self._loose.update(one.publication for one in fresh)
        self._unread += fresh
        if self._ration.is_left() or time.monotonic() - self._read_at >= READING:
            self._read_results()
        self._compact()

    def _newly_done(self) -> list[Committed]:
        """Pointers of the watched jobs that are done: at first all of them, then those of the events since."""
        if self._taken is None:
            self._taken = self._event
            return [one for one in self.registry.catalogue.committed(self.sweep.id) if one.job in self.tally.jobs]
        found: list[Committed] = []
        while changes := self.registry.history.changes(self.sweep.id, since=self._taken, limit=CHANGES):
            self._taken = changes[-1].id
            found += [
                Committed(job=one.identity, attempt=one.attempt, publication=one.publication, kind=kind_named(one.kind))
                for one in changes
                if one.target is State.DONE and one.publication and one.identity in self.tally.jobs
            ]
        return found

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
        if not (self._has_children and counts.queued):
            self._blocked = ()
            return 0
        asked = (counts, int(time.monotonic() / RECHECK))
        if asked != self._asked:
            self._asked = asked
            self._blocked = tuple(self.registry.sweeps.blocked(self.sweep.id, self.fleet.scope.selection))
        return sum(one.jobs for one in self._blocked)

    def _compact(self) -> None:
        """Merge results files before there are so many that every answer waits for them."""
        if len(self._loose) < MANY:
            return
        self._loose.clear()
        try:
            compact(self.home, self.registry, [self.sweep.id])
        except (QsweepError, OSError) as error:  # nothing is lost by it, and nothing has to stop for it
            tell(self.console, f"results files were not merged: {error}")

    def _counts(self) -> Counts:
        return self.registry.catalogue.counts(self.sweep.id, self.fleet.scope.selection)

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
        living = {agent.id for agent in self.registry.catalogue.agents() if not agent.expired}
        if living.intersection(self.registry.agents.held(self.sweep.id, self.fleet.scope.selection)):
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
        activity = self.registry.history.activity(self.sweep.id, since=self._event)
        agents_with_jobs = (
            activity.agents - self._agents_with_jobs
        )  # an agent that claims does something, even if it dies of it
        self._event = activity.newest
        self._agents_with_jobs |= agents_with_jobs
        self._stopped = stopped_of(self.registry, self.fleet.launch)
        return Look(
            now=time.monotonic(),
            wanted=max(self.backend.size(self.fleet) - len(self._stopped), 0),
            alive=self.backend.alive(),
            others=self.backend.others(self.registry.catalogue.agents()),
            events=activity.events,
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
        done = self._counts().done
        return f"{done} of {len(self.tally.jobs)} jobs done; go on with: qsweep resume {self.sweep.title}"

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
