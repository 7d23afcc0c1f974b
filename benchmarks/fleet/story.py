"""What happens to a fleet: half of it is killed and replaced, the server is restarted, and all is counted."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.fleet.agents import Crews, options_of, register
from benchmarks.fleet.audit import audit, percentiles, takeover
from benchmarks.fleet.beside import Watched, beside
from benchmarks.fleet.server import ServerTime, counts, end_early, server
from benchmarks.fleet.watchers import WARM
from qsweep.db.home import Home
from qsweep.orchestrator import serving

BACK = 1.2
"""Leases after which others take the place of those that were killed."""
AFTER = 5.0
"""Seconds after a restart in which calls still wait for their next try."""


def fleet(given: argparse.Namespace) -> dict[str, Any]:
    """The whole of it: what was measured."""
    with server() as one, tempfile.TemporaryDirectory(prefix="qsweep-fleet-home-") as name:
        folder = Path(name)
        sweep, registered = register(Home.at(folder, registry=one.url), given.jobs)
        say(f"{given.jobs:,} jobs registered in {registered:.1f} s")
        crews = Crews(folder, one.url, options_of(sweep, given), given.agents // given.processes)
        for _ in range(given.processes):
            crews.start()
        looked_at = beside(folder, one.url, given.agents, given.watchers)
        try:
            return {"registering_s": registered} | Story(given, one, crews, looked_at, folder).tell()
        finally:
            crews.kill(crews.living())
            for watched in looked_at:
                watched.end()


class Story:
    """A fleet at work, to its end."""

    def __init__(
        self, given: argparse.Namespace, one: serving.Server, crews: Crews, looked_at: list[Watched], folder: Path
    ) -> None:
        self.given, self.server, self.crews, self.looked_at, self.folder = given, one, crews, looked_at, folder
        self.cost, self.began = ServerTime(one), time.time()
        self.before = self.spent = self.cost.look()
        self.load: list[float] = []
        self.done = self.running = self.open = 0
        self.marked = self.over = False
        self.killed_at = self.back_at = 0.0
        self.restart: tuple[float, float] = (0.0, 0.0)

    def tell(self) -> dict[str, Any]:
        """Live through it: what was measured."""
        while True:
            time.sleep(1.0)
            self._look()
            self._end_in_time()
            self._kill_half()
            self._bring_others()
            self._restart_server()
            if not (self.running if self.over else self.open):
                break
        ended = time.time()
        for process in self.crews.living():
            process.join(60)
        return self._figures(ended - self.began)

    def _look(self) -> None:
        self.spent = self.cost.look()
        for watched in self.looked_at:
            watched.look()
        self.load.append(os.getloadavg()[0])
        if not self.marked and time.time() - self.began > WARM:
            self.marked = True
            for watched in self.looked_at:
                watched.mark()
        self.done, self.running, self.open = counts(self.server.url)

    def _end_in_time(self) -> None:
        if not self.over and time.time() - self.began > self.given.at_most:
            self.over = True
            end_early(self.server.url)
            say(f"the time is over with {self.done:,} jobs done: agents finish what they have")

    def _kill_half(self) -> None:
        given, living = self.given, self.crews.living()
        at_work = self.running >= given.agents * given.cohort * 0.5
        if not self.killed_at and self.done >= given.jobs * given.kill_at and at_work:
            doomed = living[: len(living) // 2]
            self.crews.kill(doomed)
            self.killed_at = time.time()
            say(f"{len(doomed) * self.crews.each} agents killed with {self.done:,} jobs done")

    def _bring_others(self) -> None:
        if self.killed_at and not self.back_at and time.time() - self.killed_at > BACK * self.given.lease:
            for _ in range(self.given.processes // 2):
                self.crews.start()
            self.back_at = time.time()

    def _restart_server(self) -> None:
        if self.back_at and not self.restart[0] and self.done >= self.given.jobs * self.given.restart_at:
            began = time.time()
            serving.stop(self.server)
            serving.start(self.server)
            self.restart = (began, time.time())
            say(f"the server was stopped and started in {self.restart[1] - began:.1f} s with {self.done:,} jobs done")

    def _figures(self, wall: float) -> dict[str, Any]:
        calls: dict[str, list[float]] = defaultdict(list)
        client: dict[str, list[float]] = defaultdict(list)
        during: list[float] = []
        for name, at, seconds, busy in self.crews.timings():
            client[name].append(busy)
            if self.restart[0] and at < self.restart[1] + AFTER and at + seconds > self.restart[0]:
                during.append(seconds)
            else:
                calls[name].append(seconds)
        spent = self.spent - self.before
        return {
            "seconds": wall,
            "jobs_done": self.done,
            "jobs_per_s": self.done / wall,
            "calls_per_s": sum(map(len, calls.values())) / wall,
            "calls": {name: percentiles(values) for name, values in sorted(calls.items())},
            "client_cpu_ms": {name: 1000 * sum(values) / len(values) for name, values in sorted(client.items())},
            "server_cpu_ms_a_call": 1000 * spent / max(sum(map(len, client.values())), 1),
            "longest_during_restart_s": max(during, default=0.0),
            "restart_s": self.restart[1] - self.restart[0],
            "server_cores": spent / wall,
            "server_memory_mb": self.cost.memory,
            "load": sum(self.load) / len(self.load),
            "beside": {one.name: {"cores": one.share(), "start_s": one.before} for one in self.looked_at},
            "audit": audit(self.server.url, self.folder),
            "takeover": takeover(self.server.url, self.killed_at, self.given.lease),
        }


def say(words: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {words}\n")
    sys.stdout.flush()
