"""The launcher and the watchers alone, at a registry of that size at which a few agents work."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet.agents import Crews, SimulatedAgent, options_of, register
from benchmarks.fleet.beside import beside
from benchmarks.fleet.server import ServerTime, counts, server
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo, Finished, Scope

WARM = 60.0
"""Seconds after which launcher and watchers have read what was there at the start."""


def watchers(given: argparse.Namespace) -> dict[str, Any]:
    """A launcher and watchers at a registry of that size, half of it done, on which a few agents work."""
    with server() as one, tempfile.TemporaryDirectory(prefix="qsweep-fleet-home-") as name:
        folder = Path(name)
        url, home = one.url, Home.at(folder, registry=one.url)
        sweep, _ = register(home, given.jobs)
        options = options_of(sweep, given)
        with Registry.open(url) as registry:
            _finish_half(home, registry, argparse.Namespace(**options), given.jobs // 2)
            _hold(registry, sweep, given.idle, given.cohort)
        crews = Crews(folder, url, options, given.agents // given.processes)
        for _ in range(given.processes):
            crews.start()
        looked_at = beside(folder, url, given.agents, given.watchers)
        cost = ServerTime(one)
        try:
            time.sleep(WARM)
            for watched in looked_at:
                watched.mark()
            before, began = cost.look(), time.time()
            while time.time() - began < given.length:
                time.sleep(1.0)
                spent = cost.look()
                for watched in looked_at:
                    watched.look()
            busy = (spent - before) / (time.time() - began)
            found = {
                one.name: {"cores": one.share(), "start_s": one.before, "memory_mb": one.memory()} for one in looked_at
            }
            done, running, _ = counts(url)
        finally:
            crews.kill(crews.living())
            for watched in looked_at:
                watched.end()
    return {"beside": found, "server_cores": busy, "done": done, "running": running, "load": os.getloadavg()[0]}


def _finish_half(home: Home, registry: Registry, given: argparse.Namespace, count: int) -> None:
    """Finishes so many jobs, in publications of a few hundred."""
    agent = SimulatedAgent(home, given, [])
    agent.agent = registry.agents.enlist(
        AgentInfo(host="simulated", pid=1, process_started=0.0, boot_id="", backend="fleet", device="cpu", build="")
    )
    done = 0
    while done < count:
        head = registry.queue.next_cohort(agent.agent, agent.scope)
        assert head is not None
        claims = registry.queue.claim(agent.agent, head, min(500, count - done), agent.scope)
        publication = f"{agent.agent:06d}-{done:012x}"
        agent.store.write("runs", publication, agent._run_rows(claims))
        for kind in ("epochs", "layers"):
            agent.store.write(kind, publication, [])
        finished = [Finished(job_id=one.job_id, attempt=one.attempt, publication=publication) for one in claims]
        done += len(registry.queue.finish(agent.agent, finished).jobs)
    registry.agents.retire(agent.agent)
    agent.registry.close()


def _hold(registry: Registry, sweep: int, agents: int, cohort: int) -> None:
    """So many agents that hold a cohort each, and say what they do, as those of a large fleet do most of the time."""
    for number in range(agents):
        agent = registry.agents.enlist(
            AgentInfo(
                host=f"node{number}",
                pid=1,
                process_started=0.0,
                boot_id="",
                backend="fleet",
                device="cpu",
                build="",
                lease=1e6,
            )
        )
        head = registry.queue.next_cohort(agent, Scope(sweep=sweep))
        if head is not None:
            claims = registry.queue.claim(agent, head, cohort, Scope(sweep=sweep))
            note = {"cohort": head.cohort_key, "jobs": len(claims), "step": 100, "steps": 600}
            registry.queue.beat(agent, json.dumps(note))
