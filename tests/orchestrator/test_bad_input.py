"""Bad input ends with exit code 2 and one message, before anything is written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qsweep.db.migrations import VERSION_TABLE
from tests.conftest import Qsweep

CHEAP = ("launch", "digits-grid", "--set", "epochs=1", "--limit", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("launch", "digit-grid"), "did you mean 'digits-grid'"),
        (("launch", "nowhere.toml"), "nowhere.toml: there is no such sweep file"),
        (("plan", "digits-grid", "--where", "bitz == 2"), "did you mean 'bits'"),
        (("launch", "digits-grid", "--where", "bits = 2"), "this is not a condition"),
        (("launch", "digits-grid", "--where", "bits == 5"), "none of the 972 jobs matches"),
        (("launch", "digits-grid", "--set", "epochs"), "this is not key=value"),
        (("launch", "digits-grid", "--set", "bits=9"), "allowed: 2, 3, 4, 5, 6, 7, 8, 32"),
        (("launch", "digits-grid", "--name", "../up"), "can't name a variant"),
        (("launch", "digits-grid", "--limit", "0"), "greater than or equal to 1"),
        (("launch", "cifar10-grid", "--backend", "moon"), "moon"),
        (("status",), "registry"),
        (("tables", "digits-grid"), "registry"),
        (("resume", "digits-grid"), "registry"),
    ],
)
def test_a_wrong_command_writes_nothing(here: Qsweep, home: Path, arguments: tuple[str, ...], message: str) -> None:
    answer = here(*arguments)
    assert answer.returncode == 2, answer.stderr
    assert message in " ".join(answer.stderr.replace("│", "").split())
    assert "Traceback" not in answer.stderr
    assert not home.exists()


@pytest.mark.slow
def test_a_missing_data_set_is_one_message_with_what_to_do(qsweep: Qsweep, home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    (broken / "cifar-10-batches-py").mkdir(parents=True)
    (broken / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut off")
    answer = qsweep("launch", "cifar10-grid", "--limit", "1", "--data", str(broken))
    assert answer.returncode == 2, answer.stderr
    assert "CIFAR-10" in answer.stderr
    assert str(broken) in answer.stderr
    assert len(answer.stderr.strip().splitlines()) <= 3
    assert not home.exists()


def test_a_home_that_is_a_file_is_refused(qsweep: Qsweep, home: Path) -> None:
    home.write_text("not a folder")
    answer = qsweep(*CHEAP)
    assert answer.returncode == 2
    assert "not a folder that can be written" in answer.stderr
    assert home.read_text() == "not a folder"


def test_a_home_of_another_version_is_refused(here: Qsweep, home: Path) -> None:
    home.mkdir()
    (home / "VERSION").write_text("99\n")
    answer = here(*CHEAP)
    assert answer.returncode == 2
    assert "layout version '99'" in answer.stderr
    assert [entry.name for entry in home.iterdir()] == ["VERSION"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(here: Qsweep, home: Path) -> None:
    home.mkdir()
    (home / "registry.db").write_text("something else entirely, and long enough to look like a header")
    for command in (CHEAP, ("status",), ("tables", "digits-grid")):
        answer = here(*command)
        assert answer.returncode == 2, answer.stderr
        assert "registry.db" in answer.stderr
    assert "something else" in (home / "registry.db").read_text()


def test_a_registry_newer_than_the_program_is_refused(here: Qsweep, home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)")
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('9999')")
    connection.close()
    before = (home / "registry.db").read_bytes()
    for command in (CHEAP, ("status",), ("resume", "digits-grid"), ("tables", "digits-grid")):
        answer = here(*command)
        assert answer.returncode == 2, answer.stderr
        assert "newer" in answer.stderr
    assert (home / "registry.db").read_bytes() == before
