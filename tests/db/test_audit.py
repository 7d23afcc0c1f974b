"""An audit beside a running sweep reports what is broken or lost, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qsweep.db import audit as auditing
from qsweep.db.audit import audit
from qsweep.db.compaction import compact
from qsweep.db.garbage import GRACE, collect_garbage
from qsweep.db.home import STORE
from qsweep.db.losses import find_lost
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from tests.reports.made import Made, finished, home_at, work


@pytest.fixture
def made(tmp_path: Path, url: str) -> Made:
    return finished(home_at(tmp_path, url if "://" in url else f"sqlite:///{url}"), cohorts=3)


Meanwhile = Callable[[Made, Registry], object]


def finish_more(made: Made, registry: Registry) -> None:
    work(made, cohorts=1, seed=2)


def take_back(made: Made, registry: Registry) -> None:
    registry.sweeps.invalidate([row.id for row in registry.catalogue.jobs(made.sweep.id)[:4]], "an example")
    collect_garbage(made.home, registry, now=2e9)


def merge(made: Made, registry: Registry) -> None:
    compact(made.home, registry, [made.sweep.id])
    collect_garbage(made.home, registry, now=2e9 + GRACE)


def compute_again(made: Made, registry: Registry) -> None:
    take_back(made, registry)
    work(made, cohorts=1, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("meanwhile", [finish_more, take_back, merge, compute_again])
def test_what_happens_between_registry_and_files_is_no_violation(
    made: Made, monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile
) -> None:
    found: Any = find_lost

    def first_something_happens(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(auditing, "find_lost", found)
        with Registry.open(made.home.registry) as registry:
            meanwhile(made, registry)
        return found(*arguments, **options)

    monkeypatch.setattr(auditing, "find_lost", first_something_happens)
    assert audit(made.home) == []


def test_what_happens_while_the_registry_is_read_is_no_violation(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its reads the registry is changed, and it still tells of one moment."""
    from qsweep.db import lives

    read = lives._steps

    def beside_a_finish(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(lives, "_steps", read)
        thread = threading.Thread(target=work, args=(made,), kwargs={"cohorts": 1, "seed": 4})
        thread.start()
        thread.join()
        return read(*arguments, **options)

    monkeypatch.setattr(lives, "_steps", beside_a_finish)
    assert audit(made.home) == []


def test_what_is_lost_is_still_lost_at_the_second_look(made: Made) -> None:
    (path, *_) = sorted((made.home.results / "runs").glob("*-0*.parquet"))
    path.unlink()
    (line,) = audit(made.home)
    assert line.startswith(f"runs of 4 done jobs: {path} is gone: ")


def test_results_at_a_url_are_audited_too(made: Made, tmp_path: Path) -> None:
    made.home.results.rename(tmp_path / "bucket")
    (made.home.root / STORE).write_text(f"file://{tmp_path}/bucket\n")
    assert audit(made.home) == []
    store = ResultStore(made.home.store)
    (path, *_) = sorted((tmp_path / "bucket" / "epochs").glob("*-0*.parquet"))
    store.delete(f"epochs/{path.name}")
    (line,) = audit(made.home)
    assert line.startswith(f"epochs of 4 done jobs: {path} is gone: ")


def test_a_row_that_stands_twice_or_not_at_all_is_named(made: Made) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (first, second, *_) = sorted((made.home.results / "runs").glob("*-0*.parquet"))
    table = pq.read_table(first)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), first)
    pq.write_table(pq.read_table(second).slice(1), second)
    lines = audit(made.home)
    assert sorted(line.partition(f": {made.home.results}")[0] for line in lines) == ["runs of 1 done job"] * 2
    assert any("holds 2 rows of it, not one" in line for line in lines)
    assert any("holds 0 rows of it, not one" in line for line in lines)
