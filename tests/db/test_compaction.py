"""Compaction makes few files of many and changes no answer, wherever it is killed and whatever happens beside it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qsweep.db import compaction
from qsweep.db.audit import audit
from qsweep.db.compaction import compact
from qsweep.db.custody import Overtaken
from qsweep.db.garbage import GRACE, collect_garbage, find_garbage
from qsweep.db.publications import FAN
from qsweep.db.registry import Registry
from qsweep.db.results import DamagedResults, ResultStore
from qsweep.db.schema import ROW_KINDS
from qsweep.sweeps import processes
from tests.conftest import QSWEEP, environment
from tests.fault.sabotage import Fault, Saboteur
from tests.reports.made import SWEEP, Made, finished, home_at, launch, work


@pytest.fixture
def made(tmp_path: Path, url: str) -> Made:
    """Six publications, each beside one that never counted."""
    return finished(home_at(tmp_path, url if "://" in url else f"sqlite:///{url}"))


def answers(made: Made) -> dict[str, pa.Table]:
    store = ResultStore(made.home.results)
    with Registry.open(made.home.registry) as registry:
        pointers = registry.catalogue.pointers(made.sweep.id)
    return {kind: store.read(kind, pointers) for kind in ROW_KINDS}


def counted_files(made: Made) -> set[str]:
    with Registry.open(made.home.registry) as registry:
        return registry.catalogue.publications()


def merge(made: Made) -> list[compaction.Compacted]:
    with Registry.open(made.home.registry) as registry:
        return compact(made.home, registry, [made.sweep.id])


def garbage(made: Made, *, later: float = 0.0) -> set[str]:
    with Registry.open(made.home.registry) as registry:
        return {Path(one.name).name for one in find_garbage(made.home, registry, now=time.time() + later)}


def test_many_publications_become_one_with_the_same_rows(made: Made) -> None:
    before = answers(made)
    assert len(counted_files(made)) == 6
    (merged,) = merge(made)
    assert (merged.jobs, merged.moved, merged.before, merged.after) == (24, 24, 6, 1)
    (publication,) = counted_files(made)
    assert answers(made) == before
    for kind in ("runs", "epochs", "layers"):
        path = ResultStore(made.home.results).path(kind, publication)
        assert pq.read_table(path).num_rows == before[kind].num_rows
    assert audit(made.home) == []


def test_a_second_compaction_has_nothing_to_do_and_a_later_one_takes_the_new_results(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), cohorts=3)
    assert merge(made)[0].after == 1
    assert merge(made)[0].after == 0
    work(made, seed=1)
    before = answers(made)
    (merged,) = merge(made)
    assert (merged.before, merged.after, merged.jobs) == (4, 1, 24)
    assert answers(made) == before


def test_a_result_superseded_meanwhile_stays_superseded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry.open(made.home.registry) as registry:
        victim = registry.catalogue.jobs(made.sweep.id)[3]

        def meanwhile(name: str, subject: object = "") -> None:
            if name == "compact.written":
                registry.sweeps.invalidate([victim.id], "an example")

        monkeypatch.setattr(compaction, "point", meanwhile)
        (merged,) = compact(made.home, registry, [made.sweep.id])
        assert (merged.jobs, merged.moved) == (24, 23)
        assert registry.catalogue.job(victim.identity).publication is None
    assert victim.identity not in answers(made)["runs"]["job"].to_pylist()
    assert audit(made.home) == []


def test_old_files_outlive_a_query_by_an_hour_and_then_are_garbage(made: Made) -> None:
    with Registry.open(made.home.registry) as registry:
        early = registry.catalogue.pointers(made.sweep.id)
    before = answers(made)
    old = {f"{name}.parquet" for name in counted_files(made)}
    merge(made)
    for path in made.home.results.rglob("*.parquet"):  # Written long ago: what counts is when they were replaced.
        os.utime(path, (1e9, 1e9))
    assert not garbage(made) & old
    assert ResultStore(made.home.results).read("runs", early) == before["runs"]
    assert not garbage(made, later=GRACE - 60) & old
    assert old <= garbage(made, later=GRACE + 60)
    (new,) = counted_files(made)
    assert f"{new}.parquet" not in garbage(made, later=1e9)


def test_a_reader_whose_files_are_gone_finds_where_they_went(made: Made) -> None:
    from qsweep.reports.source import RegistrySource

    with Registry.open(made.home.registry) as registry:
        source = RegistrySource(made.home, registry, made.sweep)
        before = source.read("runs")
        compact(made.home, registry, [made.sweep.id])
        collect_garbage(made.home, registry, now=time.time() + GRACE + 60)
        assert source.read("runs") == before
        assert source.read("layers").num_rows == 48


class Nap:
    """A compaction that falls asleep where it has written everything, and what happens meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], at: str = "compact.written"):
        def sleep(name: str, subject: object = "") -> None:
            if name == at:
                monkeypatch.setattr(compaction, "point", lambda name, subject="": None)
                meanwhile()

        monkeypatch.setattr(compaction, "point", sleep)


