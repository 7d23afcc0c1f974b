"""The runner of a bundle: starts its agents, keeps the queue, and sees the work through."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from types import FrameType

from qsweep.db.home import Home
from qsweep.db.states import FailureClass, State
from qsweep.sweeps import processes
from qsweep.sweeps.errors import QsweepError
from qsweep.workers.bundle.local_queue import LocalQueue
from qsweep.workers.bundle.progress import Pace
from qsweep.workers.bundle.queue_client import answer_calls
from qsweep.workers.environment import AGENTS, KEEP_MEMORY, gpu_environment

POLL = 0.1
SILENCE = 90.0
"""Seconds without a heartbeat after which an agent is ended: it hangs."""
MOST_FAILED_STARTS = 3
"""Agents in each place that may end one after another without any result or checkpoint between them."""
DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The agents to start: how many, on which GPUs (none: single-threaded on cores), and their time limit."""

    workers: int
    gpus: int
    time_limit: float = math.inf


class Member:
    """One agent's process, and the thread that answers it."""

    def __init__(
        self, home: Home, queue: LocalQueue, lock: threading.Lock, *, number: int, place: int, crew: Crew, hold: int
    ) -> None:
        self.number = number
        self.place = place
        mine, its = Pipe()
        command = [
            *processes.PYTHON,
            "qsweep.workers.bundle.agent",
            "--bundle",
            str(home.root),
            "--data",
            str(home.data),
        ]
        command += ["--number", str(number), "--connection", str(its.fileno())]
        command += [] if math.isinf(crew.time_limit) else ["--time-limit", str(crew.time_limit)]
        # It inherits the hold on the bundle, so that no other runner begins before the last agent is gone.
        self.process = processes.start(
            command,
            env=_environment(crew, place),
            stdin=subprocess.DEVNULL,
            pass_fds=(its.fileno(), hold),
            start_new_session=True,
        )
        its.close()
        self._line = mine
        self._thread = threading.Thread(target=answer_calls, args=(mine, queue, lock), daemon=True)
        self._thread.start()

    def end(self) -> int:
        """After its end: the connection closed; its exit code."""
        self._thread.join()
        self._line.close()
        return self.process.wait()


class Runner:
    """Works off one bundle with a crew of agents. SIGTERM, SIGUSR1 and Ctrl-C: checkpoint, and leave."""

    def __init__(self, home: Home, queue: LocalQueue, crew: Crew, *, hold: int) -> None:
        self.home = home
        self.queue = queue
        self.crew = crew
        self._hold = hold
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._started = 0
        self._stopping = 0
        self._failed_starts = 0
        self._mark = -1

    def run(self) -> int:
        """The exit code: 0 all done, 1 some failed, 130 stopped before the end."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._interrupt)
        pace = Pace(self.queue)
        try:
            while self._members or (self._open() and not self._stopping):
                self._bury_dead()
                if self._stopping:
                    self._end_all()  # one may have been started since
                elif self._open():
                    self._start_missing()
                with self._lock:
                    pace.show()
                time.sleep(POLL)
        finally:
            for member in self._members:
                member.process.kill()
        pace.show(last=True)
        return self._outcome()

    def _outcome(self) -> int:
        if self.queue.paused:
            raise QsweepError(f"stopped: {self.queue.paused}; go on with the same command")
        if self._open():
            sys.stderr.write("stopped; the same command goes on from here\n")
            return INTERRUPTED
        return SOME_FAILED if self.queue.count(State.FAILED) else DONE

    def _open(self) -> bool:
        with self._lock:
            return not self.queue.remaining().nothing

    def _start_missing(self) -> None:
        """Never more agents than there are jobs left."""
        with self._lock:
            left = self.queue.count(State.QUEUED) + self.queue.count(State.RUNNING)
        while len(self._members) < min(self.crew.workers, left):
            self._started += 1
            taken = {member.place for member in self._members}
            place = next(free for free in range(self.crew.workers) if free not in taken)
            self._members.append(
                Member(
                    self.home,
                    self.queue,
                    self._lock,
                    number=self._started,
                    place=place,
                    crew=self.crew,
                    hold=self._hold,
                )
            )

    def _bury_dead(self) -> None:
        for member in list(self._members):
            if self._hangs(member):
                member.process.kill()
            if member.process.poll() is None:
                continue
            self._members.remove(member)
            code = member.end()
            with self._lock:
                self.queue.mark_dead(
                    member.number, FailureClass.CRASH, f"the agent's process ended with {code}", kind=f"exit {code}"
                )
            if self._open() and not self._stopping:
                self._count_failure(code)

    def _hangs(self, member: Member) -> bool:
        with self._lock:
            beat = self.queue.beats.get(member.number)
        return beat is not None and time.monotonic() - beat > SILENCE

    def _count_failure(self, code: int) -> None:
        """An agent left although there is work. That is its jobs' matter, unless agents do nothing but leave."""
        with self._lock:
            mark = sum(entry.progress for entry in self.queue.entries.values()) + self.queue.count(State.DONE)
        mark += self.queue.count(State.FAILED)
        self._failed_starts = self._failed_starts + 1 if mark == self._mark else 1
        self._mark = mark
        if self._failed_starts > MOST_FAILED_STARTS * self.crew.workers:
            raise QsweepError(
                f"agents end (exit code {code}) without getting on: see their logs in {self.home.logs}. "
                f"Jobs whose precision this device lacks stay queued."
            )

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stopping += 1
        self._end_all()

    def _end_all(self) -> None:
        for member in self._members:
            if member.process.poll() is None:
                (member.process.kill if self._stopping > 1 else member.process.terminate)()


def _environment(crew: Crew, place: int) -> dict[str, str]:
    environment = KEEP_MEMORY | dict(os.environ) | {"PYTHONSAFEPATH": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", AGENTS: str(crew.workers)}
    if crew.gpus:
        environment |= gpu_environment(place % crew.gpus, environment)
    return environment
