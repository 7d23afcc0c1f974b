"""The databases of the trials: a SQLite file of each home, or one real Postgres that can be restarted."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qsweep.orchestrator import serving
from tests.fault.trial import Database
from tests.postgres import running_server

MakeDatabase = Callable[[], Database]


@contextmanager
def databases(name: str) -> Iterator[MakeDatabase]:
    """Makes a fresh database for each trial; everything is gone at the end."""
    if name == "sqlite":
        yield lambda: Database(name="sqlite")
        return
    with running_server() as server:
        yield lambda: _fresh(server)


RESTARTING = threading.Lock()
"""Two restarts at once would fight over one server, and one that starts has no connections to cut."""


def _fresh(server: serving.Server) -> Database:
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    words = f"host={serving.LOCAL} port={server.port} user={serving.USER} passfile={server.passwords}"

    def drop() -> None:
        with RESTARTING, psycopg.connect(f"{words} dbname=postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    with serving.superuser(server) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {serving.USER}")
    url = server.url.replace(f"/{serving.USER}?", f"/{name}?").replace(socket.gethostname(), serving.LOCAL)
    return Database(
        name="postgres", url=url, conninfo=f"{words} dbname={name}", restart=lambda: _restart(server), drop=drop
    )


def _restart(server: serving.Server) -> None:
    """As after a crash: stopped at once, without a checkpoint of its own, and started again."""
    with RESTARTING:
        _stop_and_start(server)


def _stop_and_start(server: serving.Server) -> None:
    account: dict[str, Any] = serving._as(serving._account())
    stop = [str(serving._programs() / "pg_ctl"), "-w", "-m", "immediate", "-D", str(server.data), "stop"]
    subprocess.run(stop, **account, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    time.sleep(0.5)
    serving.start(server)
