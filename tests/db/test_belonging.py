"""A registry knows its results: another home beside it is refused before anything is written, read or deleted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qsweep as api
from qsweep.db.belonging import check_belonging, settle_belonging
from qsweep.db.home import STORE, Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.reports.made import finished, home_at


def settled(home: Home) -> str:
    """The home launches; the identity of its results."""
    home.results.mkdir(parents=True, exist_ok=True)
    with Registry.open(home.registry) as registry:
        settle_belonging(home, registry)
        row = registry.store()
    assert row is not None
    assert ResultStore(home.store).identity() == row.identity
    return row.identity


def refused(home: Home, match: str) -> None:
    with Registry.open(home.registry) as registry:
        for look in (check_belonging, settle_belonging):
            with pytest.raises(InputError, match=match):
                look(home, registry)


@pytest.fixture
def address(url: str) -> str:
    return url if "://" in url else f"sqlite:///{url}"


def test_it_is_drawn_once_and_another_home_is_refused(tmp_path: Path, address: str) -> None:
    home = home_at(tmp_path / "one", address)
    identity = settled(home)
    assert settled(home) == identity
    other = home_at(tmp_path / "other", address)
    refused(other, rf"belongs to the results of {home.root} on .+, not to {other.results}.*--home")
    assert not other.root.exists()


def test_a_home_that_moved_is_the_same(tmp_path: Path, address: str) -> None:
    home = home_at(tmp_path / "one", address)
    identity = settled(home)
    moved = home_at(tmp_path / "moved", address)
    shutil.move(home.root, moved.root)
    assert settled(moved) == identity
    refused(home_at(tmp_path / "one", address), f"belongs to the results of {moved.root}")


def test_results_that_are_lost_are_still_those_of_the_home(tmp_path: Path, address: str) -> None:
    home = home_at(tmp_path, address)
    identity = settled(home)
    shutil.rmtree(home.results)
    with Registry.open(address) as registry:
        check_belonging(home, registry)
    assert settled(home) == identity


def test_homes_on_several_machines_share_one_store_at_a_url(tmp_path: Path, address: str) -> None:
    url = f"file://{tmp_path}/bucket"
    homes = [home_at(tmp_path / name, address) for name in ("one", "two")]
    for home in homes:
        home.root.mkdir(parents=True)
        (home.root / STORE).write_text(f"{url}\n")
    assert settled(homes[0]) == settled(homes[1])
    without = home_at(tmp_path / "three", address)
    refused(without, f"belongs to the results of {url}, .*launch with --results {url}")
    with Registry.open(address) as registry:
        check_belonging(without, registry, results=url)


def test_a_home_without_results_may_name_a_url_later(tmp_path: Path, address: str) -> None:
    home, url = home_at(tmp_path, address), f"file://{tmp_path}/bucket"
    identity = settled(home)
    with Registry.open(address) as registry:
        check_belonging(home, registry, results=url)
        settle_belonging(home, registry, results=url)
    (home.root / STORE).write_text(f"{url}\n")
    assert settled(home) == ResultStore(url).identity() == identity


def test_an_old_registry_takes_the_first_home_that_has_its_files(tmp_path: Path, address: str) -> None:
    made = finished(home_at(tmp_path / "one", address))
    other = home_at(tmp_path / "other", address)
    refused(other, "none of the results that this registry counts are in")
    with Registry.open(address) as registry:
        check_belonging(made.home, registry)
        assert registry.store() is None  # looking changes nothing
    settled(made.home)
    refused(other, f"belongs to the results of {made.home.root}")


def test_a_new_registry_takes_no_results_of_another(tmp_path: Path, address: str) -> None:
    made = finished(home_at(tmp_path / "one", address))
    settled(made.home)
    fresh = Home.at(made.home.root, registry=str(tmp_path / "fresh.db"))
    Registry.open(fresh.registry, create=True).close()
    refused(fresh, "belong to another registry")
    with Registry.open(fresh.registry) as registry, pytest.raises(InputError):
        check_belonging(fresh, registry)
    shutil.rmtree(made.home.results / "runs")
    for kind in ("epochs", "layers"):
        shutil.rmtree(made.home.results / kind)
    with Registry.open(fresh.registry) as registry:
        settle_belonging(fresh, registry)  # nothing of the other's is left


def test_of_two_homes_that_launch_at_once_one_is_refused(tmp_path: Path, address: str) -> None:
    homes = [home_at(tmp_path / str(number), address) for number in range(4)]
    said: list[str] = []
    gate = threading.Barrier(len(homes))

    def start(home: Home) -> None:
        home.results.mkdir(parents=True)
        with Registry.open(home.registry) as registry:
            gate.wait()
            try:
                settle_belonging(home, registry)
                said.append("settled")
            except InputError as error:
                said.append(str(error))

    threads = [threading.Thread(target=start, args=(home,)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("settled") == 1
    assert sum("belongs to the results of" in one for one in said) == 3


def test_starts_at_once_in_one_home_agree(tmp_path: Path, address: str) -> None:
    home = home_at(tmp_path, address)
    home.results.mkdir(parents=True)
    gate, failed = threading.Barrier(6), list[BaseException]()

    def start() -> None:
        with Registry.open(home.registry) as registry:
            gate.wait()
            try:
                settle_belonging(home, registry)
            except InputError as error:
                failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    settled(home)


def test_every_command_refuses_the_wrong_home(here: Qsweep, home: Path, tmp_path: Path, address: str) -> None:
    made = finished(home_at(tmp_path / "right", address))
    settled(made.home)
    files = sorted(made.home.root.rglob("*"))
    for command in (
        ("tables", "made"), ("query", "SELECT 1 FROM runs"), ("export", "made", "--out", "out"), ("analyze", "made"),
        ("gc",), ("du",), ("db", "check"), ("compact",), ("launch", str(tmp_path / "right" / "made.toml")),
        ("resume", "made"), ("pack", "digits-grid", "--out", "far.zip"), ("launch", "digits-grid"),
    ):  # fmt: skip
        answer = here("--registry", address, *command)
        assert answer.returncode == 2, (command, answer.stdout)
        assert f"belongs to the results of {made.home.root} on " in answer.stderr, (command, answer.stderr)
        assert len(answer.stderr.splitlines()) == 1
    with Registry.open(address) as registry:
        job = registry.jobs(registry.sweeps()[0].id)[0].identity
    with pytest.raises(InputError, match="belongs to the results of"):
        api.load_model(job, home=home, registry=address)
    assert not home.exists() or not any(path.is_file() for path in home.rglob("*"))
    assert sorted(made.home.root.rglob("*")) == files
    status = here("--registry", address, "status")
    assert status.returncode == 0
    assert "belongs to the results of" in status.stdout


def test_garbage_is_not_collected_in_a_home_of_another_registry(
    tmp_path: Path, address: str, execute: Callable[[str], list[Any]]
) -> None:
    made = finished(home_at(tmp_path, address))
    settled(made.home)
    execute("UPDATE store SET identity = 'another'")
    with Registry.open(address) as registry, pytest.raises(InputError):
        check_belonging(made.home, registry)
