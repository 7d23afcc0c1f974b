"""What is garbage: what nobody points to and nobody writes, wherever it lies. Nothing else is ever deleted."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qsweep.db import garbage
from qsweep.db.belonging import settle_belonging
from qsweep.db.garbage import GRACE, collect_garbage, find_garbage, measure_usage
from qsweep.db.home import STORE
from qsweep.db.looking import BUNDLE
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import Finished
from tests.conftest import Qsweep
from tests.db.conftest import agent_info, claim
from tests.reports.made import Made, home_at, launch, work


@pytest.fixture
def made(tmp_path: Path, url: str) -> Made:
    return launch(home_at(tmp_path, url if "://" in url else f"sqlite:///{url}"))


def collected(made: Made, *, later: float = 0.0) -> set[str]:
    with Registry.open(made.home.registry) as registry:
        return {one.path for one in collect_garbage(made.home, registry, now=time.time() + later)}


def at_a_url(made: Made, folder: Path) -> ResultStore:
    """The home has its results in that folder, named by URL."""
    url = f"file://{folder}"
    (made.home.root / STORE).write_text(f"{url}\n")
    return ResultStore(url)


def write(store: ResultStore, publication: str, job: str) -> None:
    for kind in ("runs", "epochs", "layers"):
        store.write(kind, publication, [{"job": job, "attempt": 1}])


def test_what_an_agent_writes_is_its_own_for_as_long_as_it_lives(made: Made) -> None:
    store = ResultStore(made.home.store)
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info())
        (first, *_) = claim(registry, agent)
        publication = f"{agent:06d}-abcdef012345"
        write(store, publication, first.job.identity)
        for path in made.home.results.rglob("*"):
            os.utime(path, (1e9, 1e9))
        assert not collected(made, later=1e6)
        finished = Finished(job_id=first.job_id, attempt=first.attempt, publication=publication)
        assert registry.queue.finish(agent, [finished]).jobs
        registry.agents.retire(agent)
        assert not collected(made, later=1e6)
        registry.sweeps.invalidate([first.job_id], "an example")
        assert not collected(made)
        assert len(collected(made, later=GRACE + 60)) == 3


def test_what_a_dead_agent_wrote_goes_once_its_lease_is_over(made: Made, execute: Callable[[str], list[Any]]) -> None:
    store = ResultStore(made.home.store)
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info())
        (first, *_) = claim(registry, agent)
        write(store, f"{agent:06d}-abcdef012345", first.job.identity)
        torn = made.home.results / "runs" / f".{agent:06d}-abcdef012345.parquet.{uuid.uuid4().hex}.tmp"
        torn.write_bytes(b"half")
    assert not collected(made)
    execute("UPDATE agents SET expires = 0")
    assert len(collected(made)) == 4  # nobody had to claim anything: collecting takes the lease back


def test_what_an_import_writes_is_the_bundles_for_as_long_as_it_is_away(made: Made) -> None:
    store = ResultStore(made.home.store)
    with Registry.open(made.home.registry) as registry:
        rows = registry.catalogue.jobs(made.sweep.id)
        holder = registry.agents.enlist(agent_info(backend=BUNDLE))
        claims = registry.bundles.pack(holder, "far", [row.id for row in rows[:2]])
        registry.bundles.send_away(holder, "far", "token")
        publication = f"{holder:06d}-abcdef012345"
        write(store, publication, claims[0].job.identity)
        job = claims[0].job.identity
        model = made.home.models / job[:2] / f"{job}-{claims[0].attempt}.pt"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"x")
        torn = model.with_name(f".{model.name}.{uuid.uuid4().hex}.tmp")
        torn.write_bytes(b"half")
        assert not collected(made, later=1e6)
        registry.bundles.recall(holder)
        assert len(collected(made)) == 5


def test_results_at_a_url_are_looked_after_like_those_at_home(made: Made, tmp_path: Path) -> None:
    store = at_a_url(made, tmp_path / "bucket")
    with Registry.open(made.home.registry) as registry:
        settle_belonging(made.home, registry)
        write(store, "000099-abcdef012345", "0" * 32)
        found = find_garbage(made.home, registry, now=time.time())
        usage = {one.name: one for one in measure_usage(made.home, found)}
    assert {one.path for one in found} == {
        f"results/{kind}/000099-abcdef012345.parquet" for kind in ("runs", "epochs", "layers")
    }
    assert usage["results"].files == 4
    assert usage["results"].garbage == sum(one.size for one in found) > 0
    assert collected(made) == {one.path for one in found}
    assert [path.name for path in (tmp_path / "bucket").rglob("*") if path.is_file()] == ["STORE"]


def test_what_somebody_began_to_write_goes_an_hour_later(made: Made) -> None:
    home = made.home
    torn = f"{uuid.uuid4().hex}.tmp"
    files = [home.root / f".VERSION.{torn}", home.root / "weights" / f".imagenet.pt.{torn}",
             home.root / "corruptions" / "digits" / f".fog.npy.{torn}", home.root / "starts" / f".1-2.json.{torn}",
             home.root / "probes" / f".0123.json.{torn}", home.root / ".RESULTS.123.tmp"]  # fmt: skip
    folder = home.root / "code" / f".1.0+abc.{torn}"
    for path in [*files, folder / "qsweep" / "sweeps" / "job.py"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    kept = home.root / "weights" / "imagenet.pt"
    kept.write_bytes(b"whole")
    assert not collected(made)
    expected = {path.relative_to(home.root).as_posix() for path in [*files, folder]}
    with Registry.open(home.registry) as registry:
        found = find_garbage(home, registry, now=time.time() + GRACE + 60)
    assert {one.path for one in found} == expected
    assert sum(one.size for one in found) == 28
    assert collected(made, later=GRACE + 60) == expected
    assert kept.is_file()


def test_files_that_go_away_meanwhile_are_no_error(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work(made)
    checkpoint = made.home.checkpoints / "ab" / "1-20.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x")

    def walk_beside_an_agent(folder: Path) -> Any:
        for found in os.walk(folder):
            checkpoint.unlink(missing_ok=True)
            for path in (made.home.results / "layers").glob("*-f*.parquet"):
                path.unlink(missing_ok=True)
            yield found

    class Walker:
        walk = staticmethod(walk_beside_an_agent)
        stat = staticmethod(os.stat)

    monkeypatch.setattr("qsweep.db.results.os", Walker)
    with Registry.open(made.home.registry) as registry:
        found = find_garbage(made.home, registry, now=time.time())
        measure_usage(made.home, found)
        for one in found:  # another collector was faster
            ResultStore(made.home.store).delete(one.name)
        listed = garbage._Files.of
        monkeypatch.setattr(garbage._Files, "of", lambda home: _stale(listed(home), found))
        assert collect_garbage(made.home, registry, now=time.time()) == []


def _stale(files: Any, found: list[garbage.Garbage]) -> Any:
    gone = [garbage.StoredFile(name=one.name, size=one.size, modified=0.0) for one in found]
    files.results.extend(gone)
    return files


@contextmanager
def undeletable(path: Path) -> Iterator[None]:
    """Nobody can delete this file: its folder can't be written, or for root the file is immutable."""
    if os.geteuid():
        path.parent.chmod(0o500)
    elif subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        pytest.skip("root can delete everything here")
    try:
        yield
    finally:
        if os.geteuid():
            path.parent.chmod(0o700)
        else:
            subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize("place", ["checkpoints/ab/1-20.pt", "results/runs/000099-abcdef012345.parquet"])
