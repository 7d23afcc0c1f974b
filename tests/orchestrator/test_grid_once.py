"""A command expands the grid of its sweep at most once, and resolves each training of it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.home import Home
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec, _expanded
from qsweep.sweeps.training import Training
from tests.conftest import Qsweep
from tests.reports import made

MEASURES = """
[[measures]]
measure = "pac_bayes"
copies = 2
"""
TRAININGS = 24
"""In the sweep; each has one measure."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often a grid is walked, and a training made from settings."""
    counts: Counter[str] = Counter()
    walk, resolve = Spec._points, Training.__dict__["from_settings"].__func__

    def points(spec: Spec) -> Iterator[dict[str, Any]]:
        counts["grids"] += 1
        return walk(spec)

    def from_settings(cls: type[Training], given: Mapping[str, Any], *, place: str | None = None) -> Training:
        counts["trainings"] += 1
        resolved: Training = resolve(cls, given, place=place)
        return resolved

    monkeypatch.setattr(Spec, "_points", points)
    monkeypatch.setattr(Training, "from_settings", classmethod(from_settings))
    yield counts
    _expanded.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "grids", "trainings"),
    [
        ("plan {file}", 1, TRAININGS),
        ("launch {file} --code frozen", 1, TRAININGS),
        ("resume made", 1, TRAININGS),
        ("tables made", 1, TRAININGS),
        ("figures made --out figures", 1, TRAININGS),
        ("report made --out report.html", 1, TRAININGS),
        ("analyze made", 1, TRAININGS),
        ("tables --from exported", 1, TRAININGS),
        ("export made --out again", 0, 0),
        ("status made", 0, 0),
        ("jobs made", 0, 2 * TRAININGS),  # the registry's rows, as they are stored
    ],
)
def test_a_command_expands_the_grid_once(
    here: Qsweep, home: Path, counted: Counter[str], arguments: str, grids: int, trainings: int
) -> None:
    made.finished(Home.at(home), made.SWEEP + MEASURES)
    if "--from" in arguments:
        assert here("export", "made", "--out", "exported").returncode == 0
    counted.clear()
    _expanded.cache_clear()
    Job.from_json.cache_clear()
    answer = here(*arguments.format(file=home.parent / "made.toml").split())
    assert answer.returncode == 0, answer.stderr
    assert (counted["grids"], counted["trainings"]) == (grids, trainings)
