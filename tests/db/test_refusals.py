"""A registry that is there and refuses, or says nothing: patience, then one error of ours, and on it goes."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qsweep.db.connection import Database
from qsweep.db.errors import RegistryRefused, RegistryUnavailable
from qsweep.db.registry import Registry
from tests.db.conftest import administrator, agent_info

Execute = Callable[[str], list[Any]]


@pytest.fixture
def server(postgres: str, request: pytest.FixtureRequest) -> str:
    """The URL of a registry of its own on Postgres."""
    name = f"r{abs(hash(request.node.name)) % 10**12}"
    with administrator(sa.make_url(postgres.format("postgres"))) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE fresh"))
    return postgres.format(name)


@contextmanager
def setting(url: str, words: str) -> Iterator[None]:
    """A setting that every new connection to this database begins with, as behind a failover."""
    name = sa.make_url(url).database
    with administrator(sa.make_url(url).set(database="postgres")) as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET {words}"))
        yield
        connection.execute(sa.text(f"ALTER DATABASE {name} RESET ALL"))


@pytest.mark.parametrize(
    ("words", "lock"),
    [
        ("default_transaction_read_only = on", False),
        ("lock_timeout = '50ms'", True),
        ("statement_timeout = '50ms'", True),
    ],
)
def test_a_postgres_that_answers_but_refuses_is_out_of_reach_for_a_while(server: str, words: str, lock: bool) -> None:
    with Registry.open(server) as registry:
        agent = registry.enlist(agent_info())
    blocker = sa.create_engine(server, poolclass=sa.NullPool).connect()
    if lock:
        blocker.execute(sa.text("SELECT * FROM agents FOR UPDATE"))
    with Registry.open(server) as registry:
        registry.close()  # the next connection begins with the setting
        registry._database.patience = 0.2
        with setting(server, words):
            with pytest.raises(RegistryUnavailable) as caught:
                registry.beat(agent)
            assert not isinstance(caught.value, RegistryRefused)
            assert len(str(caught.value).splitlines()) == 1
        registry.close()
        blocker.close()
        assert registry.beat(agent) == frozenset()


def test_a_refusal_that_ends_in_time_is_not_noticed(server: str) -> None:
    with Registry.open(server) as registry:
        agent = registry.enlist(agent_info())
        registry.close()
        beats: list[object] = []
        thread = threading.Thread(target=lambda: beats.append(registry.beat(agent)))
        with setting(server, "default_transaction_read_only = on"):
            thread.start()
            time.sleep(0.3)
            assert beats == []
        with administrator(sa.make_url(server).set(database="postgres")) as connection:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": sa.make_url(server).database},
            )
        thread.join(300)
        assert beats == [frozenset()]


def test_what_waiting_does_not_mend_is_one_message_and_the_registry_is_out_of_reach(
    registry: Registry, execute: Execute
) -> None:
    agent = registry.enlist(agent_info())
    execute("ALTER TABLE agents RENAME TO lost")
    with pytest.raises(RegistryRefused) as caught:
        registry.beat(agent)
    assert isinstance(caught.value, RegistryUnavailable)
    assert len(str(caught.value).splitlines()) == 1
    execute("ALTER TABLE lost RENAME TO agents")
    assert registry.beat(agent) == frozenset()


def test_a_process_with_too_many_open_files_goes_on_when_it_has_room_again(empty_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(empty_sqlite.read_bytes())
    with Registry.open(path) as registry:
        agent = registry.enlist(agent_info())
        registry.close()
        registry._database.patience = 0.2
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            with pytest.raises(RegistryUnavailable):
                registry.beat(agent)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert registry.beat(agent) == frozenset()


def test_a_disk_that_takes_no_more_of_a_file_is_out_of_reach_for_a_while(empty_sqlite: Path, tmp_path: Path) -> None:
    """A real I/O error of SQLite, with room on the disk: the log may not grow any more."""
    path = tmp_path / "registry.db"
    path.write_bytes(empty_sqlite.read_bytes())
    with Registry.open(path) as registry:
        agent = registry.enlist(agent_info())
        registry._database.patience = 0.2
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(RegistryUnavailable, match="disk I/O error") as caught:
                registry.beat(agent)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not isinstance(caught.value, RegistryRefused)
        assert registry.beat(agent) == frozenset()


class Swallower:
    """Stands before a server's socket: passes everything on, or takes everything and passes on nothing."""

    def __init__(self, target: str, folder: Path) -> None:
        self.swallows = threading.Event()
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._serve, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(300)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with source:
            try:
                while data := source.recv(65536):
                    if not self.swallows.is_set():
                        target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                return


@pytest.fixture
def swallower(server: str) -> Iterator[tuple[Swallower, str]]:
    folder = Path(tempfile.mkdtemp(prefix="qs-"))  # short: the path of a socket has about 100 characters
    url = sa.make_url(server)
    made = Swallower(f"{url.query['host']}/.s.PGSQL.5432", folder)
    yield made, url.update_query_dict({"host": str(folder)}).render_as_string(hide_password=False)
    made.close()


def test_a_postgres_that_stalls_without_closing_is_not_waited_for_without_end(
    swallower: tuple[Swallower, str],
) -> None:
    proxy, url = swallower
    with Registry.open(url) as opened:
        agent = opened.enlist(agent_info())
    registry = Registry(Database(url, create=False, patience=1.0, silence=0.5))
    assert registry.beat(agent) == frozenset()
    proxy.swallows.set()
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        registry.beat(agent)
    assert time.monotonic() - began < 300
    proxy.swallows.clear()
    assert registry.beat(agent) == frozenset()
    registry.close()


def test_a_statement_that_takes_its_time_is_waited_for(server: str) -> None:
    database = Database(server, create=False, patience=1.0, silence=0.3)
    assert database.read(lambda t: t.run(sa.text("SELECT pg_sleep(1.2), 5")).one()[1]) == 5
    database.close()
