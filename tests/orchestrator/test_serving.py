"""`qsweep db serve` starts a real Postgres that a sweep can use, and its password stays in its file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.errors import InsufficientPrivilege

from qsweep.db.registry import Registry
from qsweep.orchestrator import roles, serving
from qsweep.orchestrator.serving import Server, password_file, start
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.job import Job, Training
from tests.conftest import Qsweep
from tests.postgres import missing_postgres, room_for_a_server, running_server

pytestmark = pytest.mark.slow


def password_of(home: Path) -> Path:
    (found,) = home.glob("postgres-*.pgpass")
    return found


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Its path is short: servers have sockets in their folders, and a socket's path has about 100 characters."""
    folder = Path(tempfile.mkdtemp(prefix="qs-"))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path: Path) -> None:
    missing_postgres()
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("all of it")
    before = folder.stat()
    passwords = password_file(tmp_path / "home", folder)
    with pytest.raises(InputError, match="not empty"):
        start(Server(folder=folder, passwords=passwords, host="127.0.0.1", port=free_port()))
    after = folder.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [one.name for one in folder.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "", "192.0.2.1"])
def test_a_wrong_host_is_one_clear_error(tmp_path: Path, host: str) -> None:
    missing_postgres()
    with pytest.raises(InputError, match=f"--host {host}: no server can listen there"):
        start(Server(folder=tmp_path / "pg", passwords=tmp_path / "p", host=host, port=free_port()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["long" * 30, "a,b", 'a"b'])
def test_a_folder_that_can_hold_no_socket_is_refused_untouched(tmp_path: Path, name: str) -> None:
    missing_postgres()
    with pytest.raises(InputError, match="socket"):
        start(Server(folder=tmp_path / name, passwords=tmp_path / "p", host="127.0.0.1", port=free_port()))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    missing_postgres()
    (tmp_path / "file").write_text("")
    passwords = tmp_path / "p"
    with pytest.raises(InputError, match="nothing can be written there"):
        start(Server(folder=tmp_path / "file" / "pg", passwords=passwords, host="127.0.0.1", port=free_port()))
    with pytest.raises(InputError, match="nothing can be written there"):
        start(Server(folder=Path("/proc/pg"), passwords=passwords, host="127.0.0.1", port=free_port()))
    assert not passwords.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres under another account")
def test_a_folder_closed_to_the_account_that_root_runs_it_under_is_refused_untouched(tmp_path: Path) -> None:
    missing_postgres()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(InputError, match="does not run as root"):
        start(Server(folder=closed / "pg", passwords=tmp_path / "p", host="127.0.0.1", port=free_port()))
    assert list(tmp_path.iterdir()) == [closed]
    assert list(closed.iterdir()) == []


def test_each_folder_has_a_password_file_of_its_own(tmp_path: Path) -> None:
    assert password_file(tmp_path, tmp_path / "a") != password_file(tmp_path, tmp_path / "b")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(qsweep: Qsweep, home: Path) -> Iterator[tuple[str, str]]:
    """A running server's URL, and its password."""
    missing_postgres()
    with room_for_a_server() as (folder, port):
        options = ("--dir", str(folder / "its pg in 'a space"), "--port", str(port))
        answer = qsweep("db", "serve", *options)
        assert answer.returncode == 0, answer.stderr
        yield answer.stdout.strip(), password_of(home).read_text().strip().rpartition(":")[2]
        answer = qsweep("db", "serve", *options, "--stop")
        assert (answer.stdout, answer.stderr) == ("stopped\n", "")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_sweep_runs_on_it_and_the_password_appears_nowhere(
    qsweep: Qsweep, home: Path, served: tuple[str, str]
) -> None:
    url, password = served
    assert len(password) > 20
    assert stat.S_IMODE(password_of(home).stat().st_mode) == 0o600
    texts = [url]
    for arguments in (
        ("launch", "digits-grid", "--set", "epochs=1", "--limit", "2", "--workers", "1"),
        ("status", "--json"),
        ("db", "check"),
        ("doctor",),
        ("tables", "digits-grid"),
    ):
        answer = qsweep(*arguments, environment={"QSWEEP_REGISTRY": url})
        assert answer.returncode == 0, answer.stderr
        texts += [answer.stdout, answer.stderr]
    assert json.loads(texts[3])["sweeps"][0]["done"] == 2
    assert not (home / "registry.db").exists()
    texts += [path.read_bytes().decode("latin-1") for path in (home / "logs").rglob("*") if path.is_file()]
    texts += [path.read_bytes().decode("latin-1") for path in (home / "results").rglob("*") if path.is_file()]
    assert not [text for text in texts if password in text]


def test_a_wrong_password_is_one_message_without_it(qsweep: Qsweep, served: tuple[str, str]) -> None:
    url, _ = served
    wrong = url.partition("?")[0].replace("qsweep@", "qsweep:not-the-password@")
    answer = qsweep("status", environment={"QSWEEP_REGISTRY": wrong})
    assert answer.returncode == 2
    assert "not-the-password" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "*"])
