"""The supervisor of one agent: starts it, passes signals on, and reports its death to the registry.

It holds no lease and imports no torch. When its agent dies without having left, the agent's jobs are handed back at
once: as out of memory if the kernel's OOM killer was at work, as lost if the registry was out of reach, else as
crashed. When both die, the lease runs out. What stands on its standard input is its agent's.

With `--stay` it keeps its place: it starts another agent when one has died, and waits while the registry is away
(`orchestrator.upkeep` has the law). No agent is started again where all that was tried failed, while others succeed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from qsweep.db.errors import RegistryFull, RegistryUnavailable
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import EVERYTHING, Scope
from qsweep.db.states import FailureClass
from qsweep.orchestrator.upkeep import End, Place
from qsweep.sweeps import processes
from qsweep.sweeps.code import check_snapshot
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.memory import oom_kills
from qsweep.workers.agent.exits import Exit
from qsweep.workers.agent.saying import say

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PASSED_DOWN = ("--leash", "--directed")
"""Options of the agent, see `workers.agent`."""
GLANCE = 0.2
"""Seconds between two looks of one who waits at whether a signal came."""


def supervise(
    home: Home,
    *,
    lease: float,
    scope: Scope = EVERYTHING,
    code: str | None,
    time_limit: float | None = None,
    options: Sequence[str] = (),
    heard: Callable[[int], None] = lambda _: None,
) -> End:
    """Run one agent to its end, and report its death if the registry can be told.

    With `code`, the agent runs that snapshot instead of the installed packages. `options` are the agent's
    `--leash` and `--directed`. `heard` is told each signal.
    """
    command = [*processes.PYTHON, "qsweep.workers.agent", "--home", str(home.root), "--data", str(home.data)]
    command += ["--lease", str(lease), *scope_options(scope)]
    command += [] if time_limit is None else ["--time-limit", str(time_limit)]
    command += options
    environment, killed_before = agent_environment(home, code), oom_kills()
    # Until there is an agent to pass them on to; the agent inherits this, and lets them through once it listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = processes.start(command, env=environment, stdout=subprocess.PIPE, text=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard(number)
        if child.poll() is None:
            child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    _receive()
    assert child.stdout is not None
    agent = child.stdout.readline().strip()
    point("supervisor.started", agent)
    for line in child.stdout:  # what a directed agent says
        say(line)
    ended = child.wait()
    exit_code, held = ended if ended >= 0 else 1, 0
    if ended not in (Exit.LEFT, Exit.ONLY_FAILED) and agent.isdecimal():
        point("supervisor.reporting", agent)
        try:
            with Registry.open(home.registry) as registry:
                failure, words = diagnose(ended, out_of_memory=oom_kills() > killed_before)
                held = registry.agents.mark_dead(int(agent), failure, words, kind=f"exit {ended}")
                if held and "--directed" not in options and _stopped(registry, int(agent)):
                    exit_code = Exit.ONLY_FAILED
        except (RegistryUnavailable, RegistryFull) as error:
            sys.stderr.write(f"qsweep: the death of agent {agent} could not be reported: {error}\n")
            return End(code=exit_code, reported=False)
    return End(code=exit_code, held=held)


def _stopped(registry: Registry, agent: int) -> bool:
    """Whether no other agent is to follow this one, which has died; the registry then says why."""
    if reason := registry.queue.reason_to_stop(agent):
        registry.agents.stop(agent, reason)
        sys.stderr.write(f"qsweep: agent {agent} is not started again: {reason}\n")
    return bool(reason)


def stay(work: Callable[[], End], heard: Sequence[int], say: Callable[[str], None]) -> End | None:
    """Have one agent after another `work` here until one leaves or stops; its end, or None if a signal was `heard`
    before.

    `heard` is filled by the handlers of PASSED_ON, which the caller sets. Raises QsweepError if no agent can work here.
    """
    place = Place()
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # `supervise` lets them through once it has an agent
        if heard:
            _receive()
            return None
        began = time.monotonic()
        end = work()
        if end.code in (Exit.LEFT, Exit.ONLY_FAILED) or heard:
            return end
        pause = place.pause(end, lived=time.monotonic() - began)
        say(f"the agent ended with {end.code} and is started again" + (f" in {pause:g} s" if pause else ""))
        _wait(pause, heard)


def _wait(seconds: float, heard: Sequence[int]) -> None:
    """Until then, or until a signal is heard."""
    until = time.monotonic() + seconds
    while not heard and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, GLANCE))


def diagnose(code: int, *, out_of_memory: bool) -> tuple[FailureClass, str]:
    """What an agent died of, by its exit code (negative: a signal) and what the kernel did meanwhile; in words."""
    if code == -signal.SIGKILL and out_of_memory:
        return FailureClass.MEMORY, "the kernel killed the agent's process: the machine or its group was out of memory"
    if code < 0:
        return FailureClass.CRASH, f"the agent's process was killed by signal {signal.Signals(-code).name}"
    if code == Exit.REGISTRY_GONE:
        return FailureClass.LOST, "the registry did not answer the agent"
    if code == Exit.LEASE_GONE:
        return FailureClass.LOST, "the agent gave up its jobs: no heartbeat got through, or it made no progress"
    return FailureClass.CRASH, f"the agent's process ended with exit code {code}"


def _say(words: str) -> None:
    sys.stderr.write(f"qsweep worker: {words}\n")
    sys.stderr.flush()


def _receive() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


def scope_options(scope: Scope) -> list[str]:
    """The options by which a supervisor, and its agent, are told what to work for."""
    given = {"--sweep": scope.sweep, "--selection": scope.selection}
    return [word for name, value in given.items() if value is not None for word in (name, str(value))]


def agent_environment(home: Home, code: str | None) -> dict[str, str]:
    """The agent's environment: its registry, its code, and no module from the current folder.

    Raises InputError if the code is not what its version names. Every agent starts by this, on every backend.
    """
    environment = {**os.environ, "QSWEEP_REGISTRY": home.registry, "PYTHONSAFEPATH": "1"}
    if code is not None:
        snapshot = check_snapshot(home.code, code)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a snapshot holds no bytecode: nobody could check it
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(snapshot), os.environ.get("PYTHONPATH")]))
    return environment


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--sweep", type=int)
    parser.add_argument("--selection", type=int)
    parser.add_argument("--code")
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--stay", action="store_true", help="start another agent when one has died")
    for option in PASSED_DOWN:
        parser.add_argument(option, action="append_const", dest="options", const=option)
    given = parser.parse_args(arguments)
    home = Home.at(given.home, registry=os.environ.get("QSWEEP_REGISTRY"), data=given.data)
    heard: list[int] = []

    def work() -> End:
        return supervise(
            home,
            lease=given.lease,
            scope=Scope(sweep=given.sweep, selection=given.selection),
            code=given.code,
            time_limit=given.time_limit,
            options=given.options or (),
            heard=heard.append,
        )

    try:
        if not given.stay:
            return work().code
        for number in PASSED_ON:
            signal.signal(number, lambda one, _: heard.append(one))
        end = stay(work, heard, _say)
        return Exit.LEFT if end is None else end.code
    except QsweepError as error:
        sys.stderr.write(f"qsweep worker: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