def collect(made: Made, *, later: float) -> set[str]:
    with Registry.open(made.home.registry) as registry:
        return {one.name for one in collect_garbage(made.home, registry, now=time.time() + later)}


def age(made: Made) -> None:
    for path in made.home.root.rglob("*"):
        os.utime(path, (1e9, 1e9))


def test_garbage_is_collected_beside_a_compaction_and_not_what_it_writes(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(made)
    zombies: set[str] = set()

    def meanwhile() -> None:
        age(made)
        zombies.update(collect(made, later=2 * GRACE))

    Nap(monkeypatch, meanwhile)
    (merged,) = merge(made)
    assert len(zombies) == 18  # the attempts that never counted, and nothing that is being written
    assert (merged.moved, len(counted_files(made))) == (24, 1)
    assert answers(made) == before
    assert collect(made, later=2 * GRACE)  # the old files, and they alone
    assert answers(made) == before
    assert audit(made.home) == []


def test_a_compaction_that_sleeps_beyond_its_lease_fails_and_loses_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch, execute: Callable[[str], list[Any]]
) -> None:
    before, old = answers(made), counted_files(made)

    def an_hour_later() -> None:
        execute("UPDATE writings SET expires = expires - 3600")
        age(made)
        assert any("compact-" in name for name in collect(made, later=3600))

    Nap(monkeypatch, an_hour_later)
    with pytest.raises(Overtaken, match="nothing is lost, merge again"):
        merge(made)
    assert counted_files(made) == old
    collect(made, later=2 * GRACE)
    assert answers(made) == before
    assert audit(made.home) == []
    assert merge(made)[0].moved == 24
    assert answers(made) == before


def test_pointers_move_to_no_file_that_is_gone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before, old = answers(made), counted_files(made)

    def lose() -> None:
        (path,) = made.home.results.glob("layers/compact-*.parquet")
        path.unlink()

    Nap(monkeypatch, lose)
    with pytest.raises(Overtaken, match="not where they were written"):
        merge(made)
    assert counted_files(made) == old
    assert answers(made) == before
    assert not list(made.home.results.rglob("compact-*"))  # what it wrote is gone with it


def test_a_compaction_that_fails_leaves_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    Nap(monkeypatch, full)
    with pytest.raises(OSError, match="No space left"):
        merge(made)
    assert not list(made.home.results.rglob("*compact-*"))
    with Registry.open(made.home.registry) as registry:
        assert not registry.results.holdings(lapsed=True).written


def test_what_was_invalidated_can_be_read_by_a_query_for_an_hour_more(made: Made) -> None:
    with Registry.open(made.home.registry) as registry:
        early = registry.catalogue.pointers(made.sweep.id)
        before = answers(made)
        age(made)
        registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(made.sweep.id)], "an example")
    collect(made, later=GRACE - 60)
    assert ResultStore(made.home.results).read("runs", early) == before["runs"]
    collect(made, later=GRACE + 60)
    assert not list(made.home.results.rglob("*.parquet"))


def test_damaged_files_are_left_out_and_the_rest_is_merged(made: Made) -> None:
    first, second = sorted(counted_files(made))[:2]
    path = made.home.results / "epochs" / f"{first}.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    path = made.home.results / "runs" / f"{second}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # of the rows, not of the footer
    path.write_bytes(content)
    (merged,) = merge(made)
    assert (merged.before, merged.after, merged.moved, merged.damaged) == (4, 1, 16, 2)