def test_a_port_that_is_taken_is_refused(qsweep: Qsweep, home: Path, tmp_path: Path, host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        answer = qsweep("db", "serve", "--dir", str(tmp_path / "pg"), "--host", host, "--port", port)
    assert answer.returncode == 2
    assert "is taken" in answer.stderr
    assert not home.exists()
    assert not (tmp_path / "pg").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that runs, and stays as it is."""
    missing_postgres()
    with running_server() as found:
        yield found


def role(server: Server, *, user: str = roles.USER, database: str = roles.USER) -> psycopg.Connection[tuple[object]]:
    """A connection with the password that every agent has."""
    return psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        user=user,
        dbname=database,
        password=server.passwords.read_text().strip().rpartition(":")[2],
        autocommit=True,
    )


@pytest.mark.parametrize(
    "attack",
    [
        "COPY (SELECT 1) TO PROGRAM 'touch {folder}/owned'",
        "COPY secrets FROM PROGRAM 'echo 1'",
        "COPY (SELECT 1) TO '{folder}/owned'",
        "COPY secrets FROM '/etc/passwd'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(lo_from_bytea(0, 'x'), '{folder}/owned')",
        "CREATE EXTENSION vector",
        "CREATE FUNCTION run(cstring) RETURNS int AS 'libc.so.6', 'system' LANGUAGE c",
        "ALTER SYSTEM SET archive_command = 'touch {folder}/owned'",
        "SET session_preload_libraries = '{folder}/owned.so'",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE qsweep SUPERUSER",
        "ALTER ROLE postgres PASSWORD 'x'",
        "CREATE ROLE other SUPERUSER",
        "GRANT pg_execute_server_program TO qsweep",
        "CREATE DATABASE other",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_who_has_the_password_runs_no_program_and_reads_no_file(server: Server, attack: str) -> None:
    with room_for_a_server() as (folder, _), role(server) as connection:
        folder.chmod(0o777)
        connection.execute("CREATE TABLE IF NOT EXISTS secrets (line text)")
        with pytest.raises(InsufficientPrivilege):
            connection.execute(attack.format(folder=folder).encode())
        assert list(folder.iterdir()) == []


def test_the_superuser_is_reached_over_the_socket_alone(server: Server) -> None:
    for user in ("postgres", "pgserver", "root"):
        with pytest.raises(psycopg.OperationalError):
            role(server, user=user, database="postgres")
    with serving.superuser(server) as connection:
        assert connection.execute("SELECT current_user, current_setting('is_superuser')").fetchone() == (
            "postgres",
            "on",
        )
        members = "SELECT count(*) FROM pg_auth_members WHERE member = 'qsweep'::regrole"
        assert connection.execute(members).fetchone() == (0,)


def test_nobody_else_reads_what_a_server_writes(server: Server) -> None:
    files = [server.folder, server.passwords, *server.folder.rglob("*")]
    assert len(files) > 100
    assert [one for one in files if stat.S_IMODE(one.lstat().st_mode) & 0o077 and not one.is_socket()] == []
    password = server.passwords.read_text().strip().rpartition(":")[2].encode()
    assert [one for one in server.folder.rglob("*") if one.is_file() and password in one.read_bytes()] == []


def test_a_server_that_runs_is_not_promised_elsewhere(server: Server) -> None:
    start(server)
    for other in (replace(server, port=free_port()), replace(server, host="0.0.0.0")):
        with pytest.raises(InputError, match=f"it runs already, with --host '127.0.0.1' --port {server.port}"):
            start(other)
    with pytest.raises(InputError, match="stop it first"):
        start(server, new_password=True)
    with pytest.raises(InputError, match="password file of this server is not there"):
        start(replace(server, passwords=server.passwords.with_name("elsewhere")))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_server_of_another_user_is_neither_started_nor_stopped() -> None:
    missing_postgres()
    with running_server() as server:
        serving.stop(server)
        owner = server.data.stat()
        os.chown(server.data, 65534, 65534)
        before = {one: one.stat().st_mtime_ns for one in server.folder.rglob("*")}
        for act in (start, serving.stop):
            with pytest.raises(InputError, match="belongs to the user"):
                act(server)
        assert {one: one.stat().st_mtime_ns for one in server.folder.rglob("*")} == before
        os.chown(server.data, owner.st_uid, owner.st_gid)
        start(server)


def test_without_its_password_file_a_server_is_not_started_but_gets_a_new_one() -> None:
    missing_postgres()
    with running_server() as server:
        old = server.passwords.read_text()
        serving.stop(server)
        server.passwords.unlink()
        with pytest.raises(InputError, match="--new-password"):
            start(server)
        assert not serving.is_running(server)
        assert not server.passwords.exists()
        start(server, new_password=True)
        role(server).close()
        assert server.passwords.read_text() != old
        server.passwords.write_text(old)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            role(server)


@contextmanager
def older_server() -> Iterator[Server]:
    """A server as older versions made it, stopped: agents are its superuser, and made all that is in it."""
    missing_postgres()
    with room_for_a_server() as (folder, port):
        server = Server(folder=folder / "pg", passwords=folder / "postgres.pgpass", host="127.0.0.1", port=port)
        account, programs = serving._account(), serving._programs()
        handed = folder / "password"
        serving._write_private(handed, "the-password-of-all\n", account)
        server.folder.mkdir(mode=0o700)
        if account is not None:
            os.chown(server.folder, handed.stat().st_uid, handed.stat().st_gid)
        arguments = ["-D", str(server.data), "-U", "qsweep", "--auth=scram-sha-256", f"--pwfile={handed}"]
        serving._run(programs / "initdb", arguments, account)
        (server.data / "pg_hba.conf").write_text("local all qsweep scram-sha-256\nhost all qsweep all scram-sha-256\n")
        serving._write_private(server.passwords, "*:*:*:qsweep:the-password-of-all\n")
        serving._launch(server, programs, account, "-c listen_addresses=127.0.0.1")
        with role(server, database="postgres") as connection:
            connection.execute("CREATE DATABASE qsweep")
            connection.execute("CREATE DATABASE another")
        with role(server, database="another") as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        yield server
        if serving.is_running(server):
            serving.stop(server)


MADE = """
    CREATE SCHEMA "an Odd one"; CREATE TABLE "an Odd one"."Table" (id serial, other int GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE parts (day int) PARTITION BY LIST (day); CREATE TABLE part PARTITION OF parts FOR VALUES IN (1);
    CREATE VIEW seen AS SELECT * FROM parts; CREATE MATERIALIZED VIEW taken AS SELECT * FROM parts;
    CREATE TYPE mood AS ENUM ('good'); CREATE TYPE pair AS (a int, b mood); CREATE DOMAIN small AS int;
    CREATE FUNCTION trap(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_read_file($1)';
    CREATE PROCEDURE nothing() LANGUAGE sql AS ''; CREATE SEQUENCE lone; CREATE EXTENSION vector
"""
LEFT = """
    SELECT relname::text FROM pg_class WHERE relowner = 10 AND oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace
    UNION ALL SELECT nspname FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384
    UNION ALL SELECT proname FROM pg_proc WHERE proowner = 10 AND oid >= 16384 AND proname IN ('trap', 'nothing')
    UNION ALL SELECT typname FROM pg_type WHERE typowner = 10 AND oid >= 16384 AND typname NOT LIKE '%vec%'
"""
"""What still belongs to the superuser."""
DIGITS = {
    "data": "digits", "model": "nin", "channels_per_width": 2, "width": 2, "depth": 2, "bits": 32, "optimizer": "sgd",
    "learning_rate": 0.02, "weight_decay": 0.0, "batch_size": 64, "epochs": 2, "seed": 0,
}  # fmt: skip


def test_an_older_server_is_handed_over_at_its_next_start_and_its_url_stays_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with older_server() as server:
        with Registry.open(server.url, create=True) as registry:
            sweep = registry.sweeps.add(name="one", label="a", spec="{}", size=1)
            registry.sweeps.register(sweep.id, [Job(training=Training.from_settings(DIGITS))])
        with role(server) as connection:
            connection.execute(MADE.encode())
        assert "earlier version" in serving.notes(server)[0]
        start(server)  # it runs: nothing changes
        serving.stop(server)
        before = server.passwords.read_text()

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(roles, "hand_over", interrupted)
            with pytest.raises(KeyboardInterrupt):
                start(server)
        assert not serving.is_running(server)
        start(server)

        assert server.passwords.read_text() == before
        assert serving.notes(server) == []
        with role(server) as connection:
            assert connection.execute("SHOW is_superuser").fetchone() == ("off",)
            assert connection.execute(LEFT).fetchall() == []
            with pytest.raises(InsufficientPrivilege):
                connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")
            with pytest.raises(InsufficientPrivilege):
                connection.execute("SELECT trap('/etc/passwd')")
            connection.execute("ALTER TABLE jobs ADD COLUMN later int; ALTER TYPE mood ADD VALUE 'better'")
            connection.execute("ALTER TABLE jobs DROP COLUMN later")
        with role(server, database="another") as connection:
            assert connection.execute("DELETE FROM kept RETURNING number").fetchall() == [(7,)]
        with pytest.raises(psycopg.OperationalError):
            role(server, user="postgres", database="postgres")
        with serving.superuser(server) as connection:
            passwords = "SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL OR rolsuper ORDER BY 1"
            assert connection.execute(passwords).fetchall() == [("postgres",), ("qsweep",)]
            withdrawn = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"
            assert connection.execute(withdrawn).fetchone() == (None,)
        with Registry.open(server.url) as registry:
            assert registry.catalogue.counts(sweep.id).queued == 1


def test_a_password_file_that_is_not_this_servers_is_named() -> None:
    with older_server() as server:
        serving.stop(server)
        serving._write_private(server.passwords, "*:*:*:qsweep:that-of-another-server\n")
        with pytest.raises(QsweepError, match="--new-password"):
            start(server)
        serving.stop(server)
        start(server, new_password=True)
        role(server).close()


def test_two_servers_of_one_home_work_at_once_each_with_its_own_password(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    missing_postgres()
    with room_for_a_server() as (first, one), room_for_a_server() as (second, other):
        places = [
            ("--dir", str(first / "pg"), "--port", str(one)),
            ("--dir", str(second / "pg"), "--port", str(other), "--host", "0.0.0.0"),
        ]
        answers = [qsweep("db", "serve", *place) for place in places]
        try:
            assert [answer.returncode for answer in answers] == [0, 0], answers
            assert answers[0].stderr == ""
            assert "not encrypted" in answers[1].stderr
            urls = [answer.stdout.strip() for answer in answers]
            files = [Path(sa.make_url(url).query["passfile"]) for url in urls]
            assert sorted(files) == sorted(home.glob("postgres-*.pgpass"))
            texts = [file.read_text() for file in files]
            assert texts[0] != texts[1]

            def launch(place: int) -> subprocess.CompletedProcess[str]:
                surroundings = {"QSWEEP_REGISTRY": urls[place], "QSWEEP_HOME": str(tmp_path / f"work{place}")}
                options = ("--set", "epochs=1", "--limit", str(place + 1), "--workers", "1")
                return qsweep("launch", "digits-grid", *options, environment=surroundings)

            with ThreadPoolExecutor() as pool:
                for answer in pool.map(launch, (0, 1)):
                    assert answer.returncode == 0, answer.stderr
            for place, url in enumerate(urls):
                with Registry.open(url) as registry:
                    (sweep,) = registry.catalogue.sweeps()
                    assert registry.catalogue.counts(sweep.id).done == place + 1
            with pytest.raises(InputError, match="password"):
                Registry.open(urls[0].replace(files[0].name, files[1].name))
            assert [file.read_text() for file in files] == texts
        finally:
            for place in places:
                assert qsweep("db", "serve", *place[:4], "--stop").stdout == "stopped\n"
