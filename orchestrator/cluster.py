"""A connection with Ray: to a running cluster, or to a local Ray instance on this machine.

Ray's own noise stays out of the terminal, its usage statistics and its dashboard are off, and no module of the
folder that `qsweep` was called from gets into its workers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from qsweep.orchestrator.machine import Machine
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.memory import parse_memory

NAMESPACE = "qsweep"
AUTO = "auto"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables with which Ray and Tune say and write nothing of their own, and wait for a slow machine."""
OBJECT_STORE = 128 * 2**20
"""Bytes of shared memory of a local Ray instance: only orders and reports go through it."""
PATIENCE = 5.0
"""Seconds that a head node has for taking a connection."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one agent takes of a node: cores, GPUs (a fraction shares one) and memory in bytes (0: uncounted)."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0

    def fit(self, node: Node) -> int:
        """How many of them a node has room for."""
        needs = ((self.cpus, node.cpus), (self.gpus, node.gpus), (self.memory, node.memory))
        return int(min((room / need + 1e-9 for need, room in needs if need > 0), default=0))

    def options(self) -> dict[str, float]:
        """As Ray names them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **({"memory": self.memory} if self.memory else {})}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asks for each agent; None is the default: one core, one GPU where there is any, any memory."""

    cpus: float | None = None
    gpus: float | None = None
    memory: str | None = None

    def given(self) -> dict[str, Any]:
        """What is not left to the default, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def on(self, found: Sequence[Node]) -> Resources:
        """What that means on these nodes. Raises InputError if none of them could ever hold one agent."""
        has_gpus = any(node.gpus for node in found)
        wanted = Resources(
            cpus=1.0 if self.cpus is None else self.cpus,
            gpus=float(has_gpus) if self.gpus is None else self.gpus,
            memory=parse_memory(self.memory, place="--memory-per-worker") if self.memory else 0.0,
        )
        check_resources(wanted, found)
        return wanted


@dataclass(frozen=True, kw_only=True)
class Node:
    """One living node of a Ray cluster, with what it has in all."""

    id: str
    host: str
    cpus: float
    gpus: float
    memory: float


def load_ray() -> Any:
    """The module `ray`, made quiet. Raises InputError if it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed here", allowed="install it with: pip install 'qsweep[ray]'") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def named_address(given: str | None) -> str | None:
    """The address of the cluster to use: the given one, else that of the environment; None is a local Ray instance.

    It may be AUTO, which `connect` understands as Ray does.
    """
    return given or os.environ.get("RAY_ADDRESS") or None


def connect(given: str, *, own: bool = False) -> str:
    """Connect this process with the Ray cluster at HOST:PORT, or AUTO; its HOST:PORT. Raises InputError if there is
    none.

    For an own one, started here by another process, it shows the token that only this user can read. Ray itself
    shows it to a cluster of this machine that it found by AUTO, and to others if RAY_AUTH_MODE says so.
    """
    ray = load_ray()
    address = check_address(given)
    if own:
        use_token()
    try:
        with _nowhere():
            ray.init(address=given, **_calm())
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"this is no Ray cluster that can be used from here: {reason}",
            place=f"--ray-address {address}",
            allowed="set RAY_AUTH_MODE=token if it asks for a token",
        ) from None
    return address


def check_address(given: str) -> str:
    """HOST:PORT of a given address. Raises InputError if it is none, or nothing answers there."""
    address = running_address() if given == AUTO else given
    check_form(address)
    if not reachable(address):
        raise InputError(
            "nothing answers there",
            place=f"--ray-address {address}",
            allowed="is Ray running, and its port open from here?",
        )
    return address


def running_address() -> str:
    """What Ray takes AUTO for: RAY_ADDRESS, else the cluster that runs on this machine. Raises InputError for none."""
    named = os.environ.get("RAY_ADDRESS")
    if named and named != AUTO:
        return named
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found: str | None = canonicalize_bootstrap_address(AUTO)
    except ConnectionError:
        found = None
    if found is None:
        raise InputError(
            "no Ray runs on this machine",
            place=f"--ray-address {AUTO}",
            allowed="HOST:PORT of a cluster elsewhere, or no --ray-address for a local Ray instance",
        )
    return found


def check_form(address: str) -> None:
    """Raises InputError if this is no HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        raise InputError(
            "this is no address of a Ray cluster",
            place=f"--ray-address {address}",
            allowed=f"allowed: HOST:PORT, which `ray start --head` prints, or {AUTO}",
        )


def use_token() -> None:
    """A local Ray takes orders only from who knows the token in the user's home (`~/.ray`)."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")  # Ray has read its environment already


def start_own(machine: Machine, wanted: Wanted, workers: int | None) -> str:
    """Start a Ray on this machine that ends with this process, with room for that many agents; its address.

    Raises InputError if one agent asks for more than the machine has.
    """
    ray = load_ray()
    use_token()
    cpus = max(machine.cores, math.ceil((workers or 0) * wanted.on([own_node(machine)]).cpus))
    with _nowhere():
        context = ray.init(
            address="local", num_cpus=cpus, num_gpus=machine.gpus, object_store_memory=OBJECT_STORE,
            include_dashboard=False, **_calm(),
        )  # fmt: skip
    return str(context.address_info["gcs_address"])


def nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    ray = load_ray()
    return [
        Node(
            id=one["NodeID"],
            host=one["NodeManagerHostname"],
            cpus=one["Resources"].get("CPU", 0.0),
            gpus=one["Resources"].get("GPU", 0.0),
            memory=one["Resources"].get("memory", 0.0),
        )
        for one in ray.nodes()
        if one["Alive"]
    ]


def own_node(machine: Machine) -> Node:
    """This machine, as the node of a local Ray instance."""
    memory = psutil.virtual_memory().total
    return Node(id="", host=socket.gethostname(), cpus=machine.cores, gpus=machine.gpus, memory=memory)


def our_actors() -> list[str]:
    """The names of qsweep's actors on the connected cluster that run, wait for room or are started again."""
    ray = load_ray()
    return [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]


def check_resources(wanted: Resources, found: Sequence[Node]) -> None:
    """Raises InputError if no node could ever hold one agent."""
    units = (("cpus", "CPUs", 1.0), ("gpus", "GPUs", 1.0), ("memory", "GB of memory", 1e9))
    for name, unit, scale in units:
        need, most = getattr(wanted, name), max((getattr(node, name) for node in found), default=0.0)
        if need > most:
            raise InputError(
                f"no node has {need / scale:g} {unit}",
                place=f"--{name}-per-worker",
                allowed=f"allowed: up to {most / scale:g}, which the largest node has",
            )
    if not any(wanted.fit(node) for node in found):
        raise InputError(
            "no single node has all that one agent asks for", place="--cpus-, --gpus-, --memory-per-worker"
        )


def reachable(address: str) -> bool:
    """Whether anybody takes connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            return True
    except OSError:
        return False


def _calm() -> dict[str, Any]:
    return {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "configure_logging": False,
        "ignore_reinit_error": True,
    }


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """In an empty folder, which Ray adds to the path of its workers; and SIGTERM stays ours."""
    answer = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir(_empty_folder()):
            yield
    finally:
        signal.signal(signal.SIGTERM, answer)


@functools.cache
def _empty_folder() -> str:
    """A folder that is there as long as this process: a local Ray instance starts its workers in it."""
    folder = tempfile.mkdtemp(prefix="qsweep-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
