"""A real Ray of several nodes (raylets) on this machine, for the tests: a process holds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from qsweep.sweeps.faults import LISTENER
from tests.gate import Gate

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120", "PYTHONSAFEPATH": "1"}


HOLD = """
import sys

from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
print("> " + cluster.address, flush=True)
for _ in sys.stdin:
    added = cluster.add_node(wait=True, **node)
    (raylet,) = (process.pid for name, process in added.live_processes() if name == "raylet")
    print(f"> {raylet}", flush=True)
cluster.shutdown()
"""
"""Holds a cluster until the input ends. Prints the head's address, then for each line of input the process number of
a new node's raylet."""


class RayCluster:
    """The holder of a cluster, seen from a test."""

    def __init__(self, folder: Path) -> None:
        self._errors = folder / "errors"
        self.gate = Gate(folder / "gate")
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", HOLD],
                env={**os.environ, **QUIET, "RAY_TMPDIR": str(folder), LISTENER: str(self.gate.socket)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address = self._answer()

    def add_node(self) -> psutil.Process:
        """One more node with one core; its raylet."""
        assert self._process.stdin is not None
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        return psutil.Process(int(self._answer()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=600)
        self._process.stdout.close()
        self.gate.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        self.close()
        raise RuntimeError(f"the cluster did not come up:\n{self._errors.read_text()[-2000:]}")


def missing_ray() -> None:
    """Skips visibly where Ray is not installed, unless this run has to cover it."""
    if find_spec("ray") is None:
        if "ray" in os.environ.get("QSWEEP_REQUIRE", ""):
            pytest.fail("QSWEEP_REQUIRE asks for Ray, and it is not installed")
        pytest.skip("Ray is not installed")


@contextmanager
def two_nodes() -> Iterator[RayCluster]:
    """A head with one core and another node with one."""
    missing_ray()
    folder = Path(tempfile.mkdtemp(prefix="qr-", dir="/tmp"))  # short: it holds sockets
    cluster = RayCluster(folder)
    try:
        cluster.add_node()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
