"""What runs in one element of an array: one agent, for as long as the allocation lasts.

submitit pickles a Pilot when the array is submitted and runs it on the node, after each requeue once more. It holds
nothing that changes: what there is to do stands in the registry. It hands over before the known end of its
allocation and on SIGUSR1, and asks to be requeued; it starts its agent again when that crashed. A fleet of pilots
therefore finishes its sweep without a launcher.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from db.home import Home
from db.registry import Registry
from db.rows import Scope
from db.urls import parse_url, shown
from orchestrator.backends.slurm import commands
from orchestrator.supervisor import supervise
from sweeps.errors import InputError, QsweepError
from workers.agent.exits import Exit

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

HANDOVER = 60.0
"""Seconds before the end of an allocation at which an agent begins to hand over; at most a quarter of it."""
STRIKES = 3
"""Crashes of the agent without any change in the registry after which the pilot gives up."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """One agent in one allocation. The registry's URL, which may hold a password, comes through the environment.

    An array may wait in the queue for days, and qsweep be upgraded meanwhile: a field that is added here needs a
    default, which stands in for what an older pickle does not have.
    """

    home: str
    data: str
    registry: str
    """The registry's URL without its secrets, to see that the environment came along."""
    scope: Scope
    """What to work for: a sweep, or a selection of its jobs."""
    code: str
    lease: float
    time_limit: float | None = None
    handover: float | None = None
    """Seconds before the allocation's end; None is HANDOVER."""

    def __call__(self, number: int) -> None:
        """Run agents until nothing is left or the allocation ends. Raises QsweepError if they can't work here."""
        speak()
        flight = Flight(self, self._home(), os.environ["SLURM_JOB_ID"])
        flight.run()

    def _home(self) -> Home:
        url = os.environ.get("QSWEEP_REGISTRY")
        if url is None or shown(parse_url(url)) != self.registry:
            raise InputError(
                "the environment of the launch did not reach the node",
                place="QSWEEP_REGISTRY",
                allowed="submit without SBATCH_EXPORT and --export settings of your own",
            )
        home = Home.at(Path(self.home), registry=url, data=Path(self.data))
        if not home.code.is_dir():
            raise InputError("the home is not here: it has to lie where all nodes see it", place=str(home.root))
        return home


class Flight:
    """One run of a pilot, from the start of its allocation to its end."""

    def __init__(self, pilot: Pilot, home: Home, job: str) -> None:
        self._pilot = pilot
        self._home = home
        self._job = job
        self._heard: list[int] = []

    def run(self) -> None:
        """Work until nothing is left, the allocation nears its end, or a signal comes."""
        for number in SIGNALS:
            signal.signal(number, self._hear)
        self._set_alarm()
        strikes, mark = 0, -1
        while True:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the supervisor lets them through once it has an agent
            if self._heard:
                return self._leave()
            one = self._pilot
            ended = supervise(
                self._home,
                lease=one.lease,
                scope=one.scope,
                code=one.code,
                time_limit=one.time_limit,
                heard=self._heard.append,
            )
            if self._heard:
                return self._leave()
            if ended == Exit.LEFT:
                return self._nothing_left()
            newest = self._registry_says(Registry.newest_event)
            strikes, mark = (strikes + 1 if newest == mark else 1), newest
            if strikes >= STRIKES:
                raise QsweepError(f"the agent ended {strikes} times without doing anything, the last time with {ended}")
            log.info("the agent ended with %d and is started again", ended)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard.append(number)

    def _set_alarm(self) -> None:
        """Have this process get SIGUSR1 in time before the end of the allocation."""
        try:
            left = commands.seconds(commands.ask("squeue", "--noheader", f"--jobs={self._job}", "--format=%L"))
        except commands.SlurmUnavailable as error:
            log.warning("the end of the allocation is unknown: %s", error)
            return
        if left is None:
            return
        before = min(HANDOVER, left / 4) if self._pilot.handover is None else self._pilot.handover
        log.info("%.0f s are left, the last %.0f of them for the hand-over", left, before)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGUSR1))
        signal.setitimer(signal.ITIMER_REAL, max(left - before, 1.0))

    def _leave(self) -> None:
        """The agent has handed its jobs back: ask to be started again, unless it is Slurm or the user that ends us."""
        names = ", ".join(signal.Signals(number).name for number in self._heard)
        remaining = self._registry_says(lambda registry: registry.remaining(self._pilot.scope))
        if remaining.nothing:
            log.info("handed over on %s; nothing is left to do", names)
            return
        state = commands.run("squeue", "--noheader", f"--jobs={self._job}", "--format=%T").stdout.strip()
        warned = signal.SIGUSR1 in self._heard and not state  # Slurm itself says nothing just now
        if state != "RUNNING" and not warned:
            log.info("handed over on %s; the job is %s", names, state or "gone")
            return
        answer = commands.run("scontrol", "requeue", self._job)
        if answer.returncode:
            raise QsweepError(f"handed over, and could not be requeued: {commands.complaint(answer)}")
        log.info("handed over on %s, and requeued", names)

    def _nothing_left(self) -> None:
        """Everything is done: the elements of this array that still wait in the queue would find nothing either."""
        remaining = self._registry_says(lambda registry: registry.remaining(self._pilot.scope))
        log.info("nothing is left that this agent can do")
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if remaining.nothing and array is not None:
            commands.run("scancel", "--state=PENDING", array)

    def _registry_says(self, question: Callable[[Registry], Answer]) -> Answer:
        with Registry.open(self._home.registry) as registry:
            return question(registry)


def speak() -> None:
    """Let the pilot's own messages go to the log of its element. submitit's have a handler of their own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
