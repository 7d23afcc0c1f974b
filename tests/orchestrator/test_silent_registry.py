"""A Postgres that is stopped, or refuses to write, under the commands: patience, then one line, never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from qsweep.db import connection
from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.orchestrator import serving
from tests.conftest import Qsweep, environment
from tests.postgres import missing_postgres, running_server

LAUNCH = ("launch", "digits-grid", "--set", "epochs=2000", "--limit", "2", "--workers", "1")
PATIENCE = 0.5
IMPATIENT = f"""
from qsweep.db import connection
from qsweep.orchestrator.cli import main
connection.PATIENCE = connection.SILENCE = {PATIENCE}
main()
"""
Fault = Callable[[serving.Server, str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[serving.Server]:
    missing_postgres()
    with running_server() as found:
        yield found


@pytest.fixture
def url(server: serving.Server) -> str:
    """A registry of its own; what accepts no connection for two seconds counts as silent."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with serving.superuser(server) as connected:
        connected.execute(f"CREATE DATABASE {name} OWNER {serving.USER}")
    return server.url.replace(f"/{serving.USER}?", f"/{name}?") + "&connect_timeout=2"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process everything ends after the same steps, sooner."""
    monkeypatch.setattr(connection, "PATIENCE", PATIENCE)
    monkeypatch.setattr(connection, "SILENCE", PATIENCE)


@contextmanager
def stopped(server: serving.Server, url: str) -> Iterator[None]:
    """Every process of the server stands still: connections are neither answered nor closed."""
    main = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    processes = [main, *main.children(recursive=True)]
    try:
        for one in processes:
            one.send_signal(signal.SIGSTOP)
        yield
    finally:
        for one in processes:
            if one.is_running():
                one.send_signal(signal.SIGCONT)


@contextmanager
def read_only(server: serving.Server, url: str) -> Iterator[None]:
    """As behind a failover: everybody's connections are new, and can only read."""
    name = sa.make_url(url).database
    with serving.superuser(server) as connected:

        def change(setting: str) -> None:
            connected.execute(f"ALTER DATABASE {name} {setting}".encode())
            connected.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

        change("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            change("RESET ALL")


def wait_for_work(registry: Registry, launch: subprocess.Popen[str]) -> None:
    """Until some job runs and has a checkpoint."""
    while launch.poll() is None:
        rows = [
            row
            for sweep in registry.catalogue.sweeps()
            for row in registry.catalogue.jobs(sweep.id, state=State.RUNNING)
        ]
        if any(row.progress for row in rows):
            return
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_what_is_looked_up_in_a_registry_that_is_stopped_ends_in_one_line_and_in_one_that_only_reads_is_answered(
    here: Qsweep, server: serving.Server, url: str
) -> None:
    Registry.open(url, create=True).close()
    with stopped(server, url):
        for command in ("status", "jobs digits-grid", "status --watch", "worker", "db check", "launch digits-grid"):
            said = here(*command.split(), "--registry", url)
            assert said.returncode == 2, command
            assert "the registry did not answer for" in said.stderr, command
            assert len(said.stderr.splitlines()) == 1, said.stderr
    with read_only(server, url):
        for command in ("status", "db check"):
            assert here(*command.split(), "--registry", url).returncode == 0
        said = here("gc", "--registry", url)
        assert (said.returncode, len(said.stderr.splitlines())) == (1, 1)
        assert "the registry refused for" in said.stderr
        assert "read-only transaction" in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", [stopped, read_only])
def test_a_launch_whose_registry_stops_or_refuses_ends_in_one_line_and_can_be_resumed(
    home: Path, tmp_path: Path, server: serving.Server, url: str, fault: Fault
) -> None:
    name = fault.__name__
    launch = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *LAUNCH, "--name", name],
        env=environment(home, {"QSWEEP_REGISTRY": url}),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Registry.open(url, create=True) as registry:
        wait_for_work(registry, launch)
        (agent,) = registry.catalogue.agents()
        with fault(server, url):
            psutil.Process(agent.pid).kill()  # which the launcher has to write down
            _, said = launch.communicate(timeout=300)
        assert launch.returncode == 1, said
        assert "Traceback" not in said
        last = said.splitlines()[-1]
        assert "nothing is lost: start the same command again" in last
        assert ("did not answer" if fault is stopped else "refused") in last
        sweep = registry.catalogue.find_sweep(f"digits-grid@{name}")
        registry.sweeps.cancel(sweep.id)
        while agents := [one for one in registry.catalogue.agents() if psutil.pid_exists(one.pid)]:
            psutil.wait_procs([psutil.Process(one.pid) for one in agents], timeout=1)
        assert registry.catalogue.jobs(sweep.id, State.FAILED) == []
    assert "Traceback" not in (home / "logs" / "agents" / "supervisors.log").read_text()