def test_a_file_that_can_not_be_deleted_is_named_in_one_line_and_the_others_go(
    here: Qsweep, tmp_path: Path, place: str
) -> None:
    made = launch(home_at(tmp_path))
    files = [made.home.root / place, made.home.checkpoints / "cd" / "1-20.pt"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with undeletable(files[0]):
        said = here("gc")
        assert (said.returncode, said.stdout) == (1, "")
        assert said.stderr.startswith(f"qsweep: {files[0]}: can't be deleted: ")
        assert said.stderr.endswith("; files that were deleted: 1\n")
    assert [path.exists() for path in files] == [True, False]
    assert here("gc").stdout.startswith("1 file, ")


def finish_one(made: Made, store: ResultStore) -> Path:
    """One training is done, and the others are given up; its model."""
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info())
        (one, *others) = claim(registry, agent)
        model = made.home.models / "ab" / f"{one.job.identity}-1.pt"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"model")
        publication = f"{agent:06d}-abcdef012345"
        write(store, publication, one.job.identity)
        name = f"ab/{model.name}"
        done = Finished(job_id=one.job_id, attempt=1, publication=publication, model_file=name, model_hash="h")
        registry.queue.finish(agent, [done])
        registry.sweeps.cancel(made.sweep.id)
        registry.queue.release(agent, others)
        registry.agents.retire(agent)
    return model


def test_a_sweep_is_deleted_even_if_a_model_of_its_can_not_be(here: Qsweep, tmp_path: Path) -> None:
    made = launch(home_at(tmp_path))
    model = finish_one(made, ResultStore(made.home.store))
    with undeletable(model):
        said = here("delete", made.sweep.title, "--yes")
    assert said.returncode == 1
    assert f"{model}: can't be deleted" in said.stderr
    assert f"{made.sweep.title} is deleted, and qsweep gc" in said.stderr
    assert here("status").stdout.startswith("no sweep")
    assert here("gc").returncode == 0
    assert not model.exists()


def test_a_deletion_shows_the_size_of_results_at_a_url(here: Qsweep, tmp_path: Path) -> None:
    made = launch(home_at(tmp_path))
    finish_one(made, at_a_url(made, tmp_path / "bucket"))
    shown = json.loads(here("delete", made.sweep.title, "--dry-run", "--json").stdout)
    sizes = [path.stat().st_size for path in (tmp_path / "bucket").rglob("*.parquet")]
    assert shown["bytes"] == len(b"model") + sum(sizes)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_identity_that_is_no_plain_file_is_refused_and_not_waited_for(
    here: Qsweep, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    made = launch(home_at(tmp_path))
    identity = made.home.results / "STORE"
    identity.unlink(missing_ok=True)
    make(identity)
    for command in ("gc", "du", "db check"):
        said = here(*command.split())
        assert (said.returncode, said.stderr) == (2, f"qsweep: {identity}: this is no plain file; move it away\n")


def test_the_commands_say_what_goes(here: Qsweep, home: Path, tmp_path: Path) -> None:
    made = launch(home_at(tmp_path))
    store = at_a_url(made, tmp_path / "bucket")
    write(store, "000099-abcdef012345", "0" * 32)
    listed = here("gc", "--dry-run")
    assert "results/runs/000099-abcdef012345.parquet" in listed.stdout
    assert "3 files, " in listed.stdout
    assert "would be deleted" in listed.stdout
    told = here("du")
    assert f"results lie in file://{tmp_path}/bucket" in told.stderr
    assert " deleted" in here("gc").stdout
    assert not list((tmp_path / "bucket").rglob("*.parquet"))
