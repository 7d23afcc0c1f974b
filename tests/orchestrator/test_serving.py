"""`qsweep db serve` starts a real Postgres that a sweep can use, and its password stays in its file."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.serving import Server, password_file, start
from sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.postgres import missing_postgres, room_for_a_server

pytestmark = pytest.mark.slow


def password_of(home: Path) -> Path:
    (found,) = home.glob("postgres-*.pgpass")
    return found


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


def test_a_wrong_host_is_one_clear_error(tmp_path: Path) -> None:
    missing_postgres()
    with pytest.raises(InputError, match=r"--host no\.such\.host\.invalid"):
        start(Server(folder=tmp_path / "pg", passwords=tmp_path / "p", host="no.such.host.invalid", port=free_port()))
    assert not (tmp_path / "pg").exists()


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
        options = ("--dir", str(folder / "pg with a space"), "--port", str(port))
        answer = qsweep("db", "serve", *options)
        assert answer.returncode == 0, answer.stderr
        yield answer.stdout.strip(), password_of(home).read_text().strip().rpartition(":")[2]
        answer = qsweep("db", "serve", *options, "--stop")
        assert answer.stdout == "stopped\n", answer.stderr
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


def test_a_port_that_is_taken_is_refused(qsweep: Qsweep, home: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        answer = qsweep("db", "serve", "--dir", str(tmp_path / "pg"), "--port", str(other.getsockname()[1]))
    assert answer.returncode == 2
    assert "is taken" in answer.stderr
    assert not home.exists()