def test_files_of_a_newer_version_are_left_alone(made: Made) -> None:
    first = sorted(counted_files(made))[0]
    path = ResultStore(made.home.results).path("runs", first)
    table = pq.read_table(path)
    pq.write_table(table.append_column("sharpness", pa.array([0.5] * table.num_rows)), path)
    (merged,) = merge(made)
    assert (merged.before, merged.skipped) == (5, 1)
    assert first in counted_files(made)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "after"),
    [("compact.begun", 1), ("parquet.written", 2), ("parquet.renamed", 1), ("compact.written", 1),
     ("move.uncommitted", 1), ("compact.moved", 1), ("compact.committed", 1)],
)  # fmt: skip
def test_killed_anywhere_it_loses_nothing_and_can_be_repeated(
    made: Made, point: str, after: int, execute: Callable[[str], list[Any]]
) -> None:
    before = answers(made)
    with tempfile.TemporaryDirectory(prefix="qsc-") as folder:
        sockets = Path(folder)
        saboteur = Saboteur(
            socket=sockets / "s", plan=[Fault(action="kill", point=point, after=after)], lease=3.0, clock=sockets / "c"
        )
        try:
            extra = {"QSWEEP_FAULTS": str(sockets / "s"), "QSWEEP_REGISTRY": made.home.registry}
            killed = processes.run([*QSWEEP, "compact"], env=environment(made.home.root, extra), check=False)
        finally:
            saboteur.close()
    assert killed.returncode == -9
    assert [fault.point for fault in saboteur.fired] == [point]
    assert answers(made) == before
    assert audit(made.home) == []
    execute("UPDATE writings SET expires = expires - 3600")  # the lease of the one that was killed runs out
    merge(made)
    assert answers(made) == before
    assert len(counted_files(made)) == 1
    (kept,) = counted_files(made)
    with Registry.open(made.home.registry) as registry:
        collect_garbage(made.home, registry, now=time.time() + GRACE + 60)
    assert answers(made) == before
    assert {path.name for path in made.home.results.rglob("*") if path.is_file()} == {f"{kept}.parquet"}


def test_the_speeds_of_cohorts_are_known_after_it_as_before(made: Made) -> None:
    from qsweep.reports.speeds import ran_cohorts

    before = {(one.job.identity, one.members, one.slots, one.seconds) for one in ran_cohorts(made.home)}
    assert len(before) == 6
    merge(made)
    assert {(one.job.identity, one.members, one.slots, one.seconds) for one in ran_cohorts(made.home)} == before


def levels(made: Made) -> dict[int, int]:
    """How many publications of each level the registry knows."""
    with Registry.open(made.home.registry) as registry:
        rows = registry._database.look(lambda t: t.ask("SELECT level, count(*) FROM publications GROUP BY level"))
    return dict(sorted(rows))


