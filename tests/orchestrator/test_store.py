"""Results that lie elsewhere than in the home: named once, found by every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qsweep as api
from tests.conftest import Qsweep

SWEEP = ("launch", "digits-grid", "--set", "epochs=1", "--limit", "2", "--workers", "1")


@pytest.mark.slow
def test_results_at_a_url_are_found_by_every_command_and_the_home_keeps_none(
    qsweep: Qsweep, home: Path, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/bucket/sweeps"
    launched = qsweep(*SWEEP, "--results", url)
    assert launched.returncode == 0, launched.stderr
    assert "Table 1" in launched.stdout
    assert not list((home / "results").rglob("*.parquet"))
    assert list((tmp_path / "bucket" / "sweeps" / "runs").glob("*.parquet"))
    assert len(api.results("digits-grid", home=home)) == 2
    assert qsweep("tables", "digits-grid", "--against-paper").stdout == launched.stdout
    answer = qsweep("query", "SELECT count(*) AS n FROM runs", "--format", "json")
    assert json.loads(answer.stdout) == [{"n": 2}], answer.stderr
    assert qsweep("db", "check").returncode == 0
    watched = qsweep("status", "--watch", "--json")
    assert watched.returncode == 0, watched.stderr
    assert sum(one["models"] for one in json.loads(watched.stdout.splitlines()[-1])["means"].values()) == 2
    elsewhere = qsweep(*SWEEP, "--results", f"file://{tmp_path}/other")
    assert elsewhere.returncode == 2
    assert f"the results of this home lie in {url}" in elsewhere.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bucket/sweeps", "'bucket/sweeps' is no URL"),
        ("moon://bucket", "nothing can be written there"),
        ("file:///proc/sweeps", "nothing can be written there"),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_before_anything_is(
    qsweep: Qsweep, home: Path, url: str, message: str
) -> None:
    answer = qsweep(*SWEEP, "--results", url)
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    assert not home.exists()
