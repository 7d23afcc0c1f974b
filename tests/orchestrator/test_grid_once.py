"""A command expands the grid of its sweep at most once, and builds no job of it from its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.home import Home
from qsweep.sweeps.job import _ORDERS, Job
from qsweep.sweeps.spec import Axis, Point, Spec, _expanded
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

    def points(spec: Spec, axes: Sequence[Axis], point: Point = ()) -> Iterator[Point]:
        counts["grids"] += not point
        return walk(spec, axes, point)

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
        ("plan {file}", 1, 0),
        ("launch {file} --code frozen", 1, 0),
        ("resume made", 1, 0),
        ("tables made", 1, 0),
        ("figures made --out figures", 1, 0),
        ("report made --out report.html", 1, 0),
        ("analyze made", 1, 0),
        ("tables --from exported", 1, 0),
        ("export made --out again", 0, 0),
        ("status made", 0, 0),
        ("jobs made", 0, 8),  # one for each set of settings that stored jobs have: by optimizer, quantizer and kind
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
    _ORDERS.clear()
    answer = here(*arguments.format(file=home.parent / "made.toml").split())
    assert answer.returncode == 0, answer.stderr
    assert (counted["grids"], counted["trainings"]) == (grids, trainings)
