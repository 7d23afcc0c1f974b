"""The Ray actor that holds the resources of one agent, and the agent that it starts beside itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import Any

import ray

from orchestrator.backends.base import Fleet
from orchestrator.backends.local import worker_command, worker_environment
from workers.agent.exits import Exit

POLL = 1.0
"""Seconds between two looks at whether the node's raylet still lives."""
STRIKES = 3
"""Agents that die soon after their start, one after another, after which the actor ends."""
SOON = 30.0
"""Seconds within which a death tells more of the node than of the work."""


class RayAgent:
    """Runs one supervised agent for as long as it has work, starts it again when it crashed, and ends with it.

    The agent is on a leash: when this actor dies, however it dies, the agent writes a checkpoint, hands its jobs
    back and leaves. When the machine dies, its lease runs out. An actor that died by mistake is started again by
    Ray, on whatever node has room. An actor whose node's raylet has died ends itself: Ray takes it for dead, starts
    another one elsewhere, and yet may leave the process running (2.60 does).
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stopped = False
        self._lock = threading.Lock()
        self._process = self._start()
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._end_with_agent, args=(me, os.getppid()), daemon=True).start()

    def started(self) -> int:
        """The number of this actor's process: answered once there is room for it."""
        return os.getpid()

    def stop(self) -> None:
        """Ask the agent to write a checkpoint, hand its jobs back and exit; this actor follows."""
        with self._lock:
            self._stopped = True
            self._process.send_signal(signal.SIGTERM)

    def _start(self) -> subprocess.Popen[bytes]:
        log = self._fleet.home.logs / "agents"
        log.mkdir(parents=True, exist_ok=True)
        with (log / "supervisors.log").open("ab") as output:
            return subprocess.Popen(
                [*worker_command(self._fleet), "--leash"],
                env=worker_environment(self._fleet.home, threads=1) | {"QSWEEP_BACKEND": "ray"},
                stdin=subprocess.PIPE,  # nothing is ever written: it ends when this process does
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )

    def _end_with_agent(self, me: Any, raylet: int) -> None:
        strikes = 0
        while True:
            began = time.monotonic()
            ended = self._outlive(raylet)
            strikes = strikes + 1 if time.monotonic() - began < SOON else 1
            if ended in (Exit.LEFT, Exit.BAD_INPUT) or strikes == STRIKES or not self._start_again():
                ray.kill(me)
                return

    def _outlive(self, raylet: int) -> int:
        """Wait for the agent's end; its exit code. Ends this process if the raylet dies before."""
        while os.getppid() == raylet:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout=POLL)
        os._exit(1)

    def _start_again(self) -> bool:
        with self._lock:
            if not self._stopped:
                self._process = self._start()
            return not self._stopped
