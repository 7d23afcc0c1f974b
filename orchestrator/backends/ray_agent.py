"""The Ray actor that holds the resources of one agent, and the agent that it starts beside itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import traceback
import uuid
from typing import Any

import ray

from qsweep.orchestrator.backends.base import Fleet
from qsweep.orchestrator.backends.local import worker_command
from qsweep.orchestrator.children import worker_environment
from qsweep.sweeps import processes
from qsweep.workers.environment import AGENTS, GPU, PLACE

POLL = 1.0
"""Seconds between two looks at whether the node's raylet still lives."""


class RayAgent:
    """Runs one agent for as long as it has work; ends with its supervisor, which starts a crashed one again.

    The agent is on a leash: when this actor dies, however it dies, the agent writes a checkpoint, hands its jobs
    back and leaves. When the machine dies, its lease runs out. An actor that died by mistake is started again by
    Ray, on whatever node has room, which is another place. An actor whose node's raylet has died ends itself: Ray
    takes it for dead, starts another one elsewhere, and yet may leave the process running (2.60 does).
    """

    def __init__(self, fleet: Fleet) -> None:
        log = fleet.home.logs / "agents"
        gpus = ",".join(map(str, ray.get_gpu_ids()))
        log.mkdir(parents=True, exist_ok=True)
        with (log / "supervisors.log").open("ab") as output:
            self._process = processes.start(
                [*worker_command(fleet), "--leash", "--stay"],
                env=worker_environment(fleet.home, threads=1)
                | {"QSWEEP_BACKEND": "ray", PLACE: f"{fleet.launch}/{uuid.uuid4().hex[:12]}"}
                | {AGENTS: str(fleet.workers)}
                | ({GPU: gpus} if gpus else {}),
                stdin=subprocess.PIPE,  # nothing is ever written: it ends when this process does
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._end_with_agent, args=(me, os.getppid()), daemon=True).start()

    def started(self) -> int:
        """The number of this actor's process: answered once there is room for it."""
        return os.getpid()

    def stop(self, by_user: bool = False) -> None:
        """Ask the agent to write a checkpoint, hand its jobs back and exit; this actor follows."""
        self._process.send_signal(signal.SIGINT if by_user else signal.SIGTERM)

    def _end_with_agent(self, me: Any, raylet: int) -> None:
        """However this watch ends, the actor ends with it: Ray starts another one, the resources are free."""
        try:
            while os.getppid() == raylet:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=POLL)
                    ray.kill(me)
                    return
        except Exception:
            traceback.print_exc()
        os._exit(1)
