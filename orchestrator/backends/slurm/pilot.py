"""What runs in one element of an array: one agent, for as long as the allocation lasts.

submitit pickles a Pilot when the array is submitted and runs it on the node, after each requeue once more. It holds
nothing that changes: what there is to do stands in the registry. It hands over before the known end of its
allocation and on SIGUSR1, and asks to be requeued; it starts its agent again when that crashed, and waits while the
registry is away. A fleet of pilots therefore finishes its sweep without a launcher.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from qsweep.db.errors import RegistryUnavailable
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Scope
from qsweep.db.urls import parse_url
from qsweep.orchestrator.backends.slurm import commands
from qsweep.orchestrator.supervisor import PASSED_ON, stay, supervise
from qsweep.orchestrator.upkeep import End
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.logs import CleanFormatter
from qsweep.workers.agent.exits import Exit
from qsweep.workers.environment import GPU, PLACE

log = logging.getLogger(__name__)

HANDOVER = 60.0
"""Seconds before the end of an allocation at which an agent begins to hand over; at most a quarter of it."""
LAST = 10.0
"""Seconds before the end at which the pilot has itself requeued, whatever its agent waits for; at most a third of what
the hand-over has."""


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
    has_data: bool = False
    """Whether the folder of the data sets held anything when this was submitted: then it has to on the node."""

    def __call__(self, number: int) -> None:
        """Run agents until nothing is left or the allocation ends. Raises QsweepError if they can't work here."""
        speak()
        flight = Flight(self, self._home(), os.environ["SLURM_JOB_ID"])
        flight.run()

    def _home(self) -> Home:
        url = os.environ.get("QSWEEP_REGISTRY")
        if url is None or parse_url(url).shown != self.registry:
            raise InputError(
                "the environment of the launch did not reach the node",
                place="QSWEEP_REGISTRY",
                allowed="submit without SBATCH_EXPORT and --export settings of your own",
            )
        home = Home.at(Path(self.home), registry=url, data=Path(self.data))
        if not home.code.is_dir():
            raise InputError("the home is not here: it has to lie where all nodes see it", place=str(home.root))
        if self.has_data and not is_filled(home.data):
            raise InputError("the data sets are not here: no jobs are taken on this node", place=str(home.data))
        return home


def is_filled(folder: Path) -> bool:
    """Whether there is anything in this folder: the place of a mount that is missing is an empty one."""
    try:
        return any(folder.iterdir())
    except OSError:
        return False


class Flight:
    """One run of a pilot, from the start of its allocation to its end."""

    def __init__(self, pilot: Pilot, home: Home, job: str) -> None:
        self._pilot = pilot
        self._home = home
        self._job = job
        self._heard: list[int] = []

    def run(self) -> None:
        """Work until nothing is left, the allocation nears its end, or a signal comes."""
        for number in PASSED_ON:
            signal.signal(number, self._hear)
        self._set_alarm()
        os.environ[PLACE] = f"{os.environ.get(PLACE, '')}/{self._job}"
        if gpus := os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS"):
            os.environ[GPU] = gpus
        end = stay(self._work, self._heard, log.info)
        if self._heard or end is None:
            self._leave()
        elif end.code == Exit.ONLY_FAILED:
            log.info("all that was tried here failed, while others succeed: the allocation is given back")
        else:
            self._nothing_left()

    def _work(self) -> End:
        one = self._pilot
        return supervise(
            self._home,
            lease=one.lease,
            scope=one.scope,
            code=one.code,
            time_limit=one.time_limit,
            heard=self._heard.append,
        )

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
        last = min(LAST, before / 3)
        log.info("%.0f s are left, the last %.0f of them for the hand-over", left, before)

        def insist(*_: object) -> None:
            try:
                self._go_again("out of time for the hand-over")
            except QsweepError as error:  # the agent may still make it
                log.warning("%s", error)

        def hand_over(*_: object) -> None:
            signal.signal(signal.SIGALRM, insist)
            signal.setitimer(signal.ITIMER_REAL, before - last)
            signal.raise_signal(signal.SIGUSR1)

        signal.signal(signal.SIGALRM, hand_over)
        signal.setitimer(signal.ITIMER_REAL, max(left - before, 1.0))

    def _leave(self) -> None:
        """The agent has handed its jobs back: ask to be started again, unless it is Slurm or the user that ends us."""
        names = ", ".join(signal.Signals(number).name for number in self._heard)
        if self._is_all_done():
            log.info("handed over on %s; nothing is left to do", names)
            return
        self._go_again(f"handed over on {names}")

    def _go_again(self, why: str) -> None:
        """Have Slurm requeue this job, which ends this process, unless it is Slurm or the user that ends it."""
        state = commands.run("squeue", "--noheader", f"--jobs={self._job}", "--format=%T").stdout.strip()
        warned = signal.SIGUSR1 in self._heard and not state  # Slurm itself says nothing just now
        if state != "RUNNING" and not warned:
            log.info("%s; the job is %s", why, state or "gone")
            return
        answer = commands.run("scontrol", "requeue", self._job)
        if answer.returncode:
            raise QsweepError(f"{why}, and could not be requeued: {commands.complaint(answer)}")
        log.info("%s, and requeued", why)

    def _nothing_left(self) -> None:
        """Everything is done: the elements of this array that still wait in the queue would find nothing either."""
        log.info("nothing is left that this agent can do")
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        if array is not None and self._is_all_done():
            commands.run("scancel", "--state=PENDING", array)

    def _is_all_done(self) -> bool:
        """Whether nothing is left for any agent; not as long as the registry can't be asked."""
        try:
            with Registry.open(self._home.registry) as registry:
                return registry.remaining(self._pilot.scope).nothing
        except RegistryUnavailable as error:
            log.info("what is left is unknown: %s", error)
            return False


def speak() -> None:
    """Let the pilot's own messages go to the log of its element. submitit's have a handler of their own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CleanFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
