"""A registry knows its results: another home beside it is refused before anything is written, read or deleted."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import qsweep as api
from qsweep.db.belonging import check_belonging, settle_belonging
from qsweep.db.compaction import compact
from qsweep.db.garbage import GRACE, collect_garbage
from qsweep.db.home import STORE, Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.db.conftest import administrator
from tests.reports.made import Made, finished, home_at, work


def settled(home: Home) -> str:
    """The home launches; the identity of its results."""
    home.results.mkdir(parents=True, exist_ok=True)
    with Registry.open(home.registry) as registry:
        settle_belonging(home, registry)
        row = registry.catalogue.store()
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
        assert registry.catalogue.store() is None  # looking changes nothing
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
        job = registry.catalogue.jobs(registry.catalogue.sweeps()[0].id)[0].identity
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


def copy_of(registry: str, folder: Path) -> str:
    """A copy of a registry: of the file, or of the database on its server."""
    folder.mkdir(parents=True)
    if "://" in registry and not registry.startswith("sqlite"):
        name = sa.make_url(registry).database
        with administrator(sa.make_url(registry).set(database="postgres")) as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}{folder.name} TEMPLATE {name}"))
        return sa.make_url(registry).set(database=f"{name}{folder.name}").render_as_string(hide_password=False)
    path = folder / "registry.db"
    shutil.copy(registry.removeprefix("sqlite:///"), path)
    return f"sqlite:///{path}"


def lose(registry: str) -> None:
    """The registry is not to be seen from here any more."""
    if registry.startswith("sqlite"):
        path = Path(registry.removeprefix("sqlite:///"))
        path.rename(path.with_name("elsewhere.db"))
        return
    with administrator(sa.make_url(registry).set(database="postgres")) as connection:
        connection.execute(sa.text(f"DROP DATABASE {sa.make_url(registry).database} WITH (FORCE)"))


def sharing(folder: Path, registry: str, url: str) -> Home:
    home = home_at(folder, registry)
    home.root.mkdir(parents=True, exist_ok=True)
    (home.root / STORE).write_text(f"{url}\n")
    return home


@pytest.fixture
def shared(tmp_path: Path, address: str) -> Made:
    """A home with results at a URL."""
    made = finished(home_at(tmp_path / "one", address))
    bucket = tmp_path / "bucket"
    shutil.move(made.home.results, bucket)
    home = sharing(tmp_path / "one", address, f"file://{bucket}")
    settled(home)
    return replace(made, home=home)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}


def test_a_copy_beside_the_one_that_it_was_copied_from_is_refused_and_deletes_nothing(
    tmp_path: Path, shared: Made
) -> None:
    url = str(shared.home.store)
    copy = sharing(tmp_path / "two", copy_of(shared.home.registry, tmp_path / "there"), url)
    with Registry.open(copy.registry) as registry:
        check_belonging(copy, registry)  # answers are the same
        with pytest.raises(InputError, match=r"moved or copied since its last launch, which was at .*launch or resume"):
            check_belonging(copy, registry, writing=True)
        with pytest.raises(InputError, match=rf"is a copy of .*, and both have their results in {url}.*--results"):
            settle_belonging(copy, registry)
        check_belonging(copy, registry)
        fresh = f"file://{tmp_path}/other"
        settle_belonging(copy, registry, results=fresh)
    copy = sharing(tmp_path / "two", copy.registry, fresh)
    with Registry.open(copy.registry) as registry:
        check_belonging(copy, registry, writing=True)
    with Registry.open(shared.home.registry) as registry:
        check_belonging(shared.home, registry, writing=True)
    assert settled(shared.home) == settled(copy)


def test_a_copy_elsewhere_takes_the_results_over_and_neither_deletes_what_the_other_counts(
    tmp_path: Path, shared: Made
) -> None:
    url, bucket = str(shared.home.store), tmp_path / "bucket"
    copy = sharing(tmp_path / "two", copy_of(shared.home.registry, tmp_path / "there"), url)
    with Registry.open(shared.home.registry) as registry:  # the first one goes on after it was copied
        before = registry.catalogue.store()
        registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(shared.sweep.id)][:4], "an example")
    work(shared, seed=5)
    counted = names(bucket)
    lose(shared.home.registry)
    identity = settled(copy)
    with Registry.open(copy.registry) as registry:
        now = registry.catalogue.store()
        assert before is not None
        assert now is not None
        assert (now.identity, now.lineage[1:]) == (before.identity, before.lineage)
        assert check_belonging(copy, registry, writing=True) == now.incarnation
        assert collect_garbage(copy, registry, now=time.time() + 2 * GRACE) == []
        assert names(bucket) == counted
        merged = compact(copy, registry, [shared.sweep.id])
        assert merged[0].moved == 24
        collect_garbage(copy, registry, now=time.time() + 2 * GRACE)
        assert counted < names(bucket)  # what both counted once is still there for the first one
        (publication,) = registry.catalogue.publications()
        registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(shared.sweep.id)], "an example")
        gone = {one.name for one in collect_garbage(copy, registry, now=time.time() + 2 * GRACE)}
        assert gone == {f"{kind}/{publication}.parquet" for kind in ("runs", "epochs", "layers")}
        assert names(bucket) == counted
        assert collect_garbage(copy, registry, now=time.time() + 2 * GRACE, earlier=True)
    assert settled(copy) == identity


def test_the_one_whose_results_were_taken_over_is_refused_with_one_message(tmp_path: Path, shared: Made) -> None:
    url = str(shared.home.store)
    copy = sharing(tmp_path / "two", copy_of(shared.home.registry, tmp_path / "there"), url)
    with Registry.open(copy.registry) as registry:  # as if on another machine, from which the first can't be seen
        known = registry.catalogue.store()
        assert known is not None
        seat = json.dumps(["far " + json.loads(known.seat)[0], 1, "far away", ""])
        registry._database.write(lambda t: t.run(sa.text("UPDATE store SET seat = :seat"), {"seat": seat}))
        settle_belonging(copy, registry)
    shown = copy.registry.removeprefix("sqlite:///").partition("?")[0].rpartition("/")[2]
    refused(shared.home, rf"its results in {url} have been taken over by a copy of it, .*{shown}.*--results THERE")
    again = sharing(tmp_path / "three", copy_of(shared.home.registry, tmp_path / "backup"), url)
    refused(again, "taken over by a copy of it")
    settled(copy)


def test_a_registry_by_another_path_is_the_same(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/registry.db"
    Registry.open(address, create=True).close()
    home = sharing(tmp_path / "one", address, f"file://{tmp_path}/bucket")
    settled(home)
    (tmp_path / "link").symlink_to(tmp_path)
    linked = sharing(tmp_path / "one", f"sqlite:///{tmp_path}/link/registry.db", f"file://{tmp_path}/bucket")
    with Registry.open(linked.registry) as registry:
        before = check_belonging(linked, registry, writing=True)
        settle_belonging(linked, registry)
        assert check_belonging(linked, registry, writing=True) == before
    settled(home)


def test_a_home_with_its_own_registry_and_results_may_be_copied_and_moved(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path / "one"))
    settled(made.home)
    shutil.copytree(made.home.root, tmp_path / "two" / "home")
    copy = home_at(tmp_path / "two")
    with Registry.open(copy.registry) as registry:
        incarnation = check_belonging(copy, registry, writing=True)
    for home in (made.home, copy):
        settled(home)
        with Registry.open(home.registry) as registry:
            assert check_belonging(home, registry, writing=True) == incarnation
    stray = replace(copy, registry=f"sqlite:///{tmp_path}/stray.db")
    shutil.copy(copy.registry, tmp_path / "stray.db")
    with Registry.open(stray.registry) as registry, pytest.raises(InputError, match="is a copy of"):
        settle_belonging(stray, registry)


def test_a_launch_that_was_killed_between_registry_and_results_goes_on(tmp_path: Path, address: str) -> None:
    home = sharing(tmp_path / "one", address, f"file://{tmp_path}/bucket")
    settled(home)
    with Registry.open(address) as registry:
        known = registry.catalogue.store()
        assert known is not None
        registry.results.reincarnate(known, ("new", *known.lineage), known.seat)
        check_belonging(home, registry)
        settle_belonging(home, registry)
        mark = ResultStore(home.store).mark()
        assert mark is not None
        assert mark.incarnation == "new"


def test_containers_on_one_machine_have_one_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{tmp_path}/registry.db"
    Registry.open(address, create=True).close()
    home = sharing(tmp_path / "one", address, f"file://{tmp_path}/bucket")
    settled(home)
    with Registry.open(address) as registry:
        before = check_belonging(home, registry, writing=True)
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        assert check_belonging(home, registry, writing=True) == before
        settle_belonging(home, registry)
        assert check_belonging(home, registry, writing=True) == before