def many(folder: Path, url: str, cohorts: int, *, more: int = 0) -> Made:
    """So many publications of four jobs each, and at least so many `more` of which the jobs still wait."""
    rates = [0.001 * (1 + number) for number in range((cohorts + more) * 4 // 24 + 1)]
    text = SWEEP.replace("epochs = 3", "epochs = 1").replace("[0.01]", str(rates))
    return work(launch(home_at(folder, url if "://" in url else f"sqlite:///{url}"), text), cohorts=cohorts)


def merge_as_agents_do(made: Made) -> int:
    with Registry.open(made.home.registry) as registry:
        return sum(1 for _ in iter(lambda: compaction.merge_next(made.home, registry), False))


def test_small_publications_are_merged_a_level_at_a_time(tmp_path: Path, url: str) -> None:
    made = many(tmp_path, url, 2 * FAN + 3, more=FAN)
    before = answers(made)
    assert levels(made) == {0: 2 * FAN + 3}
    assert merge_as_agents_do(made) == 1
    assert levels(made) == {1: 1}  # what is there is taken together, not by the dozen
    assert answers(made) == before
    work(made, cohorts=FAN - 1, seed=1)
    assert merge_as_agents_do(made) == 0
    assert levels(made) == {0: FAN - 1, 1: 1}
    assert audit(made.home) == []


def test_a_publication_that_is_full_is_rewritten_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qsweep.db import merges, publications

    monkeypatch.setattr(merges, "FULL", 16)
    monkeypatch.setattr(publications, "FAN", 4)
    monkeypatch.setattr(publications, "LEVELS", 2)
    monkeypatch.setattr(merges, "LEVELS", 2)
    made = many(tmp_path, str(tmp_path / "home" / "registry.db"), 17)
    before = answers(made)
    assert levels(made) == {1: 17}
    with Registry.open(made.home.registry) as registry:
        assert compaction.merge_next(made.home, registry)
    assert levels(made) == {1: 13, 2: 1}  # four of four jobs are sixteen: full
    assert answers(made) == before


def test_two_that_merge_at_once_take_different_publications(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers(made)
    others: list[int] = []

    def meanwhile() -> None:
        others.append(merge(made)[0].before)

    Nap(monkeypatch, meanwhile)
    (merged,) = merge(made)
    assert (merged.before, merged.moved, others) == (6, 24, [0])
    assert answers(made) == before
    assert audit(made.home) == []


def test_many_at_once_lose_nothing(tmp_path: Path, url: str) -> None:
    made = many(tmp_path, url, 3 * FAN)
    before = answers(made)
    with ThreadPoolExecutor(4) as pool:
        made_of = sum(pool.map(lambda _: merge_as_agents_do(made), range(4)))
    assert made_of >= 1
    assert sum(levels(made).values()) < FAN
    assert answers(made) == before
    assert audit(made.home) == []
    assert collect(made, later=2 * GRACE)
    assert answers(made) == before


def test_what_a_dead_merge_had_taken_is_free_when_its_lease_has_run_out(
    tmp_path: Path, url: str, execute: Callable[[str], list[Any]]
) -> None:
    made = many(tmp_path, url, FAN)
    with Registry.open(made.home.registry) as registry:
        assert registry.merges.take("compact-dead", "nobody")
        assert not registry.merges.is_due()
        assert registry.merges.take("compact-other", "somebody") is None
    execute("UPDATE writings SET expires = expires - 3600")
    assert merge_as_agents_do(made) == 1
    assert levels(made) == {1: 1}


def test_a_merge_that_is_told_to_end_gives_up_what_it_had_taken(made: Made, tmp_path: Path) -> None:
    made = many(tmp_path / "more", str(tmp_path / "more" / "home" / "registry.db"), FAN)
    before = answers(made)
    with Registry.open(made.home.registry) as registry:
        asked = iter([False, True])
        with pytest.raises(compaction.MergeStopped):
            compaction.merge_next(made.home, registry, lambda: next(asked))
        assert registry.merges.is_due()
    assert not list(made.home.results.rglob("*compact-*"))
    assert answers(made) == before


def test_a_result_that_is_counted_while_its_file_is_merged_is_kept(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, execute: Callable[[str], list[Any]]
) -> None:
    """A model that was asked for late is counted by a second finish, with the same publication."""
    made = many(tmp_path, url, FAN)
    before = answers(made)
    ((late, publication, identity),) = execute("SELECT id, publication, identity FROM jobs WHERE id = 1")
    execute(f"UPDATE jobs SET state = 'running', publication = NULL WHERE id = {late}")
    execute(f"UPDATE publications SET jobs = jobs - 1 WHERE publication = '{publication}'")

    def second_finish() -> None:
        execute(f"UPDATE jobs SET state = 'done', publication = '{publication}' WHERE id = {late}")
        execute(f"UPDATE publications SET jobs = jobs + 1 WHERE publication = '{publication}'")

    Nap(monkeypatch, second_finish)
    assert merge_as_agents_do(made) == 1
    assert levels(made) == {0: 1, 1: 1}
    assert answers(made) == before
    assert identity in answers(made)["runs"]["job"].to_pylist()


def test_publications_that_nothing_points_to_any_more_are_forgotten(tmp_path: Path, url: str) -> None:
    made = many(tmp_path, url, FAN)
    with Registry.open(made.home.registry) as registry:
        registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(made.sweep.id)], "an example")
    merge_as_agents_do(made)
    assert levels(made) == {}


def test_publications_that_cannot_be_merged_are_set_aside(tmp_path: Path) -> None:
    made = many(tmp_path, str(tmp_path / "home" / "registry.db"), FAN + 2)
    first, second = sorted(counted_files(made))[:2]
    path = made.home.results / "runs" / f"{first}.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    path = ResultStore(made.home.results).path("runs", second)
    table = pq.read_table(path)
    pq.write_table(table.append_column("later", pa.array([0.5] * table.num_rows)), path)
    assert merge_as_agents_do(made) == 1
    assert levels(made) == {-1: 2, 1: 1}
    assert {first, second} < counted_files(made)


def test_nothing_is_set_aside_while_the_store_is_away(tmp_path: Path) -> None:
    made = many(tmp_path, str(tmp_path / "home" / "registry.db"), FAN)
    made.home.results.rename(tmp_path / "away")
    with pytest.raises(DamagedResults, match=f"{FAN} of {FAN} results files"):
        merge_as_agents_do(made)
    (tmp_path / "away").rename(made.home.results)
    assert merge_as_agents_do(made) == 1
    assert levels(made) == {1: 1}


@pytest.mark.slow
def test_an_agent_that_nobody_has_launched_merges_as_it_goes(tmp_path: Path) -> None:
    made = many(tmp_path, str(tmp_path / "home" / "registry.db"), 2 * FAN)
    before = made.frame().set_index("job")
    ended = processes.run(
        [*QSWEEP, "worker"], env=environment(made.home.root), check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert any(one.startswith("compact-") for one in counted_files(made))
    assert sum(levels(made).values()) < FAN
    found = answers(made)["runs"].to_pandas().set_index("job")
    assert len(found) == made.sweep.size
    assert (found.train_loss[before.index] == before.train_loss).all()
