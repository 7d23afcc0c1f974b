"""Agents as actors of a Ray cluster, or of a local Ray instance on this machine.

Ray places them, starts them again when they die, and takes them in as the cluster grows; what they do, each finds
in the registry by itself. The actors are detached: they outlive the launcher, and a later one finds them by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from qsweep.db.home import Home
from qsweep.orchestrator.backends.base import Backend, Fleet, Site
from qsweep.orchestrator.children import worker_environment
from qsweep.orchestrator.cluster import (
    NAMESPACE,
    Resources,
    Wanted,
    check_address,
    connect,
    load_ray,
    named_address,
    nodes,
    our_actors,
    own_node,
    reachable,
)
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.reach import is_here
from qsweep.orchestrator.starts import Start, record, recorded
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError, QsweepError

OPTIONS = ("address", "cpus", "gpus", "memory")
WAITING = 10.0
"""Seconds without room after which the launcher says so."""


class RayBackend(Backend):
    """`address` is that of a running cluster, or `auto`; without one, a local Ray instance is started with the first
    agent."""

    name: ClassVar[str] = "ray"

    def __init__(self, address: str | None = None, wanted: Wanted | None = None) -> None:
        self._ray = load_ray()
        self._given = self._address = named_address(address)
        self._wanted = wanted or Wanted()
        self._resources = Resources()
        self._machine: Machine | None = None
        self._workers: int | None = None
        self._fleet: Fleet | None = None
        self._own = False
        self._handles: dict[str, Any] = {}
        self._pending: dict[str, tuple[Any, float]] = {}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        if unknown := set(options) - set(OPTIONS):
            raise InputError(f"{min(unknown)!r} is no option of Ray", allowed="allowed: " + ", ".join(OPTIONS))
        wanted = Wanted(cpus=options.get("cpus"), gpus=options.get("gpus"), memory=options.get("memory"))
        return cls(options.get("address"), wanted)

    def check(self, home: Home, workers: int | None) -> None:
        if self._given is not None:
            check_address(self._given)

    def survey(self, machine: Machine, workers: int | None) -> Site:
        self._machine, self._workers = machine, workers
        if self._address is None:
            here = own_node(machine)
            self._resources = self._wanted.on([here])
            return Site(hosts=frozenset({here.host}), agents=workers or self._resources.fit(here))
        self._address = connect(self._address)
        found = nodes()
        self._resources = self._wanted.on(found)
        return Site(hosts=frozenset(node.host for node in found), agents=workers or self._room())

    def check_home(self, home: Home) -> None:
        elsewhere = [node for node in nodes() if not is_here(node.host)] if self._address else []
        if elsewhere:
            from qsweep.orchestrator.backends.ray_nodes import check_nodes

            check_nodes(elsewhere, home)

    def adopt(self, fleet: Fleet) -> None:
        self._fleet = fleet
        if self._address is None:
            for start in reversed(recorded(fleet.home, self._sweep)):
                if start.backend == self.name and "address" not in start.options and reachable(start.reference):
                    with contextlib.suppress(InputError):  # somebody else's Ray stands there by now
                        connect(start.reference, own=True)
                        self._address, self._own = start.reference, True
                        return

    def start(self, count: int) -> None:
        from qsweep.orchestrator.backends.ray_agent import RayAgent

        assert self._fleet is not None
        if self._address is None:
            self._address = self._start_keeper(self._fleet)
            self._own = True
            connect(self._address, own=True)
        make = self._ray.remote(RayAgent)
        for _ in range(count):
            name = f"{self._prefix(self._fleet.scope.selection)}{uuid.uuid4().hex[:8]}"
            handle = make.options(
                name=name, namespace=NAMESPACE, lifetime="detached", max_restarts=-1, max_concurrency=4,
                scheduling_strategy="SPREAD", **self._resources.options(),
            ).remote(self._fleet)  # fmt: skip
            self._take(name, handle)
        if count:
            wished = self._workers or 0  # 0: as many as there is room for, on `resume` too
            options = self._wanted.given() | ({} if self._own else {"address": self._given})
            start = Start(
                backend=self.name, sweep=self._sweep, reference=self._address, agents=wished,
                selection=self._fleet.scope.selection, options=options,
            )  # fmt: skip
            record(self._fleet.home, start)

    def size(self, fleet: Fleet) -> int:
        fixed = self._workers or self._own or self._address is None
        return fleet.workers if fixed else max(fleet.workers, self._room())

    def alive(self) -> int:
        return len(self._actors())

    def remarks(self) -> list[str]:
        now = time.monotonic()
        waiting = [name for name, (_, since) in self._still_pending().items() if now - since > WAITING]
        return ["some agents wait for room on the Ray cluster"] if waiting else []

    def stop(self, *, by_user: bool = False) -> None:
        pending = self._still_pending()
        for name, handle in self._actors().items():
            if name in pending:
                self._quietly(self._ray.kill, handle)
            else:
                self._quietly(handle.stop.remote, by_user)

    def kill(self) -> None:
        for handle in self._actors().values():
            self._quietly(self._ray.kill, handle)

    @classmethod
    def describe(cls, home: Home, starts: Sequence[Start]) -> list[str]:
        ended = [start.reference for start in starts[-1:] if not reachable(start.reference)]
        return [f"the Ray at {reference} where its agents were started does not answer" for reference in ended]

    @property
    def _sweep(self) -> int:
        assert self._fleet is not None
        assert self._fleet.scope.sweep is not None
        return self._fleet.scope.sweep

    def _prefix(self, selection: int | None) -> str:
        """How the names of actors begin that work for this selection of the sweep; None is all of it."""
        assert self._fleet is not None
        registry = hashlib.sha256(self._fleet.home.registry.encode()).hexdigest()[:8]
        return f"{registry}-{self._sweep}-{'all' if selection is None else selection}-"

    def _room(self) -> int:
        return sum(self._resources.fit(node) for node in nodes())

    def _actors(self) -> dict[str, Any]:
        """This fleet's actors, those of an earlier launch of the same jobs, or of the whole sweep, among them, by
        name."""
        assert self._fleet is not None
        if self._address is None:
            return {}
        if not reachable(self._address):
            return self._give_up()
        prefixes = (self._prefix(None), self._prefix(self._fleet.scope.selection))
        names = [name for name in our_actors() if name.startswith(prefixes)]
        for name in set(names) - self._handles.keys():
            with contextlib.suppress(ValueError):  # it has ended since
                self._take(name, self._ray.get_actor(name, NAMESPACE))
        self._handles = {name: handle for name, handle in self._handles.items() if name in names}
        return self._handles

    def _give_up(self) -> dict[str, Any]:
        """Ray is gone. If it was our own, the next start brings up another one."""
        assert self._fleet is not None
        if not self._own:
            raise QsweepError(
                f"the Ray cluster at {self._address} does not answer any more; when it is back, go on with: "
                f"qsweep resume {self._fleet.title}"
            )
        self._address = None
        self._handles, self._pending = {}, {}
        self._ray.shutdown()
        return {}

    def _take(self, name: str, handle: Any) -> None:
        self._handles[name] = handle
        self._pending[name] = (handle.started.remote(), time.monotonic())

    def _still_pending(self) -> dict[str, tuple[Any, float]]:
        """The actors that wait for room, with the time since when."""
        known = {name: one for name, one in self._pending.items() if name in self._handles}
        references = [reference for reference, _ in known.values()]
        _, waiting = self._ray.wait(references, num_returns=len(references), timeout=0) if references else ([], [])
        self._pending = {name: one for name, one in known.items() if one[0] in waiting}
        return self._pending

    def _start_keeper(self, fleet: Fleet) -> str:
        assert self._machine is not None
        log = fleet.home.logs / "ray.log"
        command = [*processes.PYTHON, "qsweep.orchestrator.backends.ray_keeper"]
        command += ["--cores", str(self._machine.cores), "--gpus", str(self._machine.gpus)]
        command += ["--workers", str(fleet.workers), "--cpus-per-worker", str(self._resources.cpus)]
        with log.open("ab") as errors:
            keeper = processes.start(
                command,
                env=worker_environment(fleet.home, threads=1),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert keeper.stdout is not None
        address: str = keeper.stdout.readline().strip()
        if not address:
            raise QsweepError(f"no Ray could be started on this machine; see {log}")
        return address

    def _quietly(self, act: Any, *given: Any) -> None:
        """Do something to an actor that may just have ended."""
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            act(*given)
