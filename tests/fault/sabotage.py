"""The saboteur: listens at the product's named points, and there does what its plan says to the process."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from qsweep.sweeps.faults import DISK_FULL
from tests.listener import ON, Listener

DEATHS = ("kill", "kill both", "stop")
CUTS = ("drop", "restart")
WHAT: dict[str, tuple[str, ...]] = {
    "claim.uncommitted": (*DEATHS, *CUTS),
    "claimed": (*DEATHS, "terminate", "clock", "lock"),
    "heartbeat": (*DEATHS, "kill supervisor", "terminate", "clock", *CUTS),
    "step": (*DEATHS, "kill supervisor", "terminate", "clock", "lock", *CUTS),
    "checkpoint.written": (*DEATHS, "terminate", "full disk"),
    "checkpoint.renamed": DEATHS,
    "checkpoint.recorded": (*DEATHS, "kill supervisor", "lock", *CUTS),
    "checkpoint.reading": ("truncate", "flip", "kill"),
    "parquet.written": (*DEATHS, "full disk"),
    "parquet.renamed": (*DEATHS, "terminate", "lock"),
    "finish.uncommitted": (*DEATHS, *CUTS),
    "finished": DEATHS,
    "supervisor.started": ("die", "stop", "terminate"),
    "supervisor.reporting": ("die", "stop", "clock", "lock", *CUTS),
    "launcher.watching": ("die", "stop", "terminate", "clock", "lock", *CUTS),
}
"""What can be done at each point. `kill…`: to an agent, and from it to its supervisor; `die`: to the process there."""
NOT_ON = {"sqlite": CUTS, "postgres": ("lock",)}
LATER = {"step": 80, "heartbeat": 3, "launcher.watching": 60, "checkpoint.written": 4, "checkpoint.recorded": 4}
"""At most how often a point that is passed often is let pass before the fault; every other: not once."""
ARMED = 8
"""Faults of the plan that wait for their points at the same time."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Do `action` when `point` is passed for the `after`-th time since this fault was armed."""

    action: str
    point: str
    after: int


def draw_plan(seed: int, count: int, database: str, *, clock: bool = True) -> list[Fault]:
    """The faults of one trial: points in shuffled rounds, so that each has its turn, and one of its actions."""
    dice, plan = random.Random(seed), list[Fault]()
    while len(plan) < count:
        for point in dice.sample(sorted(WHAT), len(WHAT)):
            actions = [one for one in WHAT[point] if one not in NOT_ON[database] and (clock or one != "clock")]
            fault = Fault(action=dice.choice(actions), point=point, after=dice.randint(1, LATER.get(point, 1)))
            plan.append(fault)
    return plan[:count]


@dataclass
class Saboteur:
    """Carries out a plan on every process that reports to its socket, and keeps count of what it saw."""

    socket: Path
    plan: list[Fault]
    lease: float
    clock: Path
    database_file: Path | None = None
    restart_database: Callable[[], None] | None = None
    drop_connections: Callable[[], None] | None = None
    fired: list[Fault] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    pids: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[list[Fault | int]] = []
        self._timers: list[threading.Thread] = []
        self._listener = Listener(self.socket, self.hear)

    def close(self) -> None:
        for timer in self._timers:
            timer.join()
        self._listener.close()

    def settle(self) -> None:
        """Waits until every stopped process goes on and every lock is given back."""
        for timer in list(self._timers):
            timer.join()

    def hear(self, pid: int, name: str, subject: str) -> bytes:
        with self._lock:
            self.pids.add(pid)
            self.passed[name] += 1
            if name == "step":
                self.steps += int(subject)
            fault = self._due(name)
            if fault is not None:
                self.fired.append(fault)
                self.notes.append(f"{fault.action} {pid} at {name} {Path(subject).name}")
        return ON if fault is None else self._do(fault.action, pid, subject)

    def _due(self, name: str) -> Fault | None:
        while len(self._armed) < ARMED and self.plan:
            one = self.plan.pop(0)
            self._armed.append([one, one.after])
        due = None
        for slot in self._armed:
            fault, left = slot
            assert isinstance(fault, Fault)
            assert isinstance(left, int)
            if fault.point == name:
                slot[1] = left - 1
                if left <= 1 and due is None:
                    due = slot
        if due is None:
            return None
        self._armed.remove(due)
        assert isinstance(due[0], Fault)
        return due[0]

    def _do(self, action: str, pid: int, subject: str) -> bytes:
        match action:
            case "kill" | "die":
                os.kill(pid, signal.SIGKILL)
            case "kill both" | "kill supervisor":
                self._kill_supervisor(pid)
                if action == "kill both":
                    os.kill(pid, signal.SIGKILL)
            case "stop":
                os.kill(pid, signal.SIGSTOP)
                self._later(1.5 * self.lease, lambda: os.kill(pid, signal.SIGCONT))
            case "terminate":
                os.kill(pid, signal.SIGTERM)
            case "full disk":
                return DISK_FULL
            case "truncate" | "flip":
                damage(Path(subject), truncate=action == "truncate")
            case "clock":
                self.clock.write_text(f"{random.Random(pid).choice((-86_400, 3_600, 86_400)):>12d}")
            case "lock":
                self._lock_file()
            case "drop":
                assert self.drop_connections is not None
                self.drop_connections()
            case "restart":
                assert self.restart_database is not None
                self.restart_database()
        return ON

    def _kill_supervisor(self, pid: int) -> None:
        parent = psutil.Process(pid).parent()
        if parent is not None and "qsweep.orchestrator.supervisor" in " ".join(parent.cmdline()):
            parent.kill()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def wait() -> None:
            time.sleep(seconds)
            try:
                act()
            except ProcessLookupError:
                self.notes.append("it was gone before it could go on")

        self._timers.append(threading.Thread(target=wait, daemon=True))
        self._timers[-1].start()

    def _lock_file(self) -> None:
        """Holds SQLite's write lock for longer than a lease."""
        assert self.database_file is not None
        file = self.database_file

        def hold() -> None:
            connection = sqlite3.connect(file, timeout=30, isolation_level=None)
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(1.3 * self.lease)
            connection.execute("ROLLBACK")
            connection.close()

        self._timers.append(threading.Thread(target=hold, daemon=True))
        self._timers[-1].start()


def damage(path: Path, *, truncate: bool) -> None:
    """Cuts a file in half, or flips one bit in its middle."""
    if not path.is_file():
        return
    content = bytearray(path.read_bytes())
    if truncate:
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
